//! What a page shows of a solve.

use burn::tensor::Tensor;
use serde::Serialize;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::predict::Likelihood;

/// Values from 0 to 255, row after row, in base64; a page scales them to `high`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Map {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// The value that 255 stands for.
    pub(super) high: f64,
    pub(super) values: String,
}

/// One iterate.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Frame {
    /// The path it belongs to: `solve` or `perturbed`.
    pub(super) path: &'static str,
    /// Evaluations of the map so far.
    pub(super) step: usize,
    pub(super) branches: Vec<Map>,
    /// Probabilities of the classes of the answer.
    pub(super) classes: Vec<f64>,
}

/// A sequence of iterates as numbers; a number that is not finite is `null` in JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Path {
    pub(super) steps: Vec<usize>,
    /// |f(z) - z| / |f(z)| of each iterate z.
    pub(super) residuals: Vec<f64>,
    /// G before the first step and after each.
    pub(super) objective: Vec<f64>,
    /// The part of each smooth term in it.
    pub(super) terms: Vec<Vec<f64>>,
}

/// One equilibrium of a model.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Stage {
    pub(super) name: String,
    /// How the solve ended; `None` without a solver.
    pub(super) status: Option<String>,
    pub(super) tolerance: Option<f64>,
    /// Names of the smooth terms of the hidden objective.
    pub(super) terms: Vec<String>,
    pub(super) solver: Path,
    pub(super) plain: Path,
    pub(super) perturbed: Path,
    pub(super) frames: Vec<Frame>,
    /// What the objective is given: the injections.
    pub(super) inputs: Vec<Map>,
    /// The reconstruction of these from the equilibrium, if the objective reconstructs.
    pub(super) reconstruction: Vec<Map>,
}

/// Everything that a page shows of a solve.
#[derive(Clone, Debug, Serialize)]
pub(super) struct View {
    /// The likeliest classes.
    pub(super) classes: Vec<Likelihood>,
    /// The likeliest class before the perturbation, if there is one.
    pub(super) calm: Option<Likelihood>,
    /// Values of the picture as the model sees it, channel after channel, in base64.
    pub(super) picture: String,
    pub(super) stages: Vec<Stage>,
    /// Time that the model took.
    pub(super) milliseconds: f64,
}

/// What went wrong on the device.
pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Root mean squares over the channels of `[n, channels, h, w]`, as n maps on one scale.
pub(super) fn maps(states: &Tensor<4>) -> Result<Vec<Map>, String> {
    let [_, _, rows, columns] = states.dims();
    let sizes = (states.clone() * states.clone()).mean_dim(1).sqrt();
    let sizes: Vec<f64> = sizes.try_into_vec_as().map_err(text)?;
    let finite = sizes.iter().copied().filter(|size| size.is_finite());
    let high = finite.fold(0.0, f64::max);
    let scale = if high > 0.0 { 255.0 / high } else { 0.0 };
    let map = |values: &[f64]| {
        let bytes: Vec<u8> = values
            .iter()
            .map(|value| (value * scale).round() as u8)
            .collect();
        Map {
            rows,
            columns,
            high,
            values: STANDARD.encode(bytes),
        }
    };
    Ok(sizes.chunks_exact(rows * columns).map(map).collect())
}

/// The maps of one state, branch by branch, each on its own scale.
pub(super) fn branch_maps(state: &[Tensor<4>]) -> Result<Vec<Map>, String> {
    let mut all = Vec::new();
    for branch in state {
        all.extend(maps(branch)?.into_iter().next());
    }
    Ok(all)
}
