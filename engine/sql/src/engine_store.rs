//! The store of a node: a thin adapter to the engine's transactions.
