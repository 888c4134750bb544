//! Trainer for equilibrium image classifiers: the library behind the program `mopteq`.
//!
//! One training run is a [`TrainConfig`], a [`RunFolder`] and a [`Task`]. Afterwards, the folder
//! holds everything the run did, and [`Predictor`] classifies pictures with it. Tensors, gradients,
//! optimisers and the dashboard are Burn's. This crate adds what Burn leaves open: training that
//! can stop and resume exactly after any batch, data that are a function of seed and position,
//! checkpoints that are only ever visible when complete, and errors that name the file and the
//! remedy.
//!
//! The library prints nothing but training progress and warnings. [`program`] is the whole program.

// The examples in the READMEs of this crate and of the workspace are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../../../README.md")]
struct Readme;

mod bench;
mod card;
mod certify;
mod checkpoint;
mod classifier;
mod cli;
mod config;
mod crash;
#[cfg(feature = "dashboard")]
mod dashboard;
pub mod data;
pub mod device;
mod error;
mod evaluate;
mod events;
mod files;
mod history;
mod inspect;
mod memory;
mod metrics;
mod moved;
mod names;
mod onnx;
mod parts;
mod predict;
mod presets;
mod progress;
mod report;
mod run;
mod schedule;
mod seed;
mod serve;
mod settings;
mod ship;
mod solves;
mod train;

pub use bench::{Measured, measure};
pub use checkpoint::{Position, Which};
pub use classifier::Classifier;
pub use cli::program::program;
pub use config::{ConfigError, EarlySolver, ScheduleKind, TrainConfig};
pub use error::Error;
pub use evaluate::{Details, Scores, batcher};
pub use history::{EpochRow, History};
pub use memory::keep_freed_memory;
pub use predict::{Answer, Likelihood, Predictor};
pub use presets::Preset;
pub use progress::View;
pub use run::{RunError, RunFolder, Summary};
pub use settings::{apply as apply_settings, nested as nested_setting};
pub use solves::{LayerStats, SolveStats};
pub use train::{StopFlag, Task, TrainError};
