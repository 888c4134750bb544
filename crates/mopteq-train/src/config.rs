//! Everything that determines a run, as it is kept in `config.json`.

use burn_deq::{EquilibriumConfig, Gradient};
use mopteq::NetworkConfig;
use serde::{Deserialize, Serialize};

use crate::data::{Augmentation, DataSource, Normalisation, PictureShape, RandAugment};

/// The version of `config.json` that this program writes and reads.
pub const FORMAT: u32 = 3;

/// The network of configs that do not name one: the first version had only this one.
pub(crate) const UNNAMED: &str = "mopteq";

/// A training run: with the same config, program and machine, the CPU gives the same result.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Version of this format, `FORMAT`.
    pub format: u32,
    /// The data to train on.
    pub data: DataSource,
    /// The file or run whose weights the training starts from; `None`: random ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Use only this many training pictures, for short checks.
    pub limit: Option<usize>,
    /// Test with only this many test pictures, for short checks.
    pub test_limit: Option<usize>,
    /// Shape of the pictures that the model takes.
    pub shape: PictureShape,
    /// Names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// Constants that the pictures are normalised with.
    pub normalisation: Normalisation,
    /// Augmentation of training pictures, drawn again each time.
    pub augmentation: Augmentation,
    /// Share of each class of the training pictures that is held out to choose the best
    /// checkpoint by. With 0, all pictures are trained on and the last checkpoint is the best.
    pub validation_fraction: f64,
    /// The model.
    #[serde(deserialize_with = "network")]
    pub model: NetworkConfig,
    /// Whether the first kernel starts as the principal axes of patches of the training pictures,
    /// each with both signs (Page 2019; airbench, arXiv:2404.00498).
    #[serde(default)]
    pub whitening: bool,
    /// Whether inference takes the mean of the logits of a picture and of its mirror image.
    #[serde(default)]
    pub test_flip: bool,
    /// Seed of the parameters, the split, the order, the augmentation and the model's noise.
    pub seed: u64,
    /// Passes over the training pictures.
    pub epochs: usize,
    /// Pictures that are computed together.
    pub batch_size: usize,
    /// Batches whose gradients are averaged for one step of the optimiser.
    pub accumulation: usize,
    /// Learning rate, before the schedule.
    pub learning_rate: f64,
    /// Momentum of the gradient descent, without dampening.
    pub momentum: f64,
    /// Whether the momentum looks ahead (Nesterov).
    #[serde(default)]
    pub nesterov: bool,
    /// L2 penalty that is added to the gradient of every parameter.
    pub weight_decay: f64,
    /// Whether this penalty applies only to kernels and matrices, not to norms, biases and l1.
    #[serde(default)]
    pub decay_kernels_only: bool,
    /// How the learning rate falls.
    pub schedule: ScheduleKind,
    /// Points of the training, as fractions of all its steps, at which the multi-step schedule
    /// multiplies the learning rate by `gamma`.
    pub milestones: Vec<f64>,
    /// Factor on the learning rate at each milestone.
    pub gamma: f64,
    /// Share of the learning rate that the cosine schedule ends with.
    pub final_fraction: f64,
    /// Epochs over which the learning rate rises to its full value at first.
    pub warmup_epochs: f64,
    /// Probability that the loss takes from the right class and spreads over all classes.
    pub label_smoothing: f64,
    /// Decay of the exponential moving average of the weights per step; 0 keeps none. The average
    /// is what is validated, tested and used.
    pub ema: f64,
    /// Largest norm of all gradients together; 0 does not clip.
    pub clip_norm: f64,
    /// Validations without a better accuracy after which the training stops and its best
    /// checkpoint is tested; 0 never stops early.
    pub patience: usize,
    /// Cheaper solves in the first part of the training.
    pub early_solver: EarlySolver,
    /// Threads that prepare batches; the result does not depend on it.
    pub workers: usize,
    /// Epochs between two checkpoints; 0 saves only at the end.
    pub checkpoint_epochs: usize,
    /// Minutes between two checkpoints within an epoch; 0 saves none there.
    pub checkpoint_minutes: f64,
}

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// It stays.
    Constant,
    /// It is multiplied by `gamma` at each of the `milestones`.
    MultiStep,
    /// It falls along half a cosine to `final_fraction` of itself.
    Cosine,
}

impl ScheduleKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Constant, Self::MultiStep, Self::Cosine];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::MultiStep => "multi_step",
            Self::Cosine => "cosine",
        }
    }
}

/// A looser solver for the first part of the training, where gradients are rough anyway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlySolver {
    /// Share of the epochs; 0 turns it off.
    pub fraction: f64,
    /// Relative tolerance there; 0 leaves that of the model.
    pub tolerance: f64,
    /// Steps of the phantom gradient there; 0 leaves the model's gradient.
    pub phantom: usize,
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value is outside its range.
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
    /// A setting has an unknown name.
    #[error("{origin}: there is no setting '{key}'{hint}")]
    UnknownKey {
        /// The file or option.
        origin: String,
        /// The name, with dots between its parts.
        key: String,
        /// The nearest known name, as a question.
        hint: String,
    },
    /// A setting has a value of the wrong kind.
    #[error("{origin}: {reason}")]
    Value {
        /// The file or option.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of settings cannot be read.
    #[error("{file}: cannot be read ({source})")]
    Read {
        /// The file.
        file: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A config of another run is applied to data that it does not belong to.
    #[error(
        "{origin} is of other data: {reason}; to use its other settings, remove shape, classes, \
         normalisation and model from it, or fine-tune its run (--from RUN)"
    )]
    OtherData {
        /// The file.
        origin: String,
        /// How these data differ.
        reason: String,
    },
    /// The data are at a path that a config cannot hold.
    #[error("{0}: its name is no UTF-8, which config.json cannot hold; rename it")]
    Utf8(String),
    /// The model refused its part.
    #[error("model: {0}")]
    Model(#[from] mopteq::ConfigError),
}

impl TrainConfig {
    /// Solvers and gradients of the model's equilibria, mutable; none for a model without one.
    pub fn equilibria_mut(&mut self) -> Vec<&mut EquilibriumConfig> {
        self.model.equilibria_mut()
    }

    /// The config as it is in an epoch (counted from 1): with the cheaper solves of the first
    /// part of the training, or as it stands.
    pub fn in_epoch(&self, epoch: usize) -> Self {
        let mut config = self.clone();
        let early = &self.early_solver;
        let early_epoch = epoch as f64 <= (early.fraction * self.epochs as f64).round();
        for equilibrium in config.equilibria_mut() {
            if !early_epoch {
                break;
            }
            if early.tolerance > 0.0 {
                equilibrium.forward.termination.relative = early.tolerance;
            }
            if early.phantom > 0 {
                equilibrium.gradient = Gradient::Phantom {
                    steps: early.phantom,
                    damping: 1.0,
                };
            }
        }
        config
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
        check("limit", &0, self.limit != Some(0), "at least 1")?;
        let test = self.test_limit != Some(0);
        check("test_limit", &0, test, "at least 1")?;
        let extent = !self.shape.is_empty();
        let shape = format_args!("{}", self.shape);
        check("shape", &shape, extent, "at least 1 each way")?;
        let channels_fit = matches!(channels, 1 | 3);
        check(
            "shape.channels",
            &channels,
            channels_fit,
            "1 (grey) or 3 (RGB)",
        )?;
        let classes = self.classes.len();
        check("classes", &classes, classes > 1, "at least 2")?;
        let Normalisation { mean, std } = &self.normalisation;
        let each_channel = "one finite number for each channel, std above 0";
        let means = mean.len() == channels && mean.iter().all(|m| m.is_finite());
        check("normalisation.mean", mean, means, each_channel)?;
        let stds = std.len() == channels && std.iter().all(|s| s.is_finite() && *s > 0.0);
        check("normalisation.std", std, stds, each_channel)?;
        self.validate_augmentation()?;
        share("validation_fraction", self.validation_fraction)?;
        share("data.test_fraction", self.data.test_fraction)?;
        let corrupt = (0.0..=1.0).contains(&self.data.max_corrupt);
        check(
            "data.max_corrupt",
            &self.data.max_corrupt,
            corrupt,
            "0 to 1",
        )?;
        count("epochs", self.epochs)?;
        count("batch_size", self.batch_size)?;
        count("accumulation", self.accumulation)?;
        let workers = (1..=256).contains(&self.workers);
        check("workers", &self.workers, workers, "1 to 256")?;
        let rate = self.learning_rate.is_finite() && self.learning_rate > 0.0;
        check(
            "learning_rate",
            &self.learning_rate,
            rate,
            "a number above 0",
        )?;
        share("momentum", self.momentum)?;
        not_negative("weight_decay", self.weight_decay)?;
        let milestones =
            self.milestones.iter().all(|m| *m > 0.0 && *m < 1.0) && self.milestones.is_sorted();
        let rising = "fractions between 0 and 1, rising";
        check("milestones", &self.milestones, milestones, rising)?;
        let gamma = self.gamma > 0.0 && self.gamma <= 1.0;
        check("gamma", &self.gamma, gamma, "above 0 and at most 1")?;
        let last = (0.0..=1.0).contains(&self.final_fraction);
        check("final_fraction", &self.final_fraction, last, "0 to 1")?;
        let warmup = (0.0..=self.epochs as f64).contains(&self.warmup_epochs);
        check(
            "warmup_epochs",
            &self.warmup_epochs,
            warmup,
            "0 to the number of epochs",
        )?;
        share("label_smoothing", self.label_smoothing)?;
        share("ema", self.ema)?;
        not_negative("clip_norm", self.clip_norm)?;
        let fraction = (0.0..=1.0).contains(&self.early_solver.fraction);
        check(
            "early_solver.fraction",
            &self.early_solver.fraction,
            fraction,
            "0 to 1",
        )?;
        share("early_solver.tolerance", self.early_solver.tolerance)?;
        not_negative("checkpoint_minutes", self.checkpoint_minutes)?;
        let patience = self.patience == 0 || self.validation_fraction > 0.0;
        let needs = "0 where nothing is held out for validation";
        check("patience", &self.patience, patience, needs)?;
        let whitens = !self.whitening || !matches!(self.model, NetworkConfig::Mdeq(_));
        check("whitening", &self.whitening, whitens, "false for an MDEQ")?;
        self.model.validate_for(self.classes.len())?;
        Ok(())
    }

    fn validate_augmentation(&self) -> Result<(), ConfigError> {
        let a = &self.augmentation;
        let shift = (0.0..=1e3).contains(&a.max_shift);
        check(
            "augmentation.max_shift",
            &a.max_shift,
            shift,
            "0 to 1000 pixels",
        )?;
        let rotation = (0.0..=180.0).contains(&a.max_rotation);
        check(
            "augmentation.max_rotation",
            &a.max_rotation,
            rotation,
            "0 to 180 degrees",
        )?;
        let scale = (0.0..1.0).contains(&a.max_scale);
        check(
            "augmentation.max_scale",
            &a.max_scale,
            scale,
            "at least 0 and below 1",
        )?;
        let area = (0.0..=1.0).contains(&a.min_crop_area);
        check(
            "augmentation.min_crop_area",
            &a.min_crop_area,
            area,
            "0 to 1",
        )?;
        check(
            "augmentation.padding",
            &a.padding,
            a.padding <= 1000,
            "0 to 1000 pixels",
        )?;
        check(
            "augmentation.cutout",
            &a.cutout,
            a.cutout <= 1000,
            "0 to 1000 pixels",
        )?;
        let RandAugment {
            operations,
            magnitude,
        } = a.rand_augment;
        check(
            "augmentation.rand_augment.operations",
            &operations,
            operations <= RandAugment::MOST,
            "0 to 14",
        )?;
        check(
            "augmentation.rand_augment.magnitude",
            &magnitude,
            (0.0..=RandAugment::STRONGEST).contains(&magnitude),
            "0 to 10",
        )?;
        for (field, value) in [
            ("augmentation.brightness", a.brightness),
            ("augmentation.contrast", a.contrast),
            ("augmentation.saturation", a.saturation),
        ] {
            check(field, &value, (0.0..=1.0).contains(&value), "0 to 1")?;
        }
        Ok(())
    }
}

fn share(field: &'static str, value: f64) -> Result<(), ConfigError> {
    check(
        field,
        &value,
        (0.0..1.0).contains(&value),
        "at least 0 and below 1",
    )
}

fn not_negative(field: &'static str, value: f64) -> Result<(), ConfigError> {
    let fine = value.is_finite() && value >= 0.0;
    check(field, &value, fine, "a number of at least 0")
}

fn count(field: &'static str, value: usize) -> Result<(), ConfigError> {
    check(
        field,
        &value,
        (1..=1_000_000).contains(&value),
        "1 to 1,000,000",
    )
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

/// A model's config. A config that names no network is a MOptEq's, because there was no other.
fn network<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<NetworkConfig, D::Error> {
    let mut value = serde_json::Value::deserialize(deserializer)?;
    if let Some(table) = value.as_object_mut() {
        table.entry("network").or_insert_with(|| UNNAMED.into());
    }
    serde_json::from_value(value).map_err(serde::de::Error::custom)
}
