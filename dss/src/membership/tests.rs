//! Whole drivers in virtual time.
