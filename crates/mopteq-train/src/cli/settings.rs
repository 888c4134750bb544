//! Settings of a new run from a file and the command line.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::Preset;
use crate::config::{ConfigError, TrainConfig};
use crate::data::{DataKind, DataSet, DataSource, RandAugment, Seen};
use crate::device::SelectedDevice;
use crate::parts::difference;
use crate::progress::warn;
use crate::schedule::ScheduleKind;
use crate::settings::{apply, nested, parse_assignment, read_file};
use crate::train::Weights;
use mopteq::{NetworkConfig, NetworkKind, Precision};

use super::shared::finite;

/// Pixels per side. A larger number is a mistake that could fill the memory.
const LARGEST_SIZE: usize = 4096;

/// The data of a run. They are not settings, because a resumed run may also be given them.
#[derive(Args)]
pub struct DataArguments {
    /// What to train on: digits, cifar10, cifar100, imagenette, or the path of a folder or
    /// archive [default: digits]. With --resume: where the data of the run are now, if they have
    /// moved.
    #[arg(long, value_name = "NAME|PATH")]
    data: Option<String>,
    /// Location of data with a known name, in place of the cache folder.
    #[arg(long, value_name = "PATH", requires = "data")]
    data_path: Option<PathBuf>,
}

impl DataArguments {
    /// The requested data.
    pub fn source(&self) -> Result<Option<DataSource>, Error> {
        let source = |name: &String| DataSource::from_name(name, self.data_path.as_deref());
        Ok(self.data.as_ref().map(source).transpose()?)
    }
}

/// Settings of a new run. The rest comes from the preset of its data.
#[derive(Args)]
pub struct Settings {
    /// Height and width that picture files are scaled to.
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// Share of each class that is set aside for the test if there is no test part.
    #[arg(long, value_name = "FRACTION", value_parser = finite, allow_negative_numbers = true)]
    test_fraction: Option<f64>,
    /// Largest share of damaged pictures that are skipped.
    #[arg(long, value_name = "FRACTION", value_parser = finite, allow_negative_numbers = true)]
    max_corrupt: Option<f64>,
    /// Settings from a TOML file, or from the config.json of another run.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any setting by its name in config.json, such as model.core.channels=64; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_assignment)]
    set: Vec<(String, Value)>,
    /// Network and settings: fast (a stack of equilibria for CPUs), deep (twelve, 0.7 M
    /// parameters), large (sixteen, about 10 M) or paper (the paper's small model) [default: fast,
    /// or paper with an option or setting of its model].
    #[arg(long, value_parser = PossibleValuesParser::new(Preset::ALL.map(Preset::name)))]
    preset: Option<String>,
    /// A network to compare with the paper's, with its settings: mopteq, opteq (one branch), mdeq
    /// or residual (explicit); deep is the network of the preset fast.
    #[arg(long, value_parser = PossibleValuesParser::new(NetworkKind::ALL.map(NetworkKind::name)))]
    model: Option<String>,
    /// Where the activation of the hidden objective stands: s (inside) or p (outside, proximal)
    /// [default: that of the preset].
    #[arg(long, value_parser = PossibleValuesParser::new(["s", "p"]))]
    family: Option<String>,
    /// Precision of the convolutions in the hidden objective: f32, or bf16 if the device has it
    /// [default: f32].
    #[arg(long, value_parser = PossibleValuesParser::new([Precision::Full, Precision::Bf16].map(Precision::name)))]
    precision: Option<String>,
    /// Size of the perturbation of the equilibrium in training; 0 turns it off.
    #[arg(long, value_name = "EPSILON", value_parser = finite, allow_negative_numbers = true)]
    perturbation: Option<f64>,
    /// Passes over the training pictures.
    #[arg(long)]
    epochs: Option<usize>,
    /// Pictures that are computed together.
    #[arg(long)]
    batch_size: Option<usize>,
    /// Batches whose gradients are averaged for one step.
    #[arg(long, value_name = "BATCHES")]
    accumulate: Option<usize>,
    /// Learning rate, before the schedule.
    #[arg(long, value_name = "RATE", value_parser = finite, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// How the learning rate falls: constant, multi_step or cosine.
    #[arg(long, value_parser = PossibleValuesParser::new(ScheduleKind::ALL.map(ScheduleKind::name)))]
    schedule: Option<String>,
    /// Epochs over which the learning rate rises at first.
    #[arg(long, value_name = "EPOCHS", value_parser = finite, allow_negative_numbers = true)]
    warmup: Option<f64>,
    /// L2 penalty on the parameters.
    #[arg(long, value_parser = finite, allow_negative_numbers = true)]
    weight_decay: Option<f64>,
    /// Probability that the loss spreads from the right class over all classes.
    #[arg(long, value_name = "SHARE", value_parser = finite, allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
    /// Decay of the moving average of the weights, such as 0.999; 0 keeps none.
    #[arg(long, value_name = "DECAY", value_parser = finite, allow_negative_numbers = true)]
    ema: Option<f64>,
    /// Largest norm of the whole gradient; 0 does not clip.
    #[arg(long, value_name = "NORM", value_parser = finite, allow_negative_numbers = true)]
    clip_norm: Option<f64>,
    /// Epochs without a better validation accuracy after which training stops; 0 never does.
    #[arg(long, value_name = "EPOCHS")]
    patience: Option<usize>,
    /// RandAugment: the number of operations that each training picture goes through and their
    /// magnitude, 0 to 10, such as 2,9; 0,0 turns it off.
    #[arg(long, value_name = "OPERATIONS,MAGNITUDE")]
    rand_augment: Option<RandAugment>,
    /// Seed of everything random.
    #[arg(long)]
    seed: Option<u64>,
    /// Share of the training pictures that is held out for validation.
    #[arg(long, value_name = "FRACTION", value_parser = finite, allow_negative_numbers = true)]
    validation_fraction: Option<f64>,
    /// Use only this many training pictures, for short checks.
    #[arg(long, value_name = "PICTURES")]
    limit: Option<usize>,
    /// Test with only this many test pictures, for short checks.
    #[arg(long, value_name = "PICTURES")]
    test_limit: Option<usize>,
    /// Threads that prepare batches; the result does not depend on it.
    #[arg(long, value_name = "THREADS")]
    workers: Option<usize>,
    /// Epochs between two checkpoints.
    #[arg(long, value_name = "EPOCHS")]
    checkpoint_epochs: Option<usize>,
    /// Minutes between two checkpoints within an epoch; 0 saves none there.
    #[arg(long, value_name = "MINUTES", value_parser = finite, allow_negative_numbers = true)]
    checkpoint_minutes: Option<f64>,
    /// Folder of the run; must be new or empty [default: the next runs/DATA-N].
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}

impl Settings {
    /// Finds and reads the data, and applies the file and the command line on top of their preset.
    pub fn resolve(&self, data: &DataArguments) -> Result<(TrainConfig, DataSet), Error> {
        let (config, data, _) = self.resolve_from(data, None, None)?;
        Ok((config, data))
    }

    /// The same. If the training starts from weights (those at `from`, or those that the file
    /// names), this reads them to a device and applies the settings on top of theirs.
    pub fn resolve_from(
        &self,
        data: &DataArguments,
        from: Option<&Path>,
        device: Option<&SelectedDevice>,
    ) -> Result<(TrainConfig, DataSet, Option<Weights>), Error> {
        let (mut file, origin) = match &self.config {
            Some(path) => (read_file(path)?, path.display().to_string()),
            None => (Map::new(), String::new()),
        };
        let in_file = file.remove("from");
        let from = from.or(in_file.as_ref().and_then(Value::as_str).map(Path::new));
        let weights = match (from, device) {
            (Some(path), Some(device)) => Some(Weights::read(path, device)?),
            _ => None,
        };
        // Read before the others, because the preset depends on the data. A complete config.json
        // holds all settings, including what the data determined then.
        let in_file = file.remove("data");
        let own_data = data.data.is_none() && in_file.is_none();
        let default = match &weights {
            Some(weights) => weights.config().data.clone(),
            None => DataSource::new(DataKind::Digits),
        };
        let source = self.source(data, in_file, &origin, default)?;
        if source
            .path
            .as_ref()
            .is_some_and(|path| path.to_str().is_none())
        {
            return Err(ConfigError::Utf8(source.describe()).into());
        }
        let (mut config, data) = match &weights {
            None => {
                let data = source.load()?;
                let preset = self.preset(&file);
                let config = TrainConfig::preset(source, &data, preset)?;
                if preset != Preset::Paper && config.model.kind() != NetworkKind::Deep {
                    warn(format_args!(
                        "pictures of {} cannot be halved as often as the preset {} needs; preset paper",
                        config.shape,
                        preset.name()
                    ));
                }
                (config, data)
            }
            Some(weights) => {
                let mut data = source.load_as(weights.config().shape)?;
                let seen = weights.remove_seen(&mut data)?;
                if seen > 0 {
                    warn(Seen::left_out(seen));
                }
                if weights.seen().is_partly()
                    && let Some(from) = from
                {
                    warn(format_args!("{}: {}", from.display(), Seen::PARTLY));
                }
                (weights.settings(source, &data, own_data)?, data)
            }
        };
        let kind = self.model.as_deref().and_then(NetworkKind::from_name);
        if let (Some(kind), NetworkConfig::Deep(_)) = (kind, &config.model)
            && kind != NetworkKind::Deep
        {
            return Err(ConfigError::Value {
                origin: format!("--model {}", kind.name()),
                reason: "it has the settings of the preset paper; leave --preset away".into(),
            }
            .into());
        }
        if let (Some(kind), Some(preset)) = (kind, config.model.mopteqs())
            && kind != NetworkKind::Deep
        {
            config.model = kind.comparable(preset);
        }
        if !file.is_empty() {
            config = apply(&config, file, &origin)?;
        }
        if config.classes != data.classes || config.shape != data.shape {
            let reason = match config.classes == data.classes {
                true => format!("these pictures are {}, not {}", data.shape, config.shape),
                false => format!("these are {}", difference(&config.classes, &data.classes)),
            };
            return Err(ConfigError::OtherData { origin, reason }.into());
        }
        for (key, value) in self.flags() {
            config = apply(&config, nested(key, value), &format!("option for {key}"))?;
        }
        for (key, value) in &self.set {
            config = apply(&config, nested(key, value.clone()), "--set")?;
        }
        config.validate()?;
        Ok((config, data, weights))
    }

    /// The requested preset, or the one that the options and settings belong to.
    fn preset(&self, file: &Map<String, Value>) -> Preset {
        if let Some(preset) = self.preset.as_deref().and_then(Preset::from_name) {
            return preset;
        }
        // Settings that only the paper's model has, if no other network is named.
        let in_file = file.get("model").and_then(Value::as_object);
        let in_file = in_file.filter(|model| !model.contains_key("network"));
        let in_file = in_file.into_iter().flatten().map(|(key, _)| key.as_str());
        let given = self
            .set
            .iter()
            .filter_map(|(key, _)| key.strip_prefix("model."));
        let given = given.map(|key| key.split('.').next().unwrap_or_default());
        let setting = in_file.chain(given).find(|key| Preset::is_of_paper(key));
        let options = [
            ("--family", self.family.is_some()),
            ("--precision", self.precision.is_some()),
            ("--perturbation", self.perturbation.is_some()),
        ];
        let option = options.iter().find(|(_, given)| *given);
        let other = self
            .model
            .as_deref()
            .is_some_and(|m| m != NetworkKind::Deep.name());
        let reason = setting.map(|key| format!("model.{key}"));
        match reason.or(option.map(|(name, _)| (*name).to_owned())) {
            Some(reason) if !other => {
                warn(format_args!(
                    "preset paper instead of fast, because {reason} is of its model; --preset \
                     paper says so"
                ));
                Preset::Paper
            }
            Some(_) => Preset::Paper,
            None if other => Preset::Paper,
            None => Preset::default(),
        }
    }

    fn source(
        &self,
        data: &DataArguments,
        in_file: Option<Value>,
        origin: &str,
        default: DataSource,
    ) -> Result<DataSource, Error> {
        let mut source = match (data.source()?, in_file) {
            (Some(source), _) => source,
            (None, Some(Value::String(name))) => DataSource::from_name(&name, None)?,
            (None, Some(table)) => {
                serde_json::from_value(table).map_err(|error| ConfigError::Value {
                    origin: origin.into(),
                    reason: format!("data: {error}"),
                })?
            }
            (None, None) => default,
        };
        if let Some(size) = self.size {
            // A picture of the largest size takes 48 MB.
            if !(1..=LARGEST_SIZE).contains(&size) {
                return Err(ConfigError::Range {
                    field: "size",
                    value: size.to_string(),
                    range: "1 to 4096 pixels",
                }
                .into());
            }
            source.size = Some([size, size]);
        }
        source.test_fraction = self.test_fraction.unwrap_or(source.test_fraction);
        source.max_corrupt = self.max_corrupt.unwrap_or(source.max_corrupt);
        Ok(source)
    }

    /// The options by their names in the config.
    fn flags(&self) -> Vec<(&'static str, Value)> {
        let options = [
            ("model.core.family", json!(self.family)),
            ("model.core.precision", json!(self.precision)),
            ("model.perturbation.size", json!(self.perturbation)),
            ("epochs", json!(self.epochs)),
            ("batch_size", json!(self.batch_size)),
            ("accumulation", json!(self.accumulate)),
            ("learning_rate", json!(self.lr)),
            ("schedule", json!(self.schedule)),
            ("warmup_epochs", json!(self.warmup)),
            ("weight_decay", json!(self.weight_decay)),
            ("label_smoothing", json!(self.label_smoothing)),
            ("ema", json!(self.ema)),
            ("clip_norm", json!(self.clip_norm)),
            ("patience", json!(self.patience)),
            ("augmentation.rand_augment", json!(self.rand_augment)),
            ("seed", json!(self.seed)),
            ("validation_fraction", json!(self.validation_fraction)),
            ("limit", json!(self.limit)),
            ("test_limit", json!(self.test_limit)),
            ("workers", json!(self.workers)),
            ("checkpoint_epochs", json!(self.checkpoint_epochs)),
            ("checkpoint_minutes", json!(self.checkpoint_minutes)),
        ];
        options
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect()
    }
}
