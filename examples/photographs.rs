//! What the examples on photographs share: the options of their command line, and an equilibrium
//! network as a model of Burn's `Learner`.

use std::error::Error;
use std::path::PathBuf;
use std::str::FromStr;

use burn::prelude::*;
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use mopteq::{DeepConfig, Network, NetworkConfig};
use mopteq_train::data::{Batch, DataKind, DataSet, DataSource};
use mopteq_train::device::{DeviceChoice, select};

use crate::layers::cross_entropy;

/// The command line: `--data PATH --device NAME --epochs N --limit N`, all of them optional.
#[derive(Debug, Default)]
pub struct Options {
    /// Where the data are; `None`: in the cache folder of `mopteq`.
    pub data: Option<PathBuf>,
    /// What to compute on.
    pub device: Device,
    /// Passes over the training pictures.
    pub epochs: Option<usize>,
    /// Use only so many pictures of each part.
    pub limit: Option<usize>,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// When an option is unknown or has no such value, or the device does not work.
    pub fn read() -> Result<Self, Box<dyn Error>> {
        let mut options = Self::default();
        let mut device = DeviceChoice::Auto;
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(format!("{name} needs a value"))?;
            match name.as_str() {
                "--data" => options.data = Some(value.into()),
                "--device" => {
                    let choice = value.parse().map_err(|e| format!("--device {value}: {e}"));
                    device = choice?;
                }
                "--epochs" => options.epochs = Some(number(&name, &value)?),
                "--limit" => options.limit = Some(number(&name, &value)?),
                _ => {
                    let known = "--data, --device, --epochs, --limit";
                    return Err(format!("there is no option {name}; there are {known}").into());
                }
            }
        }
        options.device = select(device).map_err(|e| e.to_string())?.device;
        Ok(options)
    }

    /// The pictures.
    ///
    /// # Errors
    ///
    /// When they are not there, or damaged.
    pub fn load(&self, kind: DataKind) -> Result<DataSet, Box<dyn Error>> {
        let source = DataSource {
            path: self.data.clone(),
            ..DataSource::new(kind)
        };
        // As text, because `main` prints errors for programmers.
        Ok(source.load().map_err(|e| e.to_string())?)
    }
}

fn number(name: &str, value: &str) -> Result<usize, String> {
    let number = usize::from_str(value).ok().filter(|n| *n > 0);
    number.ok_or(format!("{name}: {value} is no number above 0"))
}

/// An equilibrium network with the cross entropy as its loss.
#[derive(Module, Debug)]
pub struct Net {
    network: Network,
}

impl Net {
    /// A stack with random parameters on a device with autodiff.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be built.
    pub fn new(config: DeepConfig, device: &Device) -> Result<Self, mopteq::ConfigError> {
        let network = NetworkConfig::Deep(config).init(device)?;
        Ok(Self { network })
    }

    /// The same with a stem that whitens these pictures.
    pub fn whitened(self, images: &Tensor<4>) -> Self {
        Self {
            network: self.network.whitened(images),
        }
    }

    fn forward(&self, batch: Batch) -> ClassificationOutput {
        let logits = self.network.forward(batch.images).logits;
        let loss = cross_entropy(&logits, &batch.targets);
        ClassificationOutput::new(loss, logits, batch.targets)
    }
}

impl TrainStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let item = self.forward(batch);
        TrainOutput::new(self, item.loss.backward(), item)
    }
}

impl InferenceStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.forward(batch)
    }
}
