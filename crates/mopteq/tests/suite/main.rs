//! Tests of the public interface, on Flex in f64 unless stated otherwise.

mod backward;
mod certificates;
mod coding;
mod config;
mod constraints;
mod diagnostics;
mod gradients;
mod graph;
mod interchange;
mod mdeq;
mod models;
mod multi_view;
mod native;
mod objective;
mod perturbation;
mod pytorch;
mod support;
mod terms;
mod wgpu;
mod whole_solves;
