//! Small programs, one idea each: run one with `cargo run --release -p examples --example NAME`.
