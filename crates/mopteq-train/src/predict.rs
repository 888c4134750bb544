//! Using a trained run: classifying picture files, evaluating, looking inside.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::checkpoint::{Position, Which, load_model};
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::crash::Crash;
use crate::data::{DataError, DataSet, Picture, PictureShape, Pixels, decode_file};
use crate::device::SelectedDevice;
use crate::evaluate::{self, Details, Outcome, StepCost, softmax};
use crate::run::RunFolder;

/// A picture could not be classified. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// There is no such file or folder, or it may not be read.
    #[error("{path}: cannot be read ({source})")]
    Read {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No file of the folder is a picture.
    #[error("{0}: no file in this folder is a picture that can be read")]
    Empty(PathBuf),
    /// The device failed.
    #[error("the prediction failed: {message}; {remedy}")]
    Crashed {
        /// The first thing that went wrong.
        message: String,
        /// What may help.
        remedy: &'static str,
    },
}

impl From<Crash> for PredictError {
    fn from(crash: Crash) -> Self {
        let remedy = crate::train::remedy(&crash.message);
        let message = crash.message;
        Self::Crashed { message, remedy }
    }
}

/// A class and how likely it is.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Likelihood {
    /// Name of the class.
    pub class: String,
    /// Probability, 0 to 1.
    pub probability: f64,
}

/// A trained model with what is needed to use it.
pub struct Predictor {
    model: Classifier,
    config: TrainConfig,
    device: SelectedDevice,
    position: Position,
}

impl Predictor {
    /// Loads a checkpoint of a run. `steps` limits the solver; `None` leaves the run's limit.
    ///
    /// # Errors
    ///
    /// When the run's config or the checkpoint is missing or damaged, or no limit allows 0 steps.
    pub fn load(
        run: &RunFolder,
        which: Which,
        device: SelectedDevice,
        steps: Option<usize>,
    ) -> Result<Self, Error> {
        let config = run.read_config()?;
        let position = which.position(run)?;
        let limited = with_steps(&config, steps)?;
        let model = Classifier::new(&limited, &device.device)?;
        let model = load_model(run, position, model)?;
        Ok(Self {
            model,
            config: limited,
            device,
            position,
        })
    }

    /// Where in the training the model was saved.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Config of the run.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The model.
    pub fn model(&self) -> &Classifier {
        &self.model
    }

    /// The device.
    pub fn device(&self) -> &SelectedDevice {
        &self.device
    }

    /// Shape of the pictures that the model takes.
    pub fn shape(&self) -> PictureShape {
        self.config.shape
    }

    /// The classes of each picture, the likeliest first. Pictures hold `shape().len()` values.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn classify(&self, pictures: &[Pixels]) -> Result<Vec<Vec<Likelihood>>, PredictError> {
        let unlabelled = |pixels: &Pixels| Picture {
            pixels: pixels.clone(),
            label: 0,
        };
        let pictures: Vec<Picture> = pictures.iter().map(unlabelled).collect();
        let ranked = |logits: Vec<f64>| {
            let mut ranked: Vec<Likelihood> = softmax(&logits)
                .into_iter()
                .zip(&self.config.classes)
                .map(|(probability, class)| Likelihood {
                    class: class.clone(),
                    probability,
                })
                .collect();
            ranked.sort_by(|a, b| b.probability.total_cmp(&a.probability));
            ranked
        };
        let outcome = self.infer(&pictures)?;
        Ok(outcome.rows.into_iter().map(ranked).collect())
    }

    /// Logits of pictures.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn infer(&self, pictures: &[Picture]) -> Result<Outcome, PredictError> {
        let outcome = evaluate::infer(&self.model, &self.config, pictures, &self.device.device)?;
        Ok(outcome)
    }

    /// Scores on labelled pictures.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn evaluate(&self, pictures: &[Picture]) -> Result<Details, Error> {
        let outcome = self.infer(pictures)?;
        Ok(evaluate::details(&outcome, pictures, &self.config.classes))
    }

    /// The accuracy for each of [`evaluate::STEP_LIMITS`] on the solver's steps.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn step_costs(&self, pictures: &[Picture]) -> Result<Vec<StepCost>, Error> {
        let device = &self.device.device;
        let costs = evaluate::step_costs(&self.model, &self.config, pictures, device);
        Ok(costs.map_err(PredictError::from)?)
    }

    /// The data that the run was trained on; the test part is what `evaluate` is for.
    ///
    /// # Errors
    ///
    /// When the data cannot be read, or are not those of the run any more.
    pub fn data(&self) -> Result<DataSet, Error> {
        let data = self.config.data.load()?;
        if data.shape != self.config.shape || data.classes != self.config.classes {
            return Err(DataError::Changed {
                path: self.config.data.describe(),
                reason: format!(
                    "it has {} classes of {:?} pictures",
                    data.classes.len(),
                    data.shape
                ),
            }
            .into());
        }
        Ok(data)
    }
}

/// The config with another limit on the solver's steps.
fn with_steps(config: &TrainConfig, steps: Option<usize>) -> Result<TrainConfig, Error> {
    let mut config = config.clone();
    if let Some(steps) = steps {
        if let Some(equilibrium) = config.equilibrium_mut() {
            equilibrium.forward.termination.max_steps = steps;
        }
        config.validate()?;
    }
    Ok(config)
}

/// A picture file that was read.
pub struct PictureFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its values in the model's shape.
    pub pixels: Pixels,
}

/// Reads the pictures of a path: the file itself, or the files of a folder in order of their
/// names. In a folder, what is no picture is left out and passed to `skipped`.
///
/// Values stay as they are: a model trained on white strokes on black, as MNIST is, needs such
/// pictures, or `invert`.
///
/// # Errors
///
/// When the path is not there, the file no picture, or the folder without any.
pub fn read_path(
    path: &Path,
    shape: PictureShape,
    invert: bool,
    mut skipped: impl FnMut(DataError),
) -> Result<Vec<PictureFile>, Error> {
    let unreadable = |source| PredictError::Read {
        path: path.into(),
        source,
    };
    let picture = |path: PathBuf, values: Vec<u8>| PictureFile {
        path,
        pixels: values.into(),
    };
    if !fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![picture(
            path.into(),
            decode_file(path, shape, invert)?,
        )]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    let mut pictures = Vec::new();
    for path in files {
        match decode_file(&path, shape, invert) {
            Ok(values) => pictures.push(picture(path, values)),
            Err(error) => skipped(error),
        }
    }
    if pictures.is_empty() {
        return Err(PredictError::Empty(path.into()).into());
    }
    Ok(pictures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::GrayImage;

    #[test]
    fn a_folder_is_read_in_order_and_the_rest_is_reported() {
        let shape = PictureShape {
            channels: 1,
            height: 4,
            width: 4,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("0.png"), "this is text").unwrap();
        let empty = read_path(folder.path(), shape, false, drop).err().unwrap();
        assert!(empty.to_string().contains("no file in this folder"));
        for name in ["2.png", "1.png"] {
            GrayImage::new(4, 4).save(path(name)).unwrap();
        }
        let mut skipped = Vec::new();
        let read = read_path(folder.path(), shape, true, |error| skipped.push(error)).unwrap();
        let names: Vec<_> = read
            .iter()
            .map(|file| file.path.file_name().unwrap())
            .collect();
        assert_eq!(names, ["1.png", "2.png"]);
        assert_eq!(&*read[0].pixels.read().unwrap(), [255; 16]);
        assert!(matches!(&skipped[..], [DataError::NotAPicture { .. }]));
    }
}
