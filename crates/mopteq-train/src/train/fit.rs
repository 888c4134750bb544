//! The training loop.
//!
//! This loop can stop, save and go on after any batch. Gradients and the optimiser are Burn's.

use std::time::{Duration, Instant};

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::prelude::*;
use burn::store::ModuleRecord;
use burn::tensor::TensorReadError;

use super::measure::Pending;
use super::parameters::{are_finite, average, clip, decay, scale};
use super::team::Team;
use super::{StopFlag, Task, TrainError};
use crate::Error;
use crate::checkpoint::{self, Position, Snapshot, State};
use crate::classifier::{Classifier, TrainingStep};
use crate::crash::Crash;
#[cfg(feature = "dashboard")]
use crate::dashboard::display;
use crate::data::{Batch, Loader, PictureBatcher, RawBatch};
use crate::evaluate::{batcher, evaluate, infer};
use crate::events::{self, EventLog};
use crate::history::{EpochRow, History};
use crate::metrics;
#[cfg(not(feature = "dashboard"))]
use crate::progress::display;
use crate::progress::{Display, Extent, View};
use crate::run::RunFolder;
use crate::schedule::Schedule;
use crate::seed::{Stream, derive};

/// Batches after which the generator of the model's noise gets a new seed within an epoch. A resumed
/// training repeats at most this many batches to find the generator's position.
const NOISE_BLOCK: usize = 100;
/// Pictures that a model is tried on before it is saved.
const PROBED: usize = 4;

/// A training at work.
pub(super) struct Fit<'a> {
    task: &'a Task,
    run: &'a RunFolder,
    history: &'a mut History,
    state: State,
    model: Classifier,
    ema: Option<Classifier>,
    optimizer: ModuleOptimizer,
    loader: Loader,
    schedule: Schedule,
    /// Of the first device, with autodiff.
    device: Device,
    /// Several devices share a batch.
    team: Option<Team>,
    /// Gradients of the batches since the last step, and their pictures.
    gradients: GradientsAccumulator<Classifier>,
    gathered: usize,
    /// What was measured since it was last read, and the norms of the gradients.
    pending: Vec<Pending>,
    norms: Vec<Tensor<1>>,
    saved: Instant,
    /// What TensorBoard reads, if it was asked for.
    events: Option<EventLog>,
}

impl<'a> Fit<'a> {
    pub(super) fn new(
        task: &'a Task,
        run: &'a RunFolder,
        start: Position,
        history: &'a mut History,
    ) -> Result<Self, Error> {
        let config = &task.config;
        let devices: Vec<Device> = task
            .devices
            .iter()
            .map(|selected| selected.device.clone().autodiff())
            .collect();
        let device = devices[0].clone();
        let fresh = task.new_model(&device)?;
        let with_ema = config.ema > 0.0;
        // The weights that a run starts from are its first checkpoint.
        let new = start == Position::default() && !checkpoint::path(run, start).exists();
        let (state, model, ema, optimizer) = if new {
            let ema = with_ema.then(|| fresh.valid());
            (State::default(), fresh, ema, task.optimizer())
        } else {
            let optimizer = task.optimizer();
            let restored = checkpoint::restore(run, start, fresh, optimizer, with_ema)?;
            let (ema, optimizer) = (restored.ema, restored.optimizer);
            (restored.state, restored.model, ema, optimizer)
        };
        let batcher = PictureBatcher {
            augmentation: config.augmentation.clone(),
            ..batcher(config)
        };
        let pictures = task.train.clone();
        let workers = config.workers;
        let loader = Loader::new(pictures, batcher, config.batch_size, config.seed, workers)
            .in_whole_batches(devices.iter().any(deq_kernels::compiles_at_run_time));
        let steps = loader.batches().div_ceil(config.accumulation) * config.epochs;
        let events = match task.log_events || events::are_kept(run) {
            true => Some(EventLog::open(run, batches(start, &loader))?),
            false => None,
        };
        Ok(Self {
            task,
            run,
            history,
            state,
            model,
            ema,
            optimizer,
            schedule: Schedule::new(config, steps),
            loader,
            team: (devices.len() > 1).then(|| Team::new(&devices)),
            device,
            gradients: GradientsAccumulator::new(),
            gathered: 0,
            pending: Vec::new(),
            norms: Vec::new(),
            saved: Instant::now(),
            events,
        })
    }

    /// Trains until the last epoch, early stopping or a wish to stop; says where it got to. There
    /// is a checkpoint of that place then.
    pub(super) fn run(mut self, view: View, stop: &StopFlag) -> Result<Position, Error> {
        if self.task.weights.is_some() {
            self.save()?;
        }
        let config = &self.task.config;
        let first = self.state.position.epochs + 1;
        let extent = Extent {
            first,
            epochs: config.epochs,
            pictures: self.loader.pictures(),
            done: self.state.sums.pictures,
        };
        let mut display = display(view, extent);
        for epoch in first..=config.epochs {
            if !self.epoch(epoch, &mut *display, stop)? {
                self.save()?;
                return Ok(self.state.position);
            }
            let over = self.task.is_over(self.history);
            let every = config.checkpoint_epochs;
            let stopped = stop.is_set() || display.wants_to_stop();
            let due = (every > 0 && epoch.is_multiple_of(every)) || stopped;
            // The best epoch is what early stopping tests in the end.
            let is_best = config.patience > 0 && self.history.best() == Some(epoch);
            if due || over || is_best {
                self.save()?;
            }
            if over || stopped {
                break;
            }
        }
        Ok(self.state.position)
    }

    /// Trains one epoch to its end and validates: true. Or to a wish to stop: false.
    fn epoch(
        &mut self,
        epoch: usize,
        display: &mut dyn Display,
        stop: &StopFlag,
    ) -> Result<bool, Error> {
        let config = &self.task.config;
        self.adapt_solver(epoch)?;
        self.replay_noise()?;
        let started = Instant::now();
        let before = self.state.seconds;
        let batches_each = self.loader.batches();
        display.start_epoch();
        for raw in self.loader.epoch(epoch, self.state.position.batches) {
            let raw = raw?;
            self.batch(epoch, raw)?;
            self.state.position.batches += 1;
            self.state.seconds = before + started.elapsed().as_secs_f64();
            let waiting = self.pending.iter().map(Pending::pictures).sum::<usize>();
            let computed = self.state.sums.pictures + waiting;
            display.batch(epoch, computed, &self.state.sums);
            // Gathered gradients are not saved: only the end of a step can be gone on from.
            if self.gathered == 0 && self.state.position.batches < batches_each {
                if stop.is_set() || display.wants_to_stop() {
                    return Ok(false);
                }
                let minutes = config.checkpoint_minutes * 60.0;
                if minutes > 0.0 && self.saved.elapsed() >= Duration::from_secs_f64(minutes) {
                    self.save()?;
                }
            }
        }

        self.settle()?;
        let mut values = self.state.sums.values();
        let last_step = self.state.steps.saturating_sub(1);
        values.insert(metrics::LEARNING_RATE.into(), self.schedule.rate(last_step));
        if !self.task.valid.is_empty() {
            let plain = &self.task.device().device;
            let model = match &self.ema {
                Some(ema) => ema.clone(),
                None => self.model.valid(),
            };
            let scores = evaluate(&model, config, &self.task.valid, plain)
                .map_err(|crash| super::crashed("the validation", crash, self.run))?;
            if !scores.loss.is_finite() {
                return Err(self.diverged("the values that the model gives are"));
            }
            values.extend(metrics::validation(&scores));
        }
        let row = EpochRow {
            epoch,
            seconds: before + started.elapsed().as_secs_f64(),
            values,
        };
        display.end_epoch(&row);
        if let Some(events) = &mut self.events {
            events.epoch(epoch * batches_each, &row);
        }
        self.history.truncate(epoch - 1);
        self.history.epochs.push(row);
        self.state = State {
            position: Position::after(epoch),
            steps: self.state.steps,
            ..State::default()
        };
        self.run.write_history(self.history)?;
        Ok(true)
    }

    /// Gives the model the solver of an epoch. A solver is part of a model's config and not of
    /// its parameters, so these move over to a new model.
    fn adapt_solver(&mut self, epoch: usize) -> Result<(), Error> {
        if self.task.config.early_solver.fraction == 0.0 {
            return Ok(());
        }
        let next = Classifier::new(&self.task.config.in_epoch(epoch), &self.device)?;
        self.model = next.load_record(self.record()).materialised();
        Ok(())
    }

    fn batch(&mut self, epoch: usize, raw: RawBatch) -> Result<(), Error> {
        let config = &self.task.config;
        if self.state.position.batches.is_multiple_of(NOISE_BLOCK) {
            self.seed_noise(epoch);
        }
        let steps = self.compute(raw);
        self.settle()?;
        let done = self.state.position.batches + 1;
        for TrainingStep { gradients, item } in steps? {
            let count = item.targets.dims()[0];
            self.pending.push(Pending::new(epoch, done, item));
            self.gather(count, gradients);
        }
        if done.is_multiple_of(config.accumulation) || done == self.loader.batches() {
            self.step();
        }
        Ok(())
    }

    /// Seeds the noise that the model draws in the current block of batches.
    fn seed_noise(&self, epoch: usize) {
        let block = (self.state.position.batches / NOISE_BLOCK) as u64;
        let seed = derive(self.task.config.seed, Stream::Noise, [epoch as u64, block]);
        self.device.seed(seed);
    }

    /// Brings the noise to where it was when an epoch was left. Burn's generator cannot report its
    /// position, so a copy of the model replays the finished batches of the block. What it draws
    /// depends only on their size.
    fn replay_noise(&self) -> Result<(), Error> {
        let done = self.state.position.batches % NOISE_BLOCK;
        if done == 0 {
            return Ok(());
        }
        let epoch = self.state.position.epochs + 1;
        let mut config = self.task.config.in_epoch(epoch);
        // Solving draws nothing.
        for equilibrium in config.equilibria_mut() {
            equilibrium.forward.termination.max_steps = 1;
        }
        let copy = Classifier::new(&config, &self.device)?;
        let copy = copy.load_record(self.record()).materialised();
        let shape = config.shape;
        let batch = [config.batch_size, shape.channels, shape.height, shape.width];
        self.seed_noise(epoch);
        for _ in 0..done {
            // With the backward pass, because it frees what Burn has recorded of the forward pass.
            drop(copy.step(Batch {
                images: Tensor::zeros(batch, &self.device),
                targets: Tensor::zeros([config.batch_size], &self.device),
            }));
        }
        Ok(())
    }

    fn compute(&self, raw: RawBatch) -> Result<Vec<TrainingStep>, Error> {
        match &self.team {
            None => Ok(vec![self.model.step(raw.to_device(&self.device))]),
            Some(team) => team
                .step(&self.model, raw)
                .map_err(|crash| super::crashed("the training", crash, self.run).into()),
        }
    }

    /// Reads what the batches before have measured.
    fn settle(&mut self) -> Result<(), Error> {
        let before = [self.state.sums.pictures as f64, self.state.sums.loss];
        let mut step = None;
        let run = self.run;
        let unread = |error: TensorReadError| {
            let crash = Crash {
                message: error.to_string(),
                backtrace: String::new(),
            };
            super::crashed("the training", crash, run)
        };
        for pending in std::mem::take(&mut self.pending) {
            let (epoch, batch) = (pending.epoch, pending.batch);
            let loss = pending.settle(&mut self.state.sums).map_err(unread)?;
            if !loss.is_finite() {
                return Err(TrainError::NotFinite {
                    loss,
                    epoch,
                    batch,
                    saved: TrainError::saved(self.run),
                }
                .into());
            }
            step = Some((epoch - 1) * self.loader.batches() + batch);
        }
        for norm in std::mem::take(&mut self.norms) {
            let norm: f64 = norm.try_into_scalar().map_err(unread)?;
            self.state.sums.norms[0] += norm;
            self.state.sums.norms[1] += 1.0;
        }
        if let (Some(events), Some(step)) = (&mut self.events, step) {
            let [pictures, loss] = before;
            let sums = &self.state.sums;
            let mean = (sums.loss - loss) / (sums.pictures as f64 - pictures);
            events.scalars(step, &[("loss/batch", mean)]);
        }
        Ok(())
    }

    /// Adds the gradients of a batch, or of a device's part of one, by its number of pictures.
    fn gather(&mut self, count: usize, grads: GradientsParams) {
        let alone = self.team.is_none() && self.task.config.accumulation == 1;
        let grads = match alone {
            true => grads,
            false => {
                let grads = grads.to_device(&self.device, &self.model);
                scale(&self.model, grads, count as f64)
            }
        };
        self.gradients.accumulate(&self.model, grads);
        self.gathered += count;
    }

    fn step(&mut self) {
        let config = &self.task.config;
        let mut grads = self.gradients.grads();
        if self.team.is_some() || config.accumulation > 1 {
            grads = scale(&self.model, grads, 1.0 / self.gathered as f64);
        }
        self.gathered = 0;
        if config.clip_norm > 0.0 {
            let (clipped, norm) = clip(&self.model, grads, config.clip_norm);
            grads = clipped;
            self.norms.extend(norm);
        }
        if config.decay_kernels_only && config.weight_decay > 0.0 {
            grads = decay(&self.model, grads, config.weight_decay);
        }
        let rate = self.schedule.rate(self.state.steps);
        let model = self.model.clone();
        self.model = self.optimizer.step(rate, model, grads);
        self.state.steps += 1;
        if let Some(ema) = self.ema.take() {
            // At first an average over few steps must forget the random start sooner.
            let steps = self.state.steps as f64;
            let decay = config.ema.min((1.0 + steps) / (10.0 + steps));
            drop(self.model.valid());
            self.ema = Some(average(ema, &self.model, decay));
        }
    }

    /// The model's tensors. Burn's running statistics lag one step behind, as records see them,
    /// until `valid` brings them up to date.
    fn record(&self) -> ModuleRecord {
        drop(self.model.valid());
        self.model.clone().into_record()
    }

    /// Looks at the parameters and at what they make of a few pictures, before a checkpoint
    /// replaces a good one.
    fn check(&self) -> Result<(), Error> {
        let mut models = vec![self.model.valid()];
        models.extend(self.ema.clone());
        let some = &self.task.train[..self.task.train.len().min(PROBED)];
        for model in &models {
            if !are_finite(model) {
                return Err(self.diverged("the parameters are"));
            }
            let outcome = infer(model, &self.task.config, some, &self.task.device().device)
                .map_err(|crash| super::crashed("the training", crash, self.run))?;
            if outcome.finite() < some.len() {
                return Err(self.diverged("the values that the model gives are"));
            }
        }
        Ok(())
    }

    fn diverged(&self, what: &str) -> Error {
        TrainError::diverged(what, self.state.position, self.run).into()
    }

    fn save(&mut self) -> Result<(), Error> {
        self.settle()?;
        self.check()?;
        let snapshot = Snapshot {
            state: self.state.clone(),
            model: self.record(),
            ema: self.ema.clone().map(Module::into_record),
            optimizer: self.optimizer.to_record(),
        };
        checkpoint::save(self.run, snapshot)?;
        checkpoint::prune(self.run, self.history)?;
        self.saved = Instant::now();
        Ok(())
    }
}

/// Batches of the whole run before a position.
fn batches(position: Position, loader: &Loader) -> usize {
    position.epochs * loader.batches() + position.batches
}
