//! The transport of production.
