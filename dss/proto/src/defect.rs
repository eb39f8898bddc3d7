//! One-line defects behind a switch, to see that the model and the simulator catch what they are there for.
//!
//! Code asks [`planted`] at the place of a rule, of a hazard (HZ-n) or an invariant. Without the feature `defects`, which only
//! the test package turns on, the answer is a constant `false` and nothing is left of the question.
//! The switch belongs to a thread, because a simulated cluster and a model's transition run on one.

macro_rules! defects {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// A defect that can be planted; each breaks one rule in one line.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Defect {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Defect {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name, as the command line takes it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

defects! {
    /// HZ-4: a holder obeys an Invalidate whose conversion it has already left behind.
    ObeyStaleInvalidate,

    /// HZ-4: an order for the page that a node is still waiting for is taken for one of the page it has.
    NextBeforeGrant,
    /// The Done of a conversion that was chained does not end the one before it.
    DoneProvesNothing,

    // Recovery, time, fencing.
    /// HZ-1: the recovery set comes from dead streams alone, without the retention of living ones.
    RecoverDeadStreamsOnly,
    /// HZ-2: a page is surrendered while this node's own write of it is in flight.
    SurrenderWhileWriting,
    /// HZ-5: a notice about an older PSN takes newer changes out of the retention table.
    ForgetNewerChanges,
    /// HZ-9: a traversal does not move right when the parent is stale.
    TrustParent,
    /// HZ-10: the device is not flushed between the fence and the announcement of the view.
    ReadTailsBeforeFlush,
    /// HZ-10: the end of a dead stream is sealed in memory only.
    SealInMemoryOnly,
    /// HZ-10: groups of an earlier life of the stream are read.
    ReadEarlierLife,
    /// HZ-10: groups of an earlier lap of the ring are read.
    ReadEarlierLap,
    /// HZ-10: a group is read behind a gap.
    ReadBehindGap,
    /// HZ-11, DIR-3: an image leaves the node before its redo is durable.
    SurrenderBeforeRedo,
    /// HZ-11: a page is written back before its redo is durable.
    WriteBackBeforeRedo,
    /// HZ-11: an image waits for the begin of its last group, not for the end.
    WaitForGroupBegin,
    /// HZ-13: the commit SCN is taken before the transaction is published as committing.
    ScnBeforeCommitting,
    /// HZ-13: a reader takes a committing transaction for an active one.
    ReadPastCommitting,
    /// HZ-14: results leave although the lease is not valid.
    AnswerWithoutLease,
    /// HZ-14: a view is announced although its dead are not fenced.
    AnnounceUnfenced,
    /// HZ-15: a node that uses no snapshot tells no floor for the one it is asking for.
    FloorAfterFetch,
    /// HZ-15: a node that joins does not hold the horizon.
    JoinerWithoutFloor,
    /// HZ-16: who waits for a transaction that has ended is not answered.
    WaitForTheEnded,
    /// HZ-17: a free lock is proof of death although it was never seen held in that incarnation.
    TrustLockNeverSeenHeld,
    /// HZ-17: a lock counts as seen held although it was held on one of several volumes only.
    TrustLockOfOneVolume,
    /// HZ-17: a process is killed by its number alone.
    KillWithoutStartTime,
    /// HZ-18: of two entries that continue the journal, the deposed leader's is taken.
    FollowDeposedLeader,
    /// HZ-18: a new leader appends where the old one stopped, not in a fresh segment.
    AppendToOldSegment,
    /// HZ-19: a ballot block names a body that was not flushed before it.
    BallotBeforeBody,
    /// HZ-19: after a failed write a proposer goes on from the ballot block in its memory.
    TrustOwnBallotMemory,
    /// HZ-19: a proposer chooses its own value although another one was accepted.
    IgnoreAccepted,
    /// HZ-19: a node with storage and no network evicts those it does not hear.
    EvictTheUnheard,
    /// Torn pages: pages are written in place without a copy elsewhere.
    WriteInPlaceOnly,
    /// Torn pages: pages are written in place while their copy may not be durable.
    WriteInPlaceBeforeAreaFlushed,
    /// STO-2: a batch is reported written before the flush that follows.
    ReportWrittenBeforeFlush,
    /// WAL-1: redo counts as durable when it is written and not flushed.
    DurableBeforeFlush,
    /// WAL-3: ring space is reused before the header on storage gives it up.
    ReuseRingBeforeHeader,
    /// WAL-6: the horizon of the redo ignores what is not on storage.
    RecycleRedoEarly,
    /// REC-7: a dead stream is marked clean while its pages are not on storage.
    MarkStreamCleanEarly,
    /// NOD-2, WAL-4: a node opens its stream before its earlier life is recovered.
    OpenUncleanStream,
    /// TXN-1: a commit is acknowledged before its record is durable.
    AcknowledgeBeforeFlush,
    /// TXN-6: a new leader issues SCNs from what it heard, not above every ceiling.
    LeaderIgnoresCeilings,
    /// DSS-2: a metadata entry is answered before it is flushed.
    AnswerBeforeJournalFlush,
    /// DSS-6: a checkpoint claims to have what was appended while it was written.
    CheckpointClaimsMore,
    /// DSS-6: a leader that takes over knows of no checkpoint that was written since it loaded one.
    ForgetNewerCheckpoint,
    /// An entry of the journal that one of two legs has alone is believed by who follows.
    BelieveOneLeg,
    /// A ballot goes on with one of two legs, without the word of the members.
    BallotOnOneLeg,
    /// Members that do not answer are taken for dead when a leg is lost.
    SkipSilentMembers,

    // Page ownership: the directory and the possessions.
    /// HZ-4: a holder obeys a Transfer whose conversion it has already left behind.
    ObeyStaleTransfer,
    /// HZ-4: a node obeys an order to restore a retained image that is older than what it retains.
    ObeyStaleRestore,
    /// HZ-5: a home believes a Cleaned that was said before the duty began.
    ObeyStaleCleaned,
    /// DIR-1: the next conversion begins before the grant of the last one is Done.
    GrantTwice,
    /// DIR-1: one sharer is not asked to give the page up.
    SkipInvalidation,
    /// DIR-1: a conversion ends when the grant is sent, without Done.
    EndWithoutDone,
    /// DIR-7: Done is sent once, and not repeated.
    SendDoneOnce,
    /// DIR-2: a sharer that becomes owner is told to read storage.
    UpgradeFromStorage,
    /// DIR-5: a message of an earlier epoch is acted on.
    AcceptOldEpoch,
    /// DIR-6: a view change makes nodes forget the images they retain.
    ForgetRetained,
    /// HZ-3: a retained image counts as the page without being compared with storage.
    TrustRetained,
    /// DIR-6: a shipped image is not retained until Drop.
    RetainNothing,
    /// DIR-7: a page is given up without a word to the home.
    EvictWithoutRelease,
    /// A node asks for a page before the home has acknowledged its release.
    AcquireBeforeReleaseAck,
    /// A home acts on a release that overtook the Done of its sender.
    ReleaseBeforeDone,
    /// DIR-1: a directory is rebuilt without the claims of one survivor.
    RebuildWithoutOne,
    /// HZ-5: an image travels without the nodes that changed it.
    SkipContributors,
    /// DIR-4: all sharers inherit the duty of a dead dirty holder.
    EveryHeirInherits,
    /// DIR-2: pages of dead owners are granted before the analysis.
    OpenFrozen,
    /// DIR-2: the target of a frozen page is ignored: storage is taken for current.
    ForgetTarget,

    // Slots that move inside an epoch.
    /// LOC-1: a home begins conversions in a slot that it is handing over.
    StartWhileMoving,
    /// LOC-2: a home acts on a release after it has sent the slot away.
    ReleaseWhileMoving,
    /// LOC-3: a home acts on a request that was made before the slot left it and came back.
    ObeyEarlierVersion,
    /// LOC-4: a new home numbers its conversions without regard to those of the old one.
    ForgetConversionCounter,
    /// LOC-5: the home of a slot takes its directory for complete after a view change, although the slot had moved away.
    KeepMovedSlots,

    // Definitions beside writers.
    /// TXN-8: who changes a row does not wait for those that go on from what it was.
    ChangeBesideIntents,
    /// TXN-9: a tree is removed while older snapshots may read it.
    RemoveTreeAtOnce,

    // New lives of pages, and hints in them.
    /// HZ-6: the PSN of a page that is formatted again starts over.
    FormatStartsOver,
    /// HZ-6: the id of a removed file is given to a new one.
    ReuseFileId,
    /// HZ-12: a prune leaves versions without a stamp alone, so redo, which knows no stamps, does something else than the run did.
    PruneStampedOnly,
    /// HZ-12: the version of an ended writer that carries no stamp, as redo restores it, counts as aborted.
    UnstampedIsAborted,

    // Copy images.
    /// HZ-8: a node that has given the page up serves copies of the image that it retained.
    CopyAfterGivingUp,
    /// HZ-8: a copy that was asked for earlier is taken for the answer to a later question, for a later snapshot.
    TakeEarlierCopy,
    /// HZ-8: a copy is read after a view change.
    CopyAcrossView,
    /// HZ-8: a reader's copy is kept, and read under later snapshots.
    KeepCopies,

    // Pages on their way.
    /// BUF-14: the frame of a page that did not come whole is not free again.
    KeepArrivingFrame,

    // Files that programs use.
    /// HZ-7: a removed file is freed although a member still has it open.
    FreeOpenFiles,
    /// HZ-7: units that were cut off a file are free at once.
    FreeCutUnits,
    /// Units go into a file with what they had before.
    AttachUnzeroed,
    /// Units go into a file when their zeros are written and not flushed.
    AttachBeforeFlush,
    /// A file grows over what a cut left in its last unit.
    GrowOverTail,
    /// Two nodes append to one file at the same time.
    AppendTogether,

    // Volumes.
    /// HZ-7: units are discarded before every member let go of them.
    DiscardBeforePassed,
    /// HZ-7: units are free while a device still discards them.
    AllocateBesideDiscard,
    /// HZ-7: a leader goes on discarding when somebody else leads.
    DiscardAsDeposed,
    /// HZ-7: units are copied while members may still write to them.
    CopyBesideWriters,
    /// HZ-7: units that moved are written at the new place, and the old ones used again, before every member knows.
    ThawBeforeEverybodySwitched,

    // Mirrored volumes.
    /// HZ-21: both legs are written without an intent.
    WriteWithoutIntent,
    /// HZ-21: an intent goes when its last write is done, before both legs are flushed.
    ClearIntentBeforeFlush,
    /// HZ-21: the intents of a life that is over are forgotten.
    ForgetIntentsOfDead,
    /// HZ-21: torn units are read and written.
    ReadTornUnits,
    /// DSS-9: what a member knows of torn units is trusted before the entry of the view's leader is read.
    TrustMapBeforeLead,
    /// HZ-21: torn units are compared while the living may still write there.
    HealBesideWriters,
    /// A write that missed a leg is acknowledged before every member knows that the leg does not count.
    AcknowledgeBeforePassed,
    /// What may have been written on one side is not dirty when a leg is detached.
    ForgetHalfWritten,
    /// One leg is written alone before the unit is dirty.
    WriteBeforeDirty,
    /// Dirty units are copied to a returning leg while members write there.
    SyncBesideWriters,
    /// MIR-13: wrong bytes of one leg are written again while members write there.
    MendBesideWriters,
    /// MIR-14: where the legs differ, checksums are not asked which is right before one is written over the other.
    CopyWithoutChecksum,

    // Devices in the place of lost ones.
    /// MIR-17: a blank device that takes the place of a lost leg counts as if it had everything.
    TakeBlankForWhole,
    /// MIR-17: a node that did not see the change goes on with the device that it has open as that leg.
    KeepReplacedOpen,
}

impl Defect {
    /// The defect of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|defect| defect.name() == name)
    }
}

#[cfg(feature = "defects")]
mod switch {
    use super::Defect;
    use core::cell::Cell;

    std::thread_local! {
        static PLANTED: Cell<Option<Defect>> = const { Cell::new(None) };
    }

    /// Plants a defect in what this thread runs from now on, or none.
    pub fn plant(defect: Option<Defect>) {
        PLANTED.set(defect);
    }

    /// Whether this defect is planted here.
    pub fn planted(defect: Defect) -> bool {
        PLANTED.get() == Some(defect)
    }

    /// Whether `test`, run on this thread, fails once `defect` is planted: a test of a rule has to.
    pub fn fails_with(defect: Defect, test: fn()) -> bool {
        plant(Some(defect));
        let result = std::panic::catch_unwind(test);
        plant(None);
        result.is_err()
    }
}

#[cfg(not(feature = "defects"))]
mod switch {
    use super::Defect;

    /// Whether this defect is planted here: never, without the feature.
    #[inline(always)]
    pub const fn planted(_: Defect) -> bool {
        false
    }
}

pub use switch::planted;
#[cfg(feature = "defects")]
pub use switch::{fails_with, plant};
