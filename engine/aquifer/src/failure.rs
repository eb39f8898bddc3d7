//! How a command ends: the documented exit codes and the one line that says what to do next.

use std::fmt;

/// Exit codes of every command (docs/operations.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed; nothing more precise applies.
    Failed = 1,
    /// Wrong usage: something that was typed or configured.
    Usage = 2,
    /// Done or running, but something is degraded.
    Degraded = 3,
    /// A node, port or device cannot be reached or is taken.
    Unavailable = 4,
    /// The outcome is not known.
    Unknown = 5,
    /// Refused, because going on could destroy data or run two lives of one node.
    Refused = 6,
}

impl Exit {
    /// The exit of a code that another process or node reported.
    pub fn from_code(code: i32) -> Self {
        match code {
            0 => Self::Done,
            2 => Self::Usage,
            3 => Self::Degraded,
            4 => Self::Unavailable,
            5 => Self::Unknown,
            6 => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// Why a command did not do its work.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Exit code of the process.
    pub exit: Exit,
    /// One line: what is wrong, and what to do next.
    pub message: String,
}

impl Failure {
    /// A failure with its exit code. Line ends are folded so that it stays one line.
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        let message = message
            .split('\n')
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect::<Vec<_>>()
            .join("; ");
        Self { exit, message }
    }

    /// Exit 1.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Exit 2.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Exit 4.
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self::new(Exit::Unavailable, message)
    }

    /// Exit 6.
    pub fn refused(message: impl fmt::Display) -> Self {
        Self::new(Exit::Refused, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What every command returns: how it ended when it did its work.
pub type Outcome = Result<Exit, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let failure = Failure::failed("first\n  second\n\n");
        assert_eq!(failure.message, "first; second");
    }

    #[test]
    fn codes_survive_a_round_trip() {
        for code in 0..=6 {
            assert_eq!(Exit::from_code(code) as i32, code);
        }
        assert_eq!(Exit::from_code(101), Exit::Failed);
    }
}
