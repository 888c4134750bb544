//! Trainer for equilibrium image classifiers: the library behind the program `mopteq`.
//!
//! One training run is a [`TrainConfig`](config::TrainConfig), a [`RunFolder`](run::RunFolder)
//! and a [`Task`](train::Task); afterwards everything the run did can be read from the
//! folder, and [`Predictor`](predict::Predictor) classifies pictures with it. Tensors, gradients,
//! optimisers and the dashboard are Burn's; this crate adds what it leaves open:
//! training that can stop and go on exactly after any batch, data that are a function of seed and
//! position, checkpoints of which only whole ones are ever seen, and errors that name the file and
//! the remedy.
//!
//! The library prints nothing but training progress and warnings ([`progress`]).

// The READMEs' examples are compiled with the tests: that of this crate and that of the workspace.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../../../README.md")]
struct Readme;

pub mod bench;
pub mod card;
pub mod certify;
pub mod checkpoint;
pub mod classifier;
pub mod config;
pub mod crash;
#[cfg(feature = "dashboard")]
mod dashboard;
pub mod data;
pub mod device;
mod error;
pub mod evaluate;
mod events;
pub mod files;
pub mod history;
pub mod inspect;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod onnx;
pub mod parts;
pub mod predict;
mod presets;
pub mod progress;
pub mod report;
pub mod run;
pub mod schedule;
mod seed;
pub mod serve;
pub mod settings;
pub mod ship;
pub mod solves;
pub mod train;

pub use error::Error;
pub use presets::Preset;
