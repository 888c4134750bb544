//! How solves went, on average over batches and epochs.

use burn_deq::{Report, Status};
use mopteq::LayerSolve;
use serde::{Deserialize, Serialize};

/// What one solve of a batch cost and reached, on average over its samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SolveStats {
    /// Samples in the batch.
    pub samples: usize,
    /// Mean number of steps.
    pub steps: f64,
    /// Mean residual relative to the norm of f(z).
    pub residual: f64,
    /// Share of the samples that met the tolerance, 0 to 1.
    pub converged: f64,
}

impl SolveStats {
    /// The averages of a report; `None` when it covers no sample.
    pub fn of(report: &Report) -> Option<Self> {
        let samples = report.status.len();
        (samples > 0).then(|| Self {
            samples,
            steps: report.mean_steps(),
            residual: report.mean_relative_residual(),
            converged: report.count(Status::Converged) as f64 / samples as f64,
        })
    }
}

/// Sums over solved samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SolveSums {
    samples: f64,
    steps: f64,
    residual: f64,
    converged: f64,
}

impl SolveSums {
    /// Adds the solve of a batch.
    pub fn add(&mut self, solve: Option<SolveStats>) {
        let Some(solve) = solve else {
            return;
        };
        let samples = solve.samples as f64;
        self.samples += samples;
        self.steps += samples * solve.steps;
        self.residual += samples * solve.residual;
        self.converged += samples * solve.converged;
    }

    /// The averages; `None` when nothing was solved.
    pub fn mean(&self) -> Option<SolveStats> {
        (self.samples > 0.0).then(|| SolveStats {
            samples: self.samples as usize,
            steps: self.steps / self.samples,
            residual: self.residual / self.samples,
            converged: self.converged / self.samples,
        })
    }
}

/// How the solve of one picture went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PictureSolve {
    /// Steps to the state that was used.
    pub steps: usize,
    /// Its residual relative to the norm of f(z).
    pub residual: f64,
    /// Whether it met the tolerance.
    pub converged: bool,
}

impl PictureSolve {
    /// The solves of a report, picture by picture; none for a model without a solver.
    pub fn of(report: &Report) -> Vec<Self> {
        let residuals = report.steps.iter().zip(&report.relative_residual);
        residuals
            .zip(&report.status)
            .map(|((steps, residual), status)| Self {
                steps: *steps,
                residual: *residual,
                converged: status.is_converged(),
            })
            .collect()
    }
}

/// How the solves of one of several equilibria went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerStats {
    /// The equilibrium's name, such as `stage 1, layer 2`.
    pub name: String,
    /// The solve for the equilibrium.
    pub forward: Option<SolveStats>,
    /// The solve for the gradient; in training only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backward: Option<SolveStats>,
}

impl LayerStats {
    /// The solves of a batch, after its backward pass if there is one.
    pub fn of(layers: &[LayerSolve]) -> Vec<Self> {
        let stats = |layer: &LayerSolve| Self {
            name: layer.name.clone(),
            forward: SolveStats::of(&layer.forward),
            backward: layer.adjoint.report().as_ref().and_then(SolveStats::of),
        };
        layers.iter().map(stats).collect()
    }
}

/// Sums over the solves of several equilibria, in the order of the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerSums(Vec<(String, [SolveSums; 2])>);

impl LayerSums {
    /// Adds the solves of a batch.
    pub fn add(&mut self, layers: &[LayerStats]) {
        for layer in layers {
            let known = self.0.iter().position(|(name, _)| *name == layer.name);
            let place = known.unwrap_or_else(|| {
                self.0.push((layer.name.clone(), Default::default()));
                self.0.len() - 1
            });
            let (_, [forward, backward]) = &mut self.0[place];
            forward.add(layer.forward);
            backward.add(layer.backward);
        }
    }

    /// The averages.
    pub fn means(&self) -> Vec<LayerStats> {
        let mean = |(name, sums): &(String, [SolveSums; 2])| LayerStats {
            name: name.clone(),
            forward: sums[0].mean(),
            backward: sums[1].mean(),
        };
        self.0.iter().map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solves_are_averaged_by_samples() {
        let mut sums = SolveSums::default();
        assert_eq!(sums.mean(), None);
        for (samples, steps) in [(30, 4.0), (10, 8.0)] {
            sums.add(Some(SolveStats {
                samples,
                steps,
                residual: 0.5,
                converged: 1.0,
            }));
        }
        let mean = sums.mean().unwrap();
        assert_eq!((mean.samples, mean.steps, mean.residual), (40, 5.0, 0.5));
    }
}
