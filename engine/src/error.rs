//! What a statement can fail with, and the SQLSTATE of each.

use aquifer_buffer_pool_proto::PageId;

/// Why an operation of a transaction failed. Unless a variant says otherwise the transaction can only be rolled back.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A row with this key exists. The transaction is unharmed: the caller decides.
    #[error("a row with this key already exists")]
    DuplicateKey,
    /// Under snapshot isolation somebody else changed the row after the snapshot was taken.
    #[error("could not serialize access due to concurrent update")]
    SerializationFailure,
    /// This transaction was chosen to end a deadlock.
    #[error("deadlock detected")]
    Deadlock,
    /// A row lock was not given within the limit.
    #[error("canceling statement due to lock timeout")]
    LockTimeout,
    /// The version this snapshot needs had to be dropped to make room.
    #[error("snapshot too old: the version this transaction needs is gone; start it again")]
    SnapshotTooOld,
    /// A page failed its checksum and could not be rebuilt. The node keeps serving the rest.
    #[error("page {} of file {} is corrupt and could not be rebuilt; the log says why", .0.number, .0.file.0)]
    Corrupt(PageId),
    /// The volume group has no room left.
    #[error("no space left in the volume group: add a volume")]
    NoSpace,
    /// A key or value is larger than a leaf can keep.
    #[error("{what} of {length} bytes is longer than the limit of {limit} bytes")]
    TooLarge {
        /// "key" or "value".
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The node cannot serve now: no view, stopping, or storage is gone. Nothing was changed by this call.
    #[error("this node cannot serve now: {0}")]
    Unavailable(String),
    /// The commit was sent to the device but its outcome could not be learned.
    #[error("the outcome of the commit is unknown: {0}")]
    OutcomeUnknown(String),
    /// The tree does not exist (any more).
    #[error("no such tree")]
    NoSuchTree,
    /// The operation does not fit the state of the transaction (already ended, no such savepoint).
    #[error("{0}")]
    State(&'static str),
}

impl Error {
    /// PostgreSQL's five-character code.
    pub const fn sqlstate(&self) -> &'static str {
        match self {
            Self::DuplicateKey => "23505",
            Self::SerializationFailure => "40001",
            Self::Deadlock => "40P01",
            Self::LockTimeout => "55P03",
            Self::SnapshotTooOld => "72000",
            Self::Corrupt(_) => "XX001",
            Self::NoSpace => "53100",
            Self::TooLarge { .. } => "54000",
            Self::Unavailable(_) => "57P03",
            Self::OutcomeUnknown(_) => "08007",
            Self::NoSuchTree => "42P01",
            Self::State(_) => "25000",
        }
    }

    /// Whether running the whole transaction again can succeed.
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::SerializationFailure
                | Self::Deadlock
                | Self::LockTimeout
                | Self::SnapshotTooOld
                | Self::Unavailable(_)
        )
    }
}
