//! Weights that a training starts from: those of a run, or of an exported model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn_store::ModuleSnapshot;
use mopteq::NetworkConfig;

use super::WeightsError;
use crate::Error;
use crate::checkpoint::{Which, load_model};
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::data::{DataError, DataSet, DataSource, Seen};
use crate::device::SelectedDevice;
use crate::presets::Preset;
use crate::run::RunFolder;
use crate::ship;

/// Trained weights with the settings of their model.
pub struct Weights {
    path: PathBuf,
    config: TrainConfig,
    model: Classifier,
    /// What they were trained on and chosen by.
    seen: Seen,
}

type Shapes = BTreeMap<String, Vec<usize>>;

fn shapes(model: &Classifier) -> Shapes {
    let tensors = model.collect(None, None, true).into_iter();
    tensors
        .map(|tensor| (tensor.name.clone(), tensor.shape.to_vec()))
        .collect()
}

/// The network for another number of classes.
fn with_classes(network: &NetworkConfig, classes: usize) -> NetworkConfig {
    let mut network = network.clone();
    match &mut network {
        NetworkConfig::MOptEqs(c) | NetworkConfig::OptEq(c) => c.classes = classes,
        NetworkConfig::Mdeq(c) => c.classes = classes,
        NetworkConfig::Deep(c) => c.classes = classes,
        NetworkConfig::Residual(c) => c.classes = classes,
    }
    network
}

/// Names of the tensors that depend on the number of classes.
fn head(config: &TrainConfig, own: &Shapes, device: &Device) -> Result<BTreeSet<String>, Error> {
    let other = TrainConfig {
        model: with_classes(&config.model, config.model.classes() + 1),
        ..config.clone()
    };
    let other = shapes(&Classifier::new(&other, device)?.materialised());
    let differs = |(name, shape): &(&String, &Vec<usize>)| other.get(*name) != Some(*shape);
    Ok(own
        .iter()
        .filter(differs)
        .map(|(name, _)| name.clone())
        .collect())
}

impl Weights {
    /// Reads the weights of a run's last checkpoint, or of an exported model.
    ///
    /// # Errors
    ///
    /// When there are none, or they are damaged.
    pub fn read(path: &Path, device: &SelectedDevice) -> Result<Self, Error> {
        if !path.exists() {
            return Err(WeightsError::Missing(path.into()).into());
        }
        let absolute = std::path::absolute(path).map_err(|e| DataError::read(path, e))?;
        if !path.is_dir() {
            let (config, model, seen) = ship::read(path, device)?;
            return Ok(Self {
                path: absolute,
                config,
                model,
                seen,
            });
        }
        let run = RunFolder::open(path)?;
        let config = run.read_config()?;
        let model = Classifier::new(&config, &device.device)?;
        let model = load_model(&run, Which::Last.position(&run)?, model)?;
        let seen = run.seen(&config)?;
        Ok(Self {
            path: absolute,
            config,
            model,
            seen,
        })
    }

    /// What they were trained on and chosen by, as far as that is known.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The settings that the weights were trained with.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Settings for a training on data of the model's shape: those that the weights were trained
    /// with on their own data, or else the preset of the data. Pictures are normalised as the
    /// model knows them.
    ///
    /// # Errors
    ///
    /// When pictures cannot be read back.
    pub fn settings(
        &self,
        source: DataSource,
        data: &DataSet,
        own_data: bool,
    ) -> Result<TrainConfig, DataError> {
        let base = match own_data {
            true => self.config.clone(),
            false => {
                let preset = match self.config.model {
                    NetworkConfig::Deep(_) => Preset::Fast,
                    _ => Preset::Paper,
                };
                TrainConfig::preset(source.clone(), data, preset)?
            }
        };
        Ok(TrainConfig {
            from: Some(self.path.display().to_string()),
            data: source,
            shape: data.shape,
            classes: data.classes.clone(),
            normalisation: self.config.normalisation.clone(),
            model: with_classes(&self.config.model, data.classes.len()),
            ..base
        })
    }

    /// Removes the test pictures that the weights were trained on, and counts them. The data
    /// keep what the weights have seen: the validation pictures are chosen from others first.
    ///
    /// # Errors
    ///
    /// When no other test picture is left.
    pub fn remove_seen(&self, data: &mut DataSet) -> Result<usize, WeightsError> {
        let before = data.test.len();
        data.test.retain(|picture| !self.seen.contains(picture));
        data.earlier = self.seen.clone();
        match data.test.is_empty() {
            true => Err(WeightsError::AllSeen(self.path.clone())),
            false => Ok(before - data.test.len()),
        }
    }

    /// Puts the weights into a model. If the classes differ from those of the weights, the tensors
    /// that depend on them stay as they are, and their names are returned.
    ///
    /// # Errors
    ///
    /// When another tensor is missing or has another shape.
    pub(super) fn put_into(
        &self,
        model: &mut Classifier,
        config: &TrainConfig,
        device: &Device,
    ) -> Result<Vec<String>, Error> {
        let (own, given) = (shapes(model), shapes(&self.model));
        let fresh = match self.config.classes == config.classes {
            true => BTreeSet::new(),
            false => head(config, &own, device)?,
        };
        let text = |shape: Option<&Vec<usize>>| match shape {
            Some(shape) => shape
                .iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join(" x "),
            None => "missing".into(),
        };
        let all: BTreeSet<&String> = own.keys().chain(given.keys()).collect();
        let differs = |name: &&String| !fresh.contains(*name) && own.get(*name) != given.get(*name);
        let mut different = all.into_iter().filter(differs);
        if let Some(name) = different.next() {
            let here = text(own.get(name));
            let difference = format!("{name} is {} there and {here} here", text(given.get(name)));
            let difference = match different.count() {
                0 => difference,
                more => format!("{difference}, and {more} more tensors differ"),
            };
            let path = self.path.clone();
            return Err(WeightsError::Mismatch { path, difference }.into());
        }
        let mut tensors = self.model.collect(None, None, true);
        tensors.retain(|tensor| !fresh.contains(&tensor.name));
        let result = model.apply(tensors, None, None, true);
        if let Some(error) = result.errors.first() {
            let (path, difference) = (self.path.clone(), error.to_string());
            return Err(WeightsError::Mismatch { path, difference }.into());
        }
        Ok(fresh.into_iter().collect())
    }
}
