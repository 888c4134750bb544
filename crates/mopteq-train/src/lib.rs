//! Trainer for equilibrium image classifiers: the library behind the program `mopteq`.
//!
//! One training run is a [`TrainConfig`](config::TrainConfig), a [`RunFolder`](run::RunFolder)
//! and a [`Task`](train::Task); afterwards everything the run did can be read from the
//! folder, and [`Predictor`](predict::Predictor) classifies pictures with it. Burn's
//! `SupervisedTraining` does the training; this crate adds what it leaves open: data that is
//! reproducible from (seed, epoch), checkpoints of which only complete ones are ever used, metrics
//! that survive a kill, and errors that name the file and the remedy.
//!
//! The library prints nothing but training progress and warnings ([`progress`]).

pub mod checkpoint;
pub mod classifier;
pub mod config;
pub mod crash;
pub mod curves;
pub mod data;
pub mod device;
mod error;
pub mod evaluate;
pub mod history;
pub mod metrics;
pub mod predict;
pub mod progress;
pub mod run;
pub mod schedule;
mod seed;
pub mod train;

pub use error::Error;
