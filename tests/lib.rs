//! Tests that cross crates: see `end_to_end.rs`.
