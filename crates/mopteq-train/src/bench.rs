//! How fast batches are prepared, and how fast they are trained on.

use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, SgdConfig};
use burn::prelude::*;
use serde::Serialize;

use crate::Error;
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::crash;
use crate::data::{DataSet, Loader, PictureBatcher, Sample};
use crate::device::{SelectedDevice, compiled_kernels};
use crate::evaluate::{batcher, infer};
use crate::predict::PredictError;

/// Batches the loader prepares for its measurement, at most.
const LOADED: usize = 200;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Pictures that the loader augments, normalises and stacks per second, with all workers
    /// together and nothing else at work.
    pub loader_pictures_per_second: f64,
    /// Pictures that are trained on per second, with their batches prepared beforehand.
    pub training_pictures_per_second: f64,
    /// Median time of a training step, in seconds.
    pub step_seconds: f64,
    /// Time from the model's construction to the end of the first step, in seconds. It includes the
    /// compilation and tuning of a GPU's kernels, unless these were kept.
    pub first_step_seconds: f64,
    /// Kernels that the whole process compiled up to the end of the first step.
    pub compiled: usize,
    /// Launches of a step, kernel by kernel; empty on a CPU.
    pub launches: Vec<KernelLaunches>,
}

/// Seconds of each step, pictures, seconds and compiled kernels of the first step, launches.
type Timed = (Vec<f64>, usize, (f64, usize), Vec<KernelLaunches>);

/// Launches of one kernel in a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelLaunches {
    /// Its name.
    pub kernel: String,
    /// Launches.
    pub count: usize,
    /// Seconds on the device, all of them together.
    pub seconds: f64,
}

/// Counts and times the kernel launches of a step, if there are any.
fn launches(
    device: &Device,
    step: impl FnOnce() -> Result<(), String>,
) -> Result<Vec<KernelLaunches>, String> {
    #[cfg(feature = "gpu")]
    if deq_kernels::compiles_at_run_time(device) {
        let (result, seen) = deq_kernels::watch_launches(true, step);
        result?;
        let launches = seen.into_iter().map(|launches| KernelLaunches {
            kernel: launches.kernel,
            count: launches.count,
            seconds: launches.seconds,
        });
        return Ok(launches.collect());
    }
    let _ = (device, step);
    Ok(Vec::new())
}

/// Measures the loader and the training step, each on its own.
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
    )
    .in_whole_batches(deq_kernels::compiles_at_run_time(&device.device));

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
    let begun = Instant::now();
    let autodiff = device.device.clone().autodiff();
    let model = Classifier::new(config, &autodiff)?.materialised();
    let train = || -> Result<Timed, String> {
        let mut trained = Some((model, SgdConfig::new().init()));
        let (mut seconds, mut count, mut first, mut compiled) = (Vec::new(), 0, 0.0, 0);
        let mut step = |index: usize| -> Result<usize, String> {
            // A small data set may give fewer batches than the number of steps.
            let raw = batches[index % batches.len()].clone();
            let pictures = raw.len();
            let (mut model, mut optimizer) = trained.take().ok_or("a step failed")?;
            let step = model.step(raw.to_device(&autodiff));
            model = optimizer.step(1e-4, model, step.gradients);
            // Reading the loss waits for everything that was queued before it.
            step.item
                .loss
                .into_data()
                .try_into_vec_as::<f32>()
                .map_err(|e| e.to_string())?;
            device.device.sync().map_err(|e| e.to_string())?;
            trained = Some((model, optimizer));
            Ok(pictures)
        };
        for index in 0..=steps {
            let started = Instant::now();
            let pictures = step(index)?;
            // The first step compiles and tunes kernels.
            if index == 0 {
                first = begun.elapsed().as_secs_f64();
                compiled = compiled_kernels();
            } else {
                seconds.push(started.elapsed().as_secs_f64());
                count += pictures;
            }
        }
        let launches = launches(&device.device, || step(0).map(drop))?;
        Ok((seconds, count, (first, compiled), launches))
    };
    let (mut seconds, count, (first, compiled), launches) = crash::catch(train)
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
        first_step_seconds: first,
        compiled,
        launches,
    })
}

/// Trains on a batch and evaluates one, so that all kernels for them are compiled and tuned.
///
/// # Errors
///
/// As [`measure`].
pub fn warm_up(config: &TrainConfig, data: &DataSet, device: &SelectedDevice) -> Result<(), Error> {
    measure(config, data, device, 1)?;
    let model = Classifier::new(config, &device.device)?;
    let pictures = &data.train[..data.train.len().min(config.batch_size)];
    infer(&model, config, pictures, &device.device).map_err(PredictError::from)?;
    Ok(())
}

/// How far the results of a device are from those of another one, on the same batch with the same
/// parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// |loss - loss there| / |loss there|.
    pub loss: f64,
    /// |gradient - gradient there| / |gradient there|, all parameters as one vector.
    pub gradient: f64,
}

/// Compares loss and gradients of the first batch on a device with those on another. Both solve to
/// a relative tolerance of 1e-5 and without noise.
///
/// # Errors
///
/// As [`measure`].
pub fn agreement(
    config: &TrainConfig,
    data: &DataSet,
    [device, other]: [&SelectedDevice; 2],
) -> Result<Agreement, Error> {
    let mut config = config.clone();
    if let Some(model) = config.model.mopteqs_mut() {
        model.perturbation.size = 0.0;
    }
    for equilibrium in config.equilibria_mut() {
        equilibrium.forward.termination.relative = 1e-5;
        equilibrium.forward.termination.max_steps = 100;
        equilibrium.gradient = Default::default();
    }
    let mut pictures = data.train.clone();
    pictures.truncate(config.batch_size);
    let batcher = batcher(&config);
    let samples: Vec<_> = pictures
        .iter()
        .map(|picture| Sample {
            picture,
            augmentation: None,
        })
        .collect();
    let raw = batcher.stack(&samples)?;
    let record = Classifier::new(&config, &other.device)?
        .materialised()
        .into_record();
    let run = |device: &SelectedDevice| -> Result<(f64, Vec<f64>), Error> {
        let autodiff = device.device.clone().autodiff();
        let model = Classifier::new(&config, &autodiff)?.load_record(record.clone());
        let compute = || {
            let step = model.step(raw.clone().to_device(&autodiff));
            let loss = step.item.loss.into_data().try_into_vec_as::<f64>();
            let loss = loss.map_err(|e| e.to_string())?[0];
            Ok((loss, gradient_values(&model, &step.gradients)?))
        };
        let result = crash::catch(compute).and_then(|result| {
            result.map_err(|message: String| crash::Crash {
                message,
                backtrace: String::new(),
            })
        });
        Ok(result.map_err(PredictError::from)?)
    };
    let ((loss, gradient), (loss_there, there)) = (run(device)?, run(other)?);
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut gradient.iter().zip(&there).map(|(a, b)| a - b));
    Ok(Agreement {
        loss: (loss - loss_there).abs() / loss_there.abs(),
        gradient: difference / norm(&mut there.iter().copied()),
    })
}

fn gradient_values(model: &Classifier, gradients: &GradientsParams) -> Result<Vec<f64>, String> {
    struct Collect<'a> {
        gradients: &'a GradientsParams,
        values: Result<Vec<f64>, String>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let (Some(gradient), Ok(values)) =
                (self.gradients.get::<D>(param.id), &mut self.values)
            {
                match gradient.into_data().try_into_vec_as::<f64>() {
                    Ok(some) => values.extend(some),
                    Err(error) => self.values = Err(error.to_string()),
                }
            }
        }
    }
    let mut collect = Collect {
        gradients,
        values: Ok(Vec::new()),
    };
    model.visit(&mut collect);
    collect.values
}
