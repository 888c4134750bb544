//! Tests of the public interface, on Flex in f64 unless they say otherwise.

mod gradients;
mod robustness;
mod solvers;
mod support;
mod wgpu;
