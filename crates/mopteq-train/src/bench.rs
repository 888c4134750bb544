//! How fast batches are prepared, and how fast they are trained on.

use std::time::Instant;

use burn::optim::SgdConfig;
use serde::Serialize;

use crate::Error;
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::crash;
use crate::data::{DataSet, Loader, PictureBatcher};
use crate::device::SelectedDevice;
use crate::evaluate::batcher;
use crate::predict::PredictError;

/// Batches the loader prepares for its measurement, at most.
const LOADED: usize = 200;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Pictures that the loader augments, normalises and stacks in a second, all workers
    /// together and nothing else at work.
    pub loader_pictures_per_second: f64,
    /// Pictures that are trained on in a second, their batches prepared beforehand.
    pub training_pictures_per_second: f64,
    /// Median time of a training step, in seconds.
    pub step_seconds: f64,
}

/// Measures loader and training step, each on its own.
///
/// # Errors
///
/// When the model refuses its config or the device fails.
pub fn measure(
    config: &TrainConfig,
    data: &DataSet,
    device: &SelectedDevice,
    steps: usize,
) -> Result<Measured, Error> {
    let mut pictures = data.train.clone();
    pictures.truncate(config.limit.unwrap_or(usize::MAX));
    let batcher = PictureBatcher {
        augmentation: config.augmentation.clone(),
        ..batcher(config)
    };
    let workers = config.workers;
    let loader = Loader::new(
        pictures.into(),
        batcher,
        config.batch_size,
        config.seed,
        workers,
    );

    let started = Instant::now();
    let mut loaded = 0;
    for batch in loader.epoch(1, 0).take(LOADED) {
        loaded += batch?.len();
    }
    let loader_rate = loaded as f64 / started.elapsed().as_secs_f64();

    let batches: Vec<_> = loader
        .epoch(1, 0)
        .take(steps + 1)
        .collect::<Result<_, _>>()?;
    let autodiff = device.device.clone().autodiff();
    let model = Classifier::new(config, &autodiff)?.materialised();
    let train = || -> Result<(Vec<f64>, usize), String> {
        let (mut model, mut optimizer) = (model, SgdConfig::new().init());
        let (mut seconds, mut count) = (Vec::new(), 0);
        // A few pictures may make fewer batches than steps are wanted.
        for index in 0..=steps {
            let raw = batches[index % batches.len()].clone();
            let pictures = raw.len();
            let started = Instant::now();
            let step = model.step(raw.to_device(&autodiff));
            model = optimizer.step(1e-4, model, step.gradients);
            // Reading the loss waits for all that was queued before it.
            step.item
                .loss
                .into_data()
                .try_into_vec_as::<f32>()
                .map_err(|e| e.to_string())?;
            device.device.sync().map_err(|e| e.to_string())?;
            // The first step compiles and tunes kernels.
            if index > 0 {
                seconds.push(started.elapsed().as_secs_f64());
                count += pictures;
            }
        }
        Ok((seconds, count))
    };
    let (mut seconds, count) = crash::catch(train)
        .and_then(|result| {
            result.map_err(|message| crash::Crash {
                message,
                backtrace: String::new(),
            })
        })
        .map_err(PredictError::from)?;
    let total: f64 = seconds.iter().sum();
    seconds.sort_by(f64::total_cmp);
    Ok(Measured {
        loader_pictures_per_second: loader_rate,
        training_pictures_per_second: count as f64 / total,
        step_seconds: seconds[seconds.len() / 2],
    })
}
