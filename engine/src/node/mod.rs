//! One node: its parts put together, and what it does when a view is installed.

mod router;

pub use router::Router;
