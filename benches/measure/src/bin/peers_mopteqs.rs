//! The Rust side of `benches/peers/mopteqs.py`, which starts it and explains how to run it. Reads
//! one request per line of JSON on standard input, trains or evaluates MOptEqs small accordingly,
//! and answers with a line of JSON. All times are in seconds.
#![allow(clippy::print_stdout, reason = "the answers go to standard output")]

use std::collections::HashMap;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::{ModuleMapper, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::prelude::*;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions, PadMode};
use examples::{digits, trained};
use mopteq::perturbation::Perturbation;
use mopteq::{Family, MOptEqs, MOptEqsConfig, StemConfig, Weights};
use mopteq_train::device::{keep_kernels, select};
use serde::Deserialize;
use serde_json::{Value, json};

/// The allocator of the program `mopteq`.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As in the script.
const LEARNING_RATE: f64 = 1e-4;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One request.
#[derive(Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum Request {
    /// Trains a network and writes its weights and pictures.
    Export {
        name: String,
        family: Family,
        /// Height and width of the pictures.
        side: usize,
        pictures: usize,
        steps: usize,
    },
    /// Loads weights and pictures.
    Load(Which),
    /// A training step.
    Train(Which),
    /// A training step with the weights as written and without the optimiser. Writes its gradients
    /// to `gradients.safetensors`.
    Gradients(Which),
    /// The network without gradients.
    Evaluate(Which),
    /// Drops everything that was loaded.
    Forget,
}

/// A network, the number of its pictures, and settings of its solvers.
#[derive(Deserialize)]
struct Which {
    name: String,
    batch: usize,
    /// Relative tolerance and step limit, forward and backward; the model's defaults if absent.
    tolerance: Option<f64>,
    limit: Option<usize>,
}

impl Which {
    fn key(&self) -> String {
        format!("{} {} {:?}", self.name, self.batch, self.tolerance)
    }
}

/// A network in training.
struct Session {
    /// Taken out during an optimiser's step.
    model: Option<MOptEqs>,
    optimizer: ModuleOptimizer,
    images: Tensor<4>,
    labels: Tensor<1, Int>,
}

struct Program {
    folder: PathBuf,
    device: Device,
    sessions: HashMap<String, Session>,
}

/// MOptEqs small for square pictures of this side.
fn config(family: Family, side: usize) -> MOptEqsConfig {
    let config = if side > 32 {
        // The stem of the preset for ImageNette.
        MOptEqsConfig::small(10, 3, [side; 2]).with_stem(
            StemConfig::new()
                .with_kernel(7)
                .with_stride(4)
                .with_padding(3),
        )
    } else {
        MOptEqsConfig::small(10, 1, [side; 2])
    };
    config
        .map_core(|c| c.with_family(family))
        .with_perturbation(Perturbation::new().with_size(0.0))
}

/// 28 x 28 digits as input for the network: padded to 32 x 32, and up-sampled in three channels if
/// larger pictures are requested.
fn resize(images: Tensor<4>, side: usize) -> Tensor<4> {
    if side == 28 {
        return images;
    }
    let padded = images.pad((2, 2, 2, 2), PadMode::Constant(0.0));
    if side == 32 {
        return padded;
    }
    let nearest = InterpolateOptions::new(InterpolateMode::Nearest);
    interpolate(padded, nearest.with_output_size([side, side])).repeat_dim(1, 3)
}

fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    CrossEntropyLossConfig::new()
        .init(&logits.device())
        .forward(logits, labels)
}

/// Writes tensors as raw little-endian numbers.
fn write<const N: usize>(path: &Path, values: impl Iterator<Item = [u8; N]>) -> Result<()> {
    Ok(std::fs::write(path, values.flatten().collect::<Vec<u8>>())?)
}

impl Program {
    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{name}.{kind}"))
    }

    fn export(
        &mut self,
        name: &str,
        family: Family,
        side: usize,
        pictures: usize,
        steps: usize,
    ) -> Result<Value> {
        let config = config(family, side);
        // The same weights and pictures in every run.
        Device::flex().seed(1);
        let (data, _) = digits(&Device::flex())?;
        let model = trained(&config, steps, |start| {
            let batch = data.range(start, 32).autodiff();
            (resize(batch.images, side), batch.labels)
        });
        model.write_safetensors(&self.file(name, "safetensors"))?;
        let batch = data.range(0, pictures);
        let images = resize(batch.images, side);
        let shape = images.dims();
        let (images, labels) = (images.try_into_data()?, batch.labels.try_into_data()?);
        write(
            &self.file(name, "images"),
            images.iter::<f32>().map(f32::to_le_bytes),
        )?;
        write(
            &self.file(name, "labels"),
            labels.iter::<i64>().map(i64::to_le_bytes),
        )?;
        let setup = json!({
            "name": name,
            "family": family,
            "side": side,
            "shape": shape,
            "branches": config.branches,
            "stem_stride": config.stem.stride,
            "stem_padding": config.stem.padding,
            "norm_bound": config.core.norm_bound,
            "coupling": config.core.coupling,
            "head_grid": config.head.grid,
            "step": config.objective()?.step(),
            "parameters": model.num_parameters(),
        });
        std::fs::write(self.file(name, "json"), setup.to_string())?;
        Ok(setup)
    }

    /// A network with the weights and pictures that were written.
    fn load(&self, which: &Which) -> Result<Session> {
        let setup: Value = serde_json::from_slice(&std::fs::read(self.file(&which.name, "json"))?)?;
        let family = Family::deserialize(&setup["family"])?;
        let [_, channels, side, _] = <[usize; 4]>::deserialize(&setup["shape"])?;
        let mut config = config(family, side);
        let rule = &mut config.core.equilibrium.forward.termination;
        rule.relative = which.tolerance.unwrap_or(rule.relative);
        rule.max_steps = which.limit.unwrap_or(rule.max_steps);
        let model = config
            .init(&self.device)?
            .read_safetensors(&self.file(&which.name, "safetensors"))?
            .train();
        let images = std::fs::read(self.file(&which.name, "images"))?;
        let images = images.as_chunks::<4>().0.iter().copied();
        let size = which.batch * channels * side * side;
        let images: Vec<f32> = images.map(f32::from_le_bytes).take(size).collect();
        let labels = std::fs::read(self.file(&which.name, "labels"))?;
        let labels = labels.as_chunks::<8>().0.iter().copied();
        let labels: Vec<i64> = labels.map(i64::from_le_bytes).take(which.batch).collect();
        let images = TensorData::new(images, [which.batch, channels, side, side]);
        Ok(Session {
            model: Some(model),
            optimizer: optimizer(),
            images: Tensor::from_data(images, &self.device),
            labels: Tensor::from_data(TensorData::from(labels.as_slice()), &self.device),
        })
    }

    fn session(&mut self, which: &Which) -> Result<&mut Session> {
        let key = which.key();
        if !self.sessions.contains_key(&key) {
            let session = self.load(which)?;
            self.sessions.insert(key.clone(), session);
        }
        self.sessions
            .get_mut(&key)
            .ok_or_else(|| "no session".into())
    }

    fn answer(&mut self, request: Request) -> Result<Value> {
        match request {
            Request::Export {
                name,
                family,
                side,
                pictures,
                steps,
            } => self.export(&name, family, side, pictures, steps),
            Request::Load(which) => {
                self.session(&which)?;
                Ok(json!({}))
            }
            Request::Train(which) => self.session(&which)?.train(None),
            Request::Gradients(which) => {
                let path = self.folder.join("gradients.safetensors");
                if path.exists() {
                    std::fs::remove_file(&path)?;
                }
                self.load(&which)?.train(Some(&path))
            }
            Request::Evaluate(which) => self.session(&which)?.evaluate(),
            Request::Forget => {
                self.sessions.clear();
                Ok(json!({}))
            }
        }
    }
}

/// Gradient descent with momentum, as PyTorch defines it.
fn optimizer() -> ModuleOptimizer {
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    SgdConfig::new().with_momentum(Some(momentum)).init()
}

impl Session {
    /// A training step. With a path, it writes its gradients there and skips the optimiser.
    fn train(&mut self, gradients_to: Option<&Path>) -> Result<Value> {
        let device = self.images.device();
        let mut model = self.model.take().ok_or("no model")?;
        device.sync()?;
        let clock = Instant::now();
        let out = model.forward(self.images.clone().autodiff());
        let loss = cross_entropy(out.logits, self.labels.clone().autodiff());
        device.sync()?;
        let begin = Instant::now();
        let gradients = loss.backward();
        device.sync()?;
        let backward_pass = begin.elapsed();
        let gradients = GradientsParams::from_grads(gradients, &model);
        match gradients_to {
            Some(path) => model
                .valid()
                .map(&mut Replace(gradients))
                .write_safetensors(path)?,
            None => model = self.optimizer.step(LEARNING_RATE, model, gradients),
        }
        let loss = loss.into_scalar::<f64>();
        device.sync()?;
        let step = clock.elapsed();
        self.model = Some(model);
        let adjoint = out.adjoint.report().ok_or("no backward solve")?;
        Ok(json!({
            "loss": loss,
            "step": step.as_secs_f64(),
            "forward": out.forward.elapsed.as_secs_f64(),
            "backward": adjoint.elapsed.as_secs_f64(),
            "backward_pass": backward_pass.as_secs_f64(),
            "forward_steps": out.forward.mean_steps(),
            "backward_steps": adjoint.mean_steps(),
            "converged": out.forward.all_converged() && adjoint.all_converged(),
        }))
    }

    fn evaluate(&mut self) -> Result<Value> {
        let model = self.model.as_ref().ok_or("no model")?.valid();
        self.images.device().sync()?;
        let clock = Instant::now();
        let logits = model.forward(self.images.clone()).logits;
        let classes = logits.argmax(1).try_into_data()?;
        let evaluation = clock.elapsed();
        let classes: Vec<i64> = classes.iter::<i64>().collect();
        Ok(json!({"evaluation": evaluation.as_secs_f64(), "classes": classes}))
    }
}

/// Replaces parameters by gradients; buffers stay.
struct Replace(GradientsParams);

impl ModuleMapper for Replace {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.remove::<D>(param.id) {
            Some(gradient) => param.map(|_| gradient),
            None => param,
        }
    }
}

fn main() -> Result<()> {
    mopteq_train::keep_freed_memory();
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().ok_or("give a folder for the files")?;
    let device = arguments.next().ok_or("give a device, such as cpu")?;
    let device = device.to_str().ok_or("the device is not text")?.parse()?;
    // As in the program `mopteq`: keeps a GPU's compiled kernels for the next start.
    keep_kernels(true);
    let mut program = Program {
        folder: folder.into(),
        device: select(device)?.device,
        sessions: HashMap::new(),
    };
    for line in std::io::stdin().lines() {
        let request = serde_json::from_str(&line?)?;
        println!("{}", program.answer(request)?);
        std::io::stdout().flush()?;
    }
    Ok(())
}
