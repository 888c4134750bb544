//! The benchmarks are next to this file.
