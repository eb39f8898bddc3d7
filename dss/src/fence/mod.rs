//! Fencing of processes on one machine, by locks on the shared device.
