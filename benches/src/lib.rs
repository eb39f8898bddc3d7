//! Criterion benches of the hot paths: `cargo bench -p aquifer-benches`. What compares with the physical limits of a
//! machine or with other nodes is in the binary: `aquifer bench`.
