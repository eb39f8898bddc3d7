//! Tests of layouts and operations.
