//! Tests of the public interface, on Flex in f64 unless stated otherwise.
#![allow(clippy::print_stdout, reason = "tests print what they measure")]

mod freezing;
mod gradients;
mod jacobian;
mod matrix;
mod normalization;
mod outputs;
mod own;
mod paths;
mod problems;
mod random_maps;
mod robustness;
mod runaway;
mod solvers;
mod support;
mod termination;
mod wgpu;
