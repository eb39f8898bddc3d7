//! The integration tests of the package: one binary, so that nothing is linked twice.

mod simulator;
mod smoke;
mod workloads;
