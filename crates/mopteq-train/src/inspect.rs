//! Looking inside: how the equilibrium of one picture is found, and what it looks like.

use burn::prelude::*;
use burn_deq::{FixedPointMap, Report};
use image::{Rgb, RgbImage};
use mopteq::{LayerSolve, LayerState, Network};
use serde::Serialize;

use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::crash::{self, Crash};
use crate::data::{Picture, Sample};
use crate::evaluate::{batcher, softmax};

/// Number of steps to follow.
const STEPS: usize = 30;
/// Side of the map of the finest branch in a picture, in pixels; the others are scaled to it.
const MAP_SIDE: u32 = 128;
const GAP: u32 = 4;

/// What an inspection shows of one picture.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The classes with their probabilities, the likeliest first.
    pub prediction: Vec<(String, f64)>,
    /// Relative residual of the run's own solver for each limit on its steps, from 1.
    pub solver_residuals: Vec<f64>,
    /// Relative residual of the plain iteration z = T(z), step by step.
    pub plain_residuals: Vec<f64>,
    /// Value of the hidden objective after each step of the plain iteration, from its start.
    pub objective: Vec<f64>,
    /// Root mean square over the channels of each branch of the equilibrium; in a stack, of each
    /// stage's last equilibrium.
    pub branches: Vec<BranchMap>,
    /// The layers of a stack.
    pub layers: Vec<LayerMaps>,
}

/// How a layer of a stack processed its input.
#[derive(Clone, Debug, Serialize)]
pub struct LayerMaps {
    /// "stage 1, layer 2".
    pub name: String,
    /// Steps of the layer's own solver.
    pub steps: usize,
    /// Its relative residual.
    pub residual: f64,
    /// Whether it met its tolerance.
    pub converged: bool,
    /// The layer's input.
    pub input: BranchMap,
    /// The input as the layer sees it: its codes, decoded with the dictionary.
    pub reconstruction: Option<BranchMap>,
    /// The branches of the equilibrium.
    pub branches: Vec<BranchMap>,
}

/// One branch of an equilibrium, its channels summed up.
#[derive(Clone, Debug, Serialize)]
pub struct BranchMap {
    /// Rows and columns.
    pub size: [usize; 2],
    /// Root mean square over the channels, row after row.
    pub values: Vec<f64>,
}

/// Inspects a picture of the run's shape.
///
/// # Errors
///
/// When the device fails.
pub fn inspect(
    model: &Classifier,
    config: &TrainConfig,
    picture: &Picture,
    device: &Device,
) -> Result<Inspection, Crash> {
    let look = || look(model, config, picture, device);
    crash::catch(look)?.map_err(|message| Crash {
        message,
        backtrace: String::new(),
    })
}

fn look(
    model: &Classifier,
    config: &TrainConfig,
    picture: &Picture,
    device: &Device,
) -> Result<Inspection, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let sample = Sample {
        picture,
        augmentation: None,
    };
    let batch = batcher(config).stack(&[sample]).map_err(|e| text(&e))?;
    let images = batch.to_device(device).images;
    let (logits, _) = model.infer(images.clone());
    let logits: Vec<f64> = logits.try_into_vec_as().map_err(|e| text(&e))?;
    let mut prediction: Vec<(String, f64)> = config
        .classes
        .iter()
        .cloned()
        .zip(softmax(&logits))
        .collect();
    prediction.sort_by(|a, b| b.1.total_cmp(&a.1));

    let mut solver_residuals = Vec::new();
    for limit in 1..=STEPS {
        let report = solve_within(model, config, images.clone(), limit)?;
        let residual = report.relative_residual.first().copied();
        solver_residuals.extend(residual);
        if report.all_converged() {
            break;
        }
    }

    let scalar = |tensor: Tensor<1>| tensor.try_into_scalar::<f64>().map_err(|e| text(&e));
    let states = model.network().states(images.clone());
    let mut z: Vec<Tensor<4>> = states.iter().map(Tensor::zeros_like).collect();
    let mut plain_residuals = Vec::new();
    let mut descent = Vec::new();
    // Only a MOptEq has an objective.
    let hidden = match model.network() {
        Network::MOptEqs(network) => {
            Some((network.context(images.clone()), network.core().objective()))
        }
        _ => None,
    };
    if let Some((context, objective)) = &hidden {
        descent.push(scalar(objective.value(&z, context))?);
    }
    for (context, objective) in hidden.iter().cycle().take(STEPS) {
        let next = objective.apply(z.clone(), context.clone());
        let squares = |z: &[Tensor<4>]| -> Result<f64, String> {
            let mut sum = 0.0;
            for branch in z {
                sum += scalar((branch.clone() * branch.clone()).sum())?;
            }
            Ok(sum)
        };
        let change: Vec<Tensor<4>> = next
            .iter()
            .zip(&z)
            .map(|(a, b)| a.clone() - b.clone())
            .collect();
        let size = squares(&next)?;
        let residual = if size > 0.0 {
            (squares(&change)? / size).sqrt()
        } else {
            0.0
        };
        plain_residuals.push(residual);
        descent.push(scalar(objective.value(&next, context))?);
        z = next;
        // Below the rounding error of single precision, there is nothing left to see.
        if residual < 1e-7 {
            break;
        }
    }

    let layers = match model.network() {
        Network::Deep(network) => {
            let solves = network.forward(images.clone()).layers;
            let seen = network.layers(images);
            let both = solves.iter().zip(&seen);
            both.map(|(solve, seen)| layer_maps(solve, seen)).collect()
        }
        _ => Ok(Vec::new()),
    };
    Ok(Inspection {
        prediction,
        solver_residuals,
        plain_residuals,
        objective: descent,
        branches: maps(&states)?,
        layers: layers?,
    })
}

fn layer_maps(solve: &LayerSolve, seen: &LayerState) -> Result<LayerMaps, String> {
    let report = &solve.forward;
    Ok(LayerMaps {
        name: solve.name.clone(),
        steps: report.steps.first().copied().unwrap_or(0),
        residual: report
            .relative_residual
            .first()
            .copied()
            .unwrap_or(f64::NAN),
        converged: report.all_converged(),
        input: map(&seen.input)?,
        reconstruction: seen.reconstruction.as_ref().map(map).transpose()?,
        branches: maps(&seen.state)?,
    })
}

fn maps(states: &[Tensor<4>]) -> Result<Vec<BranchMap>, String> {
    states.iter().map(map).collect()
}

/// Root mean squares over the channels.
fn map(branch: &Tensor<4>) -> Result<BranchMap, String> {
    let [_, _, height, width] = branch.dims();
    let map = (branch.clone() * branch.clone()).mean_dim(1).sqrt();
    let values = map.try_into_vec_as().map_err(|e| e.to_string())?;
    Ok(BranchMap {
        size: [height, width],
        values,
    })
}

/// The report of a solve with at most `limit` steps.
fn solve_within(
    model: &Classifier,
    config: &TrainConfig,
    images: Tensor<4>,
    limit: usize,
) -> Result<Report, String> {
    let mut config = config.clone();
    for equilibrium in config.equilibria_mut() {
        equilibrium.forward.termination.max_steps = limit;
    }
    let limited = Classifier::new(&config, &images.device()).map_err(|e| e.to_string())?;
    let limited = limited.load_record(model.clone().into_record());
    Ok(limited.network().forward(images).forward)
}

/// The maps of all branches side by side, each scaled to its own range.
pub fn branch_picture(branches: &[BranchMap]) -> RgbImage {
    let count = branches.len().max(1) as u32;
    let width = count * (MAP_SIDE + GAP) - GAP;
    let mut picture = RgbImage::from_pixel(width, MAP_SIDE, Rgb([255; 3]));
    for (index, branch) in branches.iter().enumerate() {
        let finite = branch
            .values
            .iter()
            .copied()
            .filter(|value| value.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let span = (high - low).max(f64::MIN_POSITIVE);
        let [rows, columns] = branch.size;
        let left = index as u32 * (MAP_SIDE + GAP);
        for y in 0..MAP_SIDE {
            for x in 0..MAP_SIDE {
                let row = y as usize * rows / MAP_SIDE as usize;
                let column = x as usize * columns / MAP_SIDE as usize;
                let value = branch
                    .values
                    .get(row * columns + column)
                    .copied()
                    .unwrap_or(0.0);
                picture.put_pixel(left + x, y, heat((value - low) / span));
            }
        }
    }
    picture
}

/// The layers of a stack, one below the other: input, reconstruction, branches.
pub fn layer_picture(layers: &[LayerMaps]) -> RgbImage {
    let rows = layers.iter().map(|layer| {
        let seen = [&layer.input].into_iter().chain(&layer.reconstruction);
        let all: Vec<BranchMap> = seen.chain(&layer.branches).cloned().collect();
        branch_picture(&all)
    });
    let rows: Vec<RgbImage> = rows.collect();
    let width = rows.iter().map(RgbImage::width).max().unwrap_or(1);
    let height = rows.len().max(1) as u32 * (MAP_SIDE + GAP) - GAP;
    let mut picture = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    for (index, row) in rows.iter().enumerate() {
        let top = index as i64 * i64::from(MAP_SIDE + GAP);
        image::imageops::replace(&mut picture, row, 0, top);
    }
    picture
}

/// Black over red and yellow to white.
pub(crate) fn heat(share: f64) -> Rgb<u8> {
    let channel = |start: f64| (255.0 * (3.0 * share - start).clamp(0.0, 1.0)) as u8;
    Rgb([channel(0.0), channel(1.0), channel(2.0)])
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_objective_falls_and_the_residuals_do() {
        let device = Device::flex();
        let config = TrainConfig::digits();
        let model = Classifier::new(&config, &device).unwrap().materialised();
        let picture = Picture::new((0..784).map(|i| (i % 251) as u8).collect::<Vec<_>>(), 0);
        let seen = inspect(&model, &config, &picture, &device).unwrap();
        assert_eq!(seen.prediction.len(), 10);
        let last = seen.solver_residuals.last().unwrap();
        assert!(*last <= 1e-3, "{:?}", seen.solver_residuals);
        assert!(seen.plain_residuals.last().unwrap() < &seen.plain_residuals[0]);
        // Up to rounding, every plain step is a descent step.
        let scale = seen.objective[0].abs().max(1.0);
        let falls = seen
            .objective
            .windows(2)
            .all(|pair| pair[1] <= pair[0] + 1e-5 * scale);
        assert!(falls, "{:?}", seen.objective);
        let sizes: Vec<_> = seen.branches.iter().map(|branch| branch.size).collect();
        assert_eq!(sizes, [[16, 16], [8, 8], [4, 4]]);
        assert_eq!(branch_picture(&seen.branches).dimensions(), (392, 128));
        assert!(seen.layers.is_empty());

        let stack = mopteq::DeepConfig::digits(10, 1, [28, 28]);
        let config = TrainConfig {
            model: mopteq::NetworkConfig::Deep(stack),
            ..config
        };
        let model = Classifier::new(&config, &device).unwrap().materialised();
        let seen = inspect(&model, &config, &picture, &device).unwrap();
        assert_eq!(seen.layers.len(), 5);
        assert!(seen.layers.iter().all(|layer| layer.converged));
        let first = &seen.layers[0];
        assert_eq!(
            first.reconstruction.as_ref().unwrap().size,
            first.input.size
        );
        // Input, reconstruction and two branches per row.
        assert_eq!(layer_picture(&seen.layers).dimensions(), (524, 656));
    }
}
