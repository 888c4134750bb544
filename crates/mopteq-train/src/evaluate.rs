//! Accuracy, calibration and solver cost of a model on pictures with known labels.

use burn::prelude::*;
use serde::Serialize;

use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::crash::{self, Crash};
use crate::data::{Augmentation, Picture, PictureBatcher, Sample};
use crate::solves::{LayerStats, LayerSums, PictureSolve, SolveStats, SolveSums};

/// Limits on the solver's steps for which the accuracy is reported.
pub const STEP_LIMITS: [usize; 4] = [2, 4, 8, 16];

/// Bins of the calibration error.
const BINS: usize = 15;

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

/// A closer look at how a model did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Details {
    /// Number of pictures.
    pub pictures: usize,
    /// Pictures whose likeliest class is the right one, in percent.
    pub accuracy: f64,
    /// Pictures whose right class is among the five likeliest, in percent; `None` where there are
    /// only five classes or fewer.
    pub top5: Option<f64>,
    /// Mean cross entropy.
    pub loss: f64,
    /// Expected calibration error, 15 bins of equal width, in percent: how far confidence and
    /// accuracy are apart.
    pub calibration_error: f64,
    /// How the forward solves went.
    pub forward: Option<SolveStats>,
    /// The same for each layer of a stack.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerStats>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Correct pictures of each class, in percent; `None` for a class without pictures.
    pub per_class: Vec<Option<f64>>,
    /// `confusion[right][predicted]` counts pictures.
    pub confusion: Vec<Vec<usize>>,
}

/// A wrong prediction.
#[derive(Clone, Debug, PartialEq)]
pub struct Mistake {
    /// Position of the picture.
    pub index: usize,
    /// The class predicted.
    pub predicted: usize,
    /// Its probability.
    pub confidence: f64,
}

/// What a budget of solver steps buys.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepCost {
    /// Most steps of a solve.
    pub limit: usize,
    /// Correct pictures, in percent.
    pub accuracy: f64,
    /// How the solves went.
    pub forward: Option<SolveStats>,
}

/// The batcher of a run, without augmentation.
pub fn batcher(config: &TrainConfig) -> PictureBatcher {
    PictureBatcher {
        shape: config.shape,
        normalisation: config.normalisation.clone(),
        augmentation: Augmentation::NONE,
    }
}

/// The logits of each picture, and how the solves went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Logits, one row per picture.
    pub rows: Vec<Vec<f64>>,
    /// How the forward solves went.
    pub forward: Option<SolveStats>,
    /// The same for each layer of a stack.
    pub layers: Vec<LayerStats>,
    /// The same, one per picture; none for a model without a solver.
    pub solves: Vec<PictureSolve>,
}

impl Outcome {
    /// Number of pictures whose logits are all finite numbers.
    pub fn finite(&self) -> usize {
        let is_finite = |row: &&Vec<f64>| row.iter().all(|logit| logit.is_finite());
        self.rows.iter().filter(is_finite).count()
    }
}

/// Runs a model over pictures, batch by batch.
///
/// # Errors
///
/// When the device fails, or a picture cannot be read back from the cache file.
pub fn infer(
    model: &Classifier,
    config: &TrainConfig,
    pictures: &[Picture],
    device: &Device,
) -> Result<Outcome, Crash> {
    let batcher = batcher(config);
    let whole = deq_kernels::compiles_at_run_time(device);
    let read = || {
        let mut rows = Vec::with_capacity(pictures.len());
        let (mut sums, mut solves) = (SolveSums::default(), Vec::new());
        let mut layers = LayerSums::default();
        for chunk in pictures.chunks(config.batch_size) {
            let plain = |picture| Sample {
                picture,
                augmentation: None,
            };
            // Every new batch size costs a compilation, so a short batch is filled up with its last
            // picture. The extra results are discarded.
            let last = chunk.iter().rev().take(1).cycle();
            let padding = if whole {
                config.batch_size - chunk.len()
            } else {
                0
            };
            let padded = chunk.iter().chain(last.take(padding));
            let samples: Vec<Sample<'_>> = padded.map(plain).collect();
            let batch = batcher.stack(&samples).map_err(|error| error.to_string())?;
            let found = model.infer_first(batch.to_device(device).images, chunk.len());
            let values: Vec<f64> = found
                .logits
                .try_into_vec_as()
                .map_err(|error| error.to_string())?;
            let all = values.chunks_exact(values.len() / samples.len());
            rows.extend(all.take(chunk.len()).map(<[f64]>::to_vec));
            sums.add(SolveStats::of(&found.forward));
            layers.add(&found.layers);
            solves.extend(PictureSolve::of(&found.forward));
        }
        Ok::<_, String>(Outcome {
            rows,
            forward: sums.mean(),
            layers: layers.means(),
            solves,
        })
    };
    crash::catch(read)?.map_err(|message| Crash {
        message,
        backtrace: String::new(),
    })
}

/// Evaluates a model in inference mode on pictures of the run's shape.
///
/// # Errors
///
/// As [`infer`].
pub fn evaluate(
    model: &Classifier,
    config: &TrainConfig,
    pictures: &[Picture],
    device: &Device,
) -> Result<Scores, Crash> {
    Ok(scores(&infer(model, config, pictures, device)?, pictures))
}

/// The accuracy of the same parameters for each of [`STEP_LIMITS`] on the solver's steps; none for
/// a model without a solver.
///
/// # Errors
///
/// As [`infer`].
pub fn step_costs(
    model: &Classifier,
    config: &TrainConfig,
    pictures: &[Picture],
    device: &Device,
) -> Result<Vec<StepCost>, Crash> {
    let mut costs = Vec::new();
    for limit in STEP_LIMITS {
        let mut config = config.clone();
        let equilibria = config.equilibria_mut();
        if equilibria.is_empty() {
            break;
        }
        for equilibrium in equilibria {
            equilibrium.forward.termination.max_steps = limit;
        }
        // A solver is part of a model's config, not of its parameters.
        let limited = Classifier::new(&config, device).map_err(|error| Crash {
            message: error.to_string(),
            backtrace: String::new(),
        })?;
        let limited = limited.load_record(model.clone().into_record());
        let scores = evaluate(&limited, &config, pictures, device)?;
        costs.push(StepCost {
            limit,
            accuracy: scores.accuracy(),
            forward: scores.forward,
        });
    }
    Ok(costs)
}

/// The scores of an outcome.
pub fn scores(outcome: &Outcome, pictures: &[Picture]) -> Scores {
    let mut scores = Scores {
        pictures: pictures.len(),
        correct: 0,
        loss: 0.0,
        forward: outcome.forward,
    };
    for (row, picture) in outcome.rows.iter().zip(pictures) {
        // Compares an index, not values: of equal logits the first one counts, as elsewhere.
        scores.correct += usize::from(likeliest(row) == Some(picture.label));
        scores.loss += cross_entropy(row, picture.label) / pictures.len() as f64;
    }
    scores
}

/// The cross entropy of a row of logits. It is infinite or NaN where the logits are, and never a
/// finite number in that case.
fn cross_entropy(logits: &[f64], label: usize) -> f64 {
    let probability = softmax(logits).get(label).copied().unwrap_or(0.0);
    if probability != 0.0 {
        return -probability.ln();
    }
    // The probability is too small for a number; its logarithm is not.
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let own = logits.get(label).copied().unwrap_or(f64::NEG_INFINITY);
    let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    sum.ln() + largest - own
}

/// Looks closer at an outcome.
pub fn details(outcome: &Outcome, pictures: &[Picture], classes: &[String]) -> Details {
    let count = classes.len();
    let mut confusion = vec![vec![0_usize; count]; count];
    let mut bins = [[0.0; 3]; BINS];
    let (mut correct, mut in_five, mut loss) = (0_usize, 0_usize, 0.0);
    for (row, picture) in outcome.rows.iter().zip(pictures) {
        let probabilities = softmax(row);
        let predicted = likeliest(row).unwrap_or(0);
        let right = predicted == picture.label;
        correct += usize::from(right);
        let own = row.get(picture.label).copied().unwrap_or(f64::NEG_INFINITY);
        in_five += usize::from(row.iter().filter(|logit| **logit > own).count() < 5);
        loss += cross_entropy(row, picture.label);
        if let Some(cell) = confusion
            .get_mut(picture.label)
            .and_then(|line| line.get_mut(predicted))
        {
            *cell += 1;
        }
        let confidence = probabilities.get(predicted).copied().unwrap_or(0.0);
        let bin = &mut bins[((confidence * BINS as f64) as usize).min(BINS - 1)];
        *bin = [
            bin[0] + 1.0,
            bin[1] + confidence,
            bin[2] + f64::from(u8::from(right)),
        ];
    }
    let total = pictures.len().max(1) as f64;
    let gap: f64 = bins
        .iter()
        .map(|[_, confidence, right]| (confidence - right).abs())
        .sum();
    let per_class = confusion.iter().enumerate().map(|(class, line)| {
        let all: usize = line.iter().sum();
        (all > 0).then(|| 100.0 * line[class] as f64 / all as f64)
    });
    Details {
        pictures: pictures.len(),
        accuracy: 100.0 * correct as f64 / total,
        top5: (count > 5).then(|| 100.0 * in_five as f64 / total),
        loss: loss / total,
        calibration_error: 100.0 * gap / total,
        forward: outcome.forward,
        layers: outcome.layers.clone(),
        classes: classes.to_vec(),
        per_class: per_class.collect(),
        confusion,
    }
}

/// The wrong predictions, the most confident first.
pub fn mistakes(outcome: &Outcome, pictures: &[Picture]) -> Vec<Mistake> {
    let wrong = |(index, (row, picture)): (usize, (&Vec<f64>, &Picture))| {
        let predicted = likeliest(row)?;
        let confidence = *softmax(row).get(predicted)?;
        (predicted != picture.label).then_some(Mistake {
            index,
            predicted,
            confidence,
        })
    };
    let pairs = outcome.rows.iter().zip(pictures).enumerate();
    let mut mistakes: Vec<Mistake> = pairs.filter_map(wrong).collect();
    mistakes.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    mistakes
}

/// Position of the largest value, the first of equals.
pub(crate) fn likeliest(row: &[f64]) -> Option<usize> {
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
    fn a_loss_is_the_number_that_it_is_or_none() {
        assert_eq!(cross_entropy(&[0.0, 0.0], 1), 2_f64.ln());
        assert_eq!(cross_entropy(&[2000.0, 0.0], 1), 2000.0);
        for logits in [[f64::NAN, 1.0], [f64::INFINITY, 1.0], [1.0, f64::NAN]] {
            assert!(!cross_entropy(&logits, 1).is_finite(), "{logits:?}");
        }
        let outcome = Outcome {
            rows: vec![vec![f64::NAN, 1.0], vec![0.0, 1.0]],
            forward: None,
            layers: Vec::new(),
            solves: Vec::new(),
        };
        assert_eq!(outcome.finite(), 1);
        let pictures = vec![Picture::new(vec![0], 0); 2];
        assert!(scores(&outcome, &pictures).loss.is_nan());
        assert!(
            details(&outcome, &pictures, &["a".into(), "b".into()])
                .loss
                .is_nan()
        );
    }

    #[test]
    fn a_known_outcome_has_known_details() {
        let picture = |label| Picture::new(vec![0], label);
        // Always three quarters sure of class 0 of six, rightly in two of four.
        let sure = (0.75_f64 / 0.05).ln();
        let rows = vec![vec![sure, 0.0, 0.0, 0.0, 0.0, 0.0]; 4];
        let outcome = Outcome {
            rows,
            forward: None,
            layers: Vec::new(),
            solves: Vec::new(),
        };
        let pictures = [picture(0), picture(0), picture(1), picture(5)];
        let classes: Vec<String> = (0..6).map(|c| c.to_string()).collect();
        let found = details(&outcome, &pictures, &classes);
        assert_eq!((found.accuracy, found.top5), (50.0, Some(100.0)));
        assert!((found.calibration_error - 25.0).abs() < 1e-9);
        let loss = -(2.0 * 0.75_f64.ln() + 2.0 * 0.05_f64.ln()) / 4.0;
        assert!((found.loss - loss).abs() < 1e-9);
        assert_eq!(found.per_class[..3], [Some(100.0), Some(0.0), None]);
        assert_eq!((found.confusion[0][0], found.confusion[5][0]), (2, 1));
        let wrong = mistakes(&outcome, &pictures);
        assert_eq!(wrong.iter().map(|m| m.index).collect::<Vec<_>>(), [2, 3]);
        assert!((wrong[0].confidence - 0.75).abs() < 1e-9);
    }
}
