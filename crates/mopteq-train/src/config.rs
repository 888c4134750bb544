//! Everything that determines a run, as it is kept in `config.json`.

use mopteq::MOptEqsConfig;
use serde::{Deserialize, Serialize};

use crate::data::{Augmentation, DataKind, Normalisation, PictureShape};

/// The version of `config.json` that this program writes and reads.
pub const FORMAT: u32 = 1;

/// A training run: with the same config, program and machine, the CPU gives the same result.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Version of this format, [`FORMAT`].
    pub format: u32,
    /// The data to train on.
    pub data: DataKind,
    /// Use only this many training pictures, for short checks.
    pub limit: Option<usize>,
    /// Shape of the pictures that the model takes.
    pub shape: PictureShape,
    /// Names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// Constants that the pictures are normalised with.
    pub normalisation: Normalisation,
    /// Deformation of training pictures.
    pub augmentation: Augmentation,
    /// Share of each class of the training pictures that is held out to choose the best
    /// checkpoint by. With 0, all pictures are trained on and the last checkpoint is the best.
    pub validation_fraction: f64,
    /// The model.
    pub model: MOptEqsConfig,
    /// Seed of the parameters, the split, the order, the augmentation and the model's noise.
    pub seed: u64,
    /// Passes over the training pictures.
    pub epochs: usize,
    /// Pictures in a step.
    pub batch_size: usize,
    /// Learning rate of the first steps.
    pub learning_rate: f64,
    /// Momentum of the gradient descent, without dampening.
    pub momentum: f64,
    /// L2 penalty that is added to the gradient of every parameter.
    pub weight_decay: f64,
    /// Points of the training, as fractions of all its steps, at which the learning rate is
    /// multiplied by `gamma`.
    pub milestones: Vec<f64>,
    /// Factor on the learning rate at each milestone.
    pub gamma: f64,
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value is outside of its range.
    #[error("{field} is {value}, but must be {range}")]
    Range {
        /// Name of the field, as in `config.json`.
        field: &'static str,
        /// The value found.
        value: String,
        /// The values allowed, in words.
        range: &'static str,
    },
    /// The file was written by another version of the program.
    #[error(
        "format is {0}, but this program reads format {FORMAT}; use the version that made the run"
    )]
    Format(u32),
    /// The model refused its part.
    #[error("model: {0}")]
    Model(#[from] mopteq::ConfigError),
}

impl TrainConfig {
    /// The preset of a data set.
    pub fn preset(data: DataKind) -> Self {
        match data {
            DataKind::Digits => Self::digits(),
        }
    }

    fn digits() -> Self {
        let shape = PictureShape {
            channels: 1,
            height: 28,
            width: 28,
        };
        let classes: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
        Self {
            format: FORMAT,
            data: DataKind::Digits,
            limit: None,
            shape,
            model: MOptEqsConfig::digits(
                classes.len(),
                shape.channels,
                [shape.height, shape.width],
            ),
            classes,
            // Of the 4,000 training pictures.
            normalisation: Normalisation {
                mean: vec![0.1309],
                std: vec![0.3080],
            },
            augmentation: Augmentation {
                max_shift: 2.0,
                max_rotation: 10.0,
                max_scale: 0.1,
            },
            validation_fraction: 0.1,
            seed: 0,
            epochs: 12,
            batch_size: 50,
            learning_rate: 0.02,
            momentum: 0.9,
            weight_decay: 1e-3,
            milestones: vec![0.6, 0.85],
            gamma: 0.1,
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    ///
    /// Names the first field that cannot work, its value and the values allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.format != FORMAT {
            return Err(ConfigError::Format(self.format));
        }
        let channels = self.shape.channels;
        let Normalisation { mean, std } = &self.normalisation;
        let Augmentation {
            max_shift,
            max_rotation,
            max_scale,
        } = self.augmentation;
        let each_channel = "one finite number for each channel, std above 0";
        check("limit", &self.limit, self.limit != Some(0), "at least 1")?;
        check(
            "shape",
            &self.shape,
            !self.shape.is_empty(),
            "at least 1 each way",
        )?;
        check(
            "shape.channels",
            &channels,
            matches!(channels, 1 | 3),
            "1 (grey) or 3 (RGB)",
        )?;
        check(
            "classes",
            &self.classes.len(),
            self.classes.len() > 1,
            "at least 2",
        )?;
        let means = mean.len() == channels && mean.iter().all(|m| m.is_finite());
        check("normalisation.mean", mean, means, each_channel)?;
        let stds = std.len() == channels && std.iter().all(|s| s.is_finite() && *s > 0.0);
        check("normalisation.std", std, stds, each_channel)?;
        let shift = (0.0..=1e3).contains(&max_shift);
        check(
            "augmentation.max_shift",
            &max_shift,
            shift,
            "0 to 1000 pixels",
        )?;
        let rotation = (0.0..=180.0).contains(&max_rotation);
        check(
            "augmentation.max_rotation",
            &max_rotation,
            rotation,
            "0 to 180 degrees",
        )?;
        let scale = (0.0..1.0).contains(&max_scale);
        check(
            "augmentation.max_scale",
            &max_scale,
            scale,
            "at least 0 and below 1",
        )?;
        let fraction = (0.0..1.0).contains(&self.validation_fraction);
        check(
            "validation_fraction",
            &self.validation_fraction,
            fraction,
            "at least 0 and below 1",
        )?;
        check(
            "epochs",
            &self.epochs,
            (1..=1_000_000).contains(&self.epochs),
            "1 to 1,000,000",
        )?;
        let batch = (1..=1_000_000).contains(&self.batch_size);
        check("batch_size", &self.batch_size, batch, "1 to 1,000,000")?;
        let rate = self.learning_rate.is_finite() && self.learning_rate > 0.0;
        check(
            "learning_rate",
            &self.learning_rate,
            rate,
            "a number above 0",
        )?;
        let momentum = (0.0..1.0).contains(&self.momentum);
        check(
            "momentum",
            &self.momentum,
            momentum,
            "at least 0 and below 1",
        )?;
        let decay = self.weight_decay.is_finite() && self.weight_decay >= 0.0;
        check(
            "weight_decay",
            &self.weight_decay,
            decay,
            "a number of at least 0",
        )?;
        let milestones =
            self.milestones.iter().all(|m| *m > 0.0 && *m < 1.0) && self.milestones.is_sorted();
        check(
            "milestones",
            &self.milestones,
            milestones,
            "fractions between 0 and 1, rising",
        )?;
        let gamma = self.gamma > 0.0 && self.gamma <= 1.0;
        check("gamma", &self.gamma, gamma, "above 0 and at most 1")
    }
}

fn check(
    field: &'static str,
    value: &impl std::fmt::Debug,
    fine: bool,
    range: &'static str,
) -> Result<(), ConfigError> {
    if fine {
        return Ok(());
    }
    Err(ConfigError::Range {
        field,
        value: format!("{value:?}"),
        range,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preset_is_valid_and_survives_json() {
        let config = TrainConfig::preset(DataKind::Digits);
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        let back: TrainConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }

    #[test]
    fn a_wrong_value_is_named() {
        let base = TrainConfig::preset(DataKind::Digits);
        for (wrong, field) in [
            (
                TrainConfig {
                    epochs: 0,
                    ..base.clone()
                },
                "epochs",
            ),
            (
                TrainConfig {
                    batch_size: 0,
                    ..base.clone()
                },
                "batch_size",
            ),
            (
                TrainConfig {
                    learning_rate: f64::NAN,
                    ..base.clone()
                },
                "learning_rate",
            ),
            (
                TrainConfig {
                    momentum: 1.0,
                    ..base.clone()
                },
                "momentum",
            ),
            (
                TrainConfig {
                    milestones: vec![0.8, 0.2],
                    ..base.clone()
                },
                "milestones",
            ),
            (
                TrainConfig {
                    validation_fraction: 1.0,
                    ..base.clone()
                },
                "validation_fraction",
            ),
            (
                TrainConfig {
                    format: 99,
                    ..base.clone()
                },
                "format",
            ),
        ] {
            let message = wrong.validate().unwrap_err().to_string();
            assert!(message.starts_with(field), "{message}");
        }
    }
}
