//! The settings that a run has unless told otherwise.

use mopteq::{DeepConfig, MOptEqsConfig, NetworkConfig, StemConfig};

use crate::config::{EarlySolver, FORMAT, ScheduleKind, TrainConfig};
use crate::data::{
    Augmentation, DataError, DataKind, DataSet, DataSource, Normalisation, PictureShape,
    normalisation,
};

/// Channels of a stem of a large stride.
const LARGE_STEM: usize = 64;

/// Relative tolerance of the solves for photographs. A tighter one brings no accuracy (the book's
/// chapter "Results").
const PHOTOGRAPHS: f64 = 0.05;

/// From this side length on, the stem halves the resolution. Otherwise the state would be large.
const LARGE_SIDE: usize = 56;

/// A network with the settings that train it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// The paper's small model: one equilibrium of three branches, with the paper's settings where
    /// they are known.
    Paper,
    /// A stack of codings for CPUs. The default.
    #[default]
    Fast,
    /// Twelve codings, 0.7 M parameters.
    Deep,
    /// Sixteen codings, about 10 M parameters.
    Large,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Paper, Self::Fast, Self::Deep, Self::Large];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Fast => "fast",
            Self::Deep => "deep",
            Self::Large => "large",
        }
    }

    /// The preset with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// Whether only the paper's model has a setting of this name, and not a stack.
    pub fn is_of_paper(setting: &str) -> bool {
        let has = |model: NetworkConfig| {
            let value = serde_json::to_value(&model).unwrap_or_default();
            value.get(setting).is_some()
        };
        let paper = MOptEqsConfig::digits(10, 1, [28, 28]);
        let stack = DeepConfig::digits(10, 1, [28, 28]);
        has(NetworkConfig::MOptEqs(paper)) && !has(NetworkConfig::Deep(stack))
    }

    /// The stack for these pictures; `None` for the paper's model, or if no stem makes their sides
    /// divisible as the stages require.
    fn stack(self, classes: usize, shape: PictureShape) -> Option<DeepConfig> {
        let (channels, size) = (shape.channels, [shape.height, shape.width]);
        let stack = match self {
            Self::Paper => return None,
            Self::Fast if size == [28, 28] => {
                return Some(DeepConfig::digits(classes, channels, size));
            }
            Self::Fast => DeepConfig::fast(classes, channels, size),
            Self::Deep => DeepConfig::deep(classes, channels, size),
            Self::Large => DeepConfig::large(classes, channels, size),
        };
        // The first stage has some 32 pixels a side, as the widths of the stages presume.
        let stride = (size[0].max(size[1]) / 32).next_power_of_two().clamp(1, 8);
        let kernel = if stride > 2 { 7 } else { 3 };
        // A cell of 4 x 4 RGB pixels has 48 values, of which 24 channels would keep too little.
        let stem_channels = match stride {
            4.. => stack.stem_channels.max(LARGE_STEM),
            _ => stack.stem_channels,
        };
        let stack = DeepConfig {
            stem_channels,
            ..stack
        };
        let least = kernel / 2;
        let stack = stack.with_stem(StemConfig::new().with_kernel(kernel).with_stride(stride));
        (least..least + 16 * stride)
            .map(|padding| stack.clone().with_stem(stack.stem.with_padding(padding)))
            .find(|stack| stack.validate().is_ok())
    }
}

impl TrainConfig {
    /// The paper's settings for the embedded digits.
    pub fn digits() -> Self {
        let shape = PictureShape {
            channels: 1,
            height: 28,
            width: 28,
        };
        let classes: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
        Self {
            format: FORMAT,
            data: DataSource::new(DataKind::Digits),
            from: None,
            limit: None,
            test_limit: None,
            shape,
            model: NetworkConfig::MOptEqs(MOptEqsConfig::digits(
                classes.len(),
                shape.channels,
                [shape.height, shape.width],
            )),
            classes,
            // Statistics of the 4,000 training pictures.
            normalisation: Normalisation {
                mean: vec![0.1309],
                std: vec![0.3080],
            },
            augmentation: Augmentation {
                max_shift: 2.0,
                max_rotation: 10.0,
                max_scale: 0.1,
                ..Augmentation::NONE
            },
            whitening: false,
            test_flip: false,
            validation_fraction: 0.1,
            seed: 0,
            epochs: 12,
            batch_size: 50,
            accumulation: 1,
            learning_rate: 0.02,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 1e-3,
            decay_kernels_only: false,
            schedule: ScheduleKind::MultiStep,
            milestones: vec![0.6, 0.85],
            gamma: 0.1,
            final_fraction: 0.0,
            warmup_epochs: 0.0,
            label_smoothing: 0.0,
            ema: 0.0,
            clip_norm: 0.0,
            patience: 0,
            early_solver: EarlySolver::default(),
            workers: 2,
            checkpoint_epochs: 1,
            checkpoint_minutes: 10.0,
        }
    }

    /// A preset for data that have been read. If its stack does not fit the pictures, the preset of
    /// the paper's model.
    ///
    /// # Errors
    ///
    /// When pictures cannot be read back to compute their normalisation.
    pub fn preset(source: DataSource, data: &DataSet, preset: Preset) -> Result<Self, DataError> {
        let config = Self::paper(source, data)?;
        let Some(stack) = preset.stack(config.classes.len(), config.shape) else {
            return Ok(config);
        };
        Ok(config.stacked(stack))
    }

    /// The same with a stack and the settings that train it: Nesterov momentum, a cosine, no
    /// penalty on norms and l1, a first kernel that whitens, label smoothing and a moving average,
    /// as in airbench (Jordan 2024, arXiv:2404.00498) and in the common recipes for residual
    /// networks.
    fn stacked(self, stack: DeepConfig) -> Self {
        let kind = self.data.kind;
        let mut config = Self {
            model: NetworkConfig::Deep(stack),
            nesterov: true,
            weight_decay: 5e-4,
            decay_kernels_only: true,
            whitening: true,
            schedule: ScheduleKind::Cosine,
            label_smoothing: 0.1,
            clip_norm: 0.0,
            ..self
        };
        match kind {
            DataKind::Digits | DataKind::Idx => {
                config.epochs = 28;
                config.learning_rate = 0.05;
                config.ema = 0.99;
                config.augmentation.max_shift = 2.5;
                config.augmentation.max_rotation = 15.0;
                config.augmentation.max_scale = 0.15;
            }
            DataKind::Cifar10 | DataKind::Cifar100 | DataKind::Imagenette => {
                config.epochs = 22;
                config.warmup_epochs = 2.0;
                config.learning_rate = 0.1;
                config.ema = 0.999;
                config.test_flip = true;
                if kind == DataKind::Imagenette {
                    // As many pictures as in 15 epochs of CIFAR.
                    config.epochs = 80;
                } else {
                    config.augmentation.cutout = 8;
                }
            }
            DataKind::Folder => {
                config.ema = 0.99;
            }
        }
        if !matches!(kind, DataKind::Digits | DataKind::Idx) {
            for equilibrium in config.equilibria_mut() {
                equilibrium.forward.termination.relative = PHOTOGRAPHS;
            }
        }
        config
    }

    fn paper(source: DataSource, data: &DataSet) -> Result<Self, DataError> {
        let shape = data.shape;
        let kind = source.kind;
        let mut config = Self {
            data: source,
            shape,
            classes: data.classes.clone(),
            ..Self::digits()
        };
        if kind == DataKind::Digits {
            return Ok(config);
        }
        let size = [shape.height, shape.width];
        let model = if kind == DataKind::Idx && size == [28, 28] {
            MOptEqsConfig::digits(data.classes.len(), shape.channels, size)
        } else {
            MOptEqsConfig::small(data.classes.len(), shape.channels, size)
        };
        let large = model.stem.stride == 1 && size[0].min(size[1]) >= LARGE_SIDE;
        config.model = NetworkConfig::MOptEqs(match large {
            true => model.with_stem(StemConfig::new().with_stride(2)),
            false => model,
        });
        let published = |mean: [f32; 3], std: [f32; 3]| Normalisation {
            mean: mean.to_vec(),
            std: std.to_vec(),
        };
        config.normalisation = match kind {
            DataKind::Cifar10 if shape.channels == 3 => {
                published([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
            }
            DataKind::Cifar100 if shape.channels == 3 => {
                published([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762])
            }
            // The statistics of ImageNet, from which these pictures come.
            DataKind::Imagenette if shape.channels == 3 => {
                published([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            }
            _ => normalisation(&data.train, shape)?,
        };
        match kind {
            // The settings of the paper.
            DataKind::Cifar10 | DataKind::Cifar100 | DataKind::Imagenette => {
                config.epochs = 200;
                config.batch_size = 128;
                config.learning_rate = 0.1;
                // Without these two, the loss rises above chance at first.
                config.warmup_epochs = 1.0;
                config.clip_norm = 1.0;
                config.milestones = vec![0.5, 0.75, 0.875];
                config.validation_fraction = 0.02;
                config.augmentation = Augmentation {
                    flip: true,
                    ..Augmentation::NONE
                };
                if kind == DataKind::Imagenette {
                    config.augmentation.min_crop_area = 0.35;
                } else {
                    config.augmentation.padding = 4;
                }
            }
            // Small sets of photographs.
            DataKind::Folder => {
                config.epochs = 30;
                config.batch_size = 32;
                config.learning_rate = 0.05;
                config.schedule = ScheduleKind::Cosine;
                config.warmup_epochs = 1.0;
                config.clip_norm = 1.0;
                config.augmentation = Augmentation {
                    flip: true,
                    padding: shape.width / 8,
                    brightness: 0.1,
                    contrast: 0.1,
                    ..Augmentation::NONE
                };
            }
            DataKind::Digits | DataKind::Idx => {}
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use burn_deq::Gradient;

    use super::*;

    #[test]
    fn the_preset_is_valid_and_survives_json() {
        let config = TrainConfig::digits();
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        let back: TrainConfig = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }

    #[test]
    fn a_wrong_value_is_named() {
        let wrong = |change: fn(&mut TrainConfig), field: &str| {
            let mut config = TrainConfig::digits();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(field), "{message}");
        };
        wrong(|c| c.epochs = 0, "epochs");
        wrong(|c| c.batch_size = 0, "batch_size");
        wrong(|c| c.learning_rate = f64::NAN, "learning_rate");
        wrong(|c| c.momentum = 1.0, "momentum");
        wrong(|c| c.milestones = vec![0.8, 0.2], "milestones");
        wrong(|c| c.validation_fraction = 1.0, "validation_fraction");
        wrong(
            |c| c.augmentation.brightness = f32::NAN,
            "augmentation.brightness",
        );
        wrong(
            |c| c.augmentation.rand_augment.operations = 15,
            "augmentation.rand_augment.operations",
        );
        wrong(
            |c| c.augmentation.rand_augment.magnitude = f32::NAN,
            "augmentation.rand_augment.magnitude",
        );
        wrong(|c| c.ema = 1.0, "ema");
        wrong(|c| c.clip_norm = -1.0, "clip_norm");
        wrong(|c| c.warmup_epochs = 99.0, "warmup_epochs");
        wrong(|c| c.format = 99, "format");
    }

    #[test]
    fn the_solver_is_looser_early() {
        let config = TrainConfig {
            epochs: 10,
            early_solver: EarlySolver {
                fraction: 0.3,
                tolerance: 0.05,
                phantom: 2,
            },
            ..TrainConfig::digits()
        };
        let of = |epoch| config.in_epoch(epoch).equilibria_mut()[0].clone();
        assert_eq!(of(3).forward.termination.relative, 0.05);
        assert!(matches!(of(3).gradient, Gradient::Phantom { steps: 2, .. }));
        assert_eq!(of(4), of(10));
        assert_eq!(&mut of(4), config.clone().equilibria_mut()[0]);
    }
}
