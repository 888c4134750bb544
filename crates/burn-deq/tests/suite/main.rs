//! Tests of the public interface, on Flex in f64 unless they say otherwise.

mod freezing;
mod gradients;
mod jacobian;
mod matrix;
mod problems;
mod robustness;
mod solvers;
mod support;
mod termination;
mod wgpu;
