//! See the benchmarks beside this file.
