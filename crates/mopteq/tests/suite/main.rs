//! Tests of the public interface, on Flex in f64 unless they say otherwise.

mod config;
mod gradients;
mod objective;
mod support;
mod wgpu;
