//! The settings that a run has unless told otherwise.

use mopteq::{MOptEqsConfig, NetworkConfig};

use crate::config::{EarlySolver, FORMAT, TrainConfig};
use crate::data::{
    Augmentation, DataError, DataKind, DataSet, DataSource, Normalisation, PictureShape,
    normalisation,
};
use crate::schedule::ScheduleKind;

/// From this side on, the stem halves the resolution: the state would be large otherwise.
const LARGE_SIDE: usize = 56;

impl TrainConfig {
    /// The preset of the embedded digits: the default run.
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
            // Of the 4,000 training pictures.
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
            validation_fraction: 0.1,
            seed: 0,
            epochs: 12,
            batch_size: 50,
            accumulation: 1,
            learning_rate: 0.02,
            momentum: 0.9,
            weight_decay: 1e-3,
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

    /// The preset for data that have been read.
    ///
    /// # Errors
    ///
    /// When pictures cannot be read back to compute their normalisation.
    pub fn preset(source: DataSource, data: &DataSet) -> Result<Self, DataError> {
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
        let model = if model.stem_stride == 1 && size[0].min(size[1]) >= LARGE_SIDE {
            model.with_stem_stride(2)
        } else {
            model
        };
        config.model = NetworkConfig::MOptEqs(model);
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
            // That of ImageNet, of which these pictures are.
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
