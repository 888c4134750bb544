//! Accuracy and loss of a model on pictures with known labels.

use burn::data::dataloader::batcher::Batcher;
use burn::prelude::*;

use crate::classifier::{Classifier, SolveStats};
use crate::config::TrainConfig;
use crate::crash::{self, Crash};
use crate::data::{Augmentation, Picture, PictureBatcher, Sample};

/// How a model did on a set of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Number of pictures.
    pub pictures: usize,
    /// Number of pictures whose likeliest class is the right one.
    pub correct: usize,
    /// Mean cross entropy.
    pub loss: f64,
    /// How the forward solves went; `None` when the model reported none.
    pub forward: Option<SolveStats>,
}

impl Scores {
    /// Share of correct pictures, in percent.
    pub fn accuracy(&self) -> f64 {
        100.0 * self.correct as f64 / self.pictures as f64
    }
}

/// The batcher of a run, without augmentation.
pub fn batcher(config: &TrainConfig) -> PictureBatcher {
    PictureBatcher {
        shape: config.shape,
        normalisation: config.normalisation.clone(),
        augmentation: Augmentation::NONE,
    }
}

/// Logits of each picture, and how the solve went, batch by batch.
pub(crate) fn logits(
    model: &Classifier,
    config: &TrainConfig,
    pictures: &[Picture],
    device: &Device,
) -> Result<(Vec<Vec<f64>>, Vec<SolveStats>), Crash> {
    let batcher = batcher(config);
    let read = || {
        let (mut rows, mut solves) = (Vec::with_capacity(pictures.len()), Vec::new());
        for chunk in pictures.chunks(config.batch_size) {
            let samples = chunk
                .iter()
                .map(|picture| Sample {
                    picture: picture.clone(),
                    augmentation: None,
                })
                .collect();
            let (logits, solve) = model.infer(batcher.batch(samples, device).images);
            let values: Vec<f64> = logits.try_into_vec_as()?;
            rows.extend(
                values
                    .chunks_exact(values.len() / chunk.len())
                    .map(<[f64]>::to_vec),
            );
            solves.extend(solve);
        }
        Ok::<_, burn::tensor::TensorReadError>((rows, solves))
    };
    crash::catch(read)?.map_err(|error| Crash {
        message: error.to_string(),
        backtrace: String::new(),
    })
}

/// Evaluates a model in inference mode on pictures of the run's shape.
///
/// # Errors
///
/// When the device fails.
pub fn evaluate(
    model: &Classifier,
    config: &TrainConfig,
    pictures: &[Picture],
    device: &Device,
) -> Result<Scores, Crash> {
    let (rows, solves) = logits(model, config, pictures, device)?;
    let mut scores = Scores {
        pictures: pictures.len(),
        correct: 0,
        loss: 0.0,
        forward: None,
    };
    for (row, picture) in rows.iter().zip(pictures) {
        let probabilities = softmax(row);
        let right = probabilities.get(picture.label).copied().unwrap_or(0.0);
        // An index and not a comparison of values: of equal logits the first counts, as elsewhere.
        scores.correct += usize::from(likeliest(row) == Some(picture.label));
        scores.loss -= right.max(f64::MIN_POSITIVE).ln() / pictures.len() as f64;
    }
    scores.forward = merge(&solves);
    Ok(scores)
}

/// Position of the largest value, the first of equals.
fn likeliest(row: &[f64]) -> Option<usize> {
    (0..row.len())
        .rev()
        .max_by(|a, b| row[*a].total_cmp(&row[*b]))
}

/// Probabilities of logits.
pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// The averages over all samples of several solves.
fn merge(solves: &[SolveStats]) -> Option<SolveStats> {
    let samples: usize = solves.iter().map(|solve| solve.samples).sum();
    let mean = |value: fn(&SolveStats) -> f64| {
        solves
            .iter()
            .map(|solve| solve.samples as f64 * value(solve))
            .sum::<f64>()
            / samples as f64
    };
    (samples > 0).then(|| SolveStats {
        samples,
        steps: mean(|solve| solve.steps),
        residual: mean(|solve| solve.residual),
        converged: mean(|solve| solve.converged),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softmax_is_stable_and_sums_to_one() {
        let p = softmax(&[1000.0, 1000.0 + 3_f64.ln(), -1000.0]);
        assert!((p[1] - 0.75).abs() < 1e-12 && (p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(likeliest(&[1.0, 3.0, 3.0, 2.0]), Some(1));
    }

    #[test]
    fn solves_are_averaged_by_samples() {
        let solve = |samples, steps| SolveStats {
            samples,
            steps,
            residual: 0.5,
            converged: 1.0,
        };
        let mean = merge(&[solve(30, 4.0), solve(10, 8.0)]).unwrap();
        assert_eq!((mean.samples, mean.steps, mean.residual), (40, 5.0, 0.5));
        assert_eq!(merge(&[]), None);
    }
}
