//! Using a trained run: classifying picture files, evaluating, looking inside.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::checkpoint::{Position, Which, load_model};
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::data::{
    DataError, DataSet, DataSource, Picture, PictureShape, Pixels, Seen, composed, decode_file,
    pictures_below,
};
use crate::device::SelectedDevice;
pub use crate::error::PredictError;
use crate::evaluate::{self, Details, Outcome, StepCost, softmax};
use crate::parts::{Parts, difference};
use crate::run::{RunError, RunFolder};
use crate::solves::PictureSolve;

/// A class and how likely it is.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Likelihood {
    /// Name of the class.
    pub class: String,
    /// Probability, 0 to 1.
    pub probability: f64,
}

/// The answer for one picture.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Answer {
    /// The classes, the likeliest first.
    pub classes: Vec<Likelihood>,
    /// How its solve went; `None` for a model without a solver.
    pub solve: Option<PictureSolve>,
}

/// A trained model with what is needed to use it.
pub struct Predictor {
    model: Classifier,
    config: TrainConfig,
    device: SelectedDevice,
    position: Position,
    run: RunFolder,
}

impl Predictor {
    /// Loads a checkpoint of a run. `steps` limits the solver; `None` leaves the run's limit.
    ///
    /// # Errors
    ///
    /// When the run's config or the checkpoint is missing or damaged, or the limit is 0 steps.
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
            run: run.clone(),
        })
    }

    /// Takes exactly `steps` plain steps from 0 in place of the model's solver, as an ONNX graph
    /// with these steps does.
    pub fn with_plain_steps(mut self, steps: usize) -> Self {
        self.model = self.model.with_plain_steps(steps);
        self
    }

    /// Averages a picture's logits with those of its mirror image, or does not.
    pub fn with_flip(mut self, flip: bool) -> Self {
        self.config.test_flip = flip;
        self.model = self.model.with_flip(flip);
        self
    }

    /// Where in the training the model was saved.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Folder of the run.
    pub fn run(&self) -> &RunFolder {
        &self.run
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

    /// Reads a picture file in the shape that the model takes.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is not a picture.
    pub fn read(&self, file: &Path) -> Result<Pixels, Error> {
        Ok(decode_file(file, self.shape(), false)?.into())
    }

    /// The classes of each picture, the likeliest first. Pictures hold `shape().len()` values.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn classify(&self, pictures: &[Pixels]) -> Result<Vec<Vec<Likelihood>>, PredictError> {
        let answers = self.answer(pictures)?;
        let total = answers.len();
        let finite: Vec<_> = answers.into_iter().flatten().map(|a| a.classes).collect();
        match total - finite.len() {
            0 => Ok(finite),
            failed => Err(PredictError::NotFinite { failed, total }),
        }
    }

    /// The answer for each picture; `None` if the model's numbers are not finite. Pictures hold
    /// `shape().len()` values.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn answer(&self, pictures: &[Pixels]) -> Result<Vec<Option<Answer>>, PredictError> {
        let unlabelled = |pixels: &Pixels| Picture::new(pixels.clone(), 0);
        let pictures: Vec<Picture> = pictures.iter().map(unlabelled).collect();
        let device = &self.device.device;
        let outcome = evaluate::infer(&self.model, &self.config, &pictures, device)?;
        let mut solves = outcome.solves.into_iter();
        let answers = outcome.rows.iter().map(|logits| {
            let solve = solves.next();
            let is_finite = logits.iter().all(|logit| logit.is_finite());
            is_finite.then(|| Answer {
                classes: ranked(logits, &self.config.classes),
                solve,
            })
        });
        Ok(answers.collect())
    }

    /// Logits of pictures.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn infer(&self, pictures: &[Picture]) -> Result<Outcome, PredictError> {
        let outcome = evaluate::infer(&self.model, &self.config, pictures, &self.device.device)?;
        match pictures.len() - outcome.finite() {
            0 => Ok(outcome),
            failed => Err(PredictError::NotFinite {
                failed,
                total: pictures.len(),
            }),
        }
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

    /// The accuracy for each limit of 2, 4, 8 and 16 on the solver's steps.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn step_costs(&self, pictures: &[Picture]) -> Result<Vec<StepCost>, Error> {
        let device = &self.device.device;
        let costs = evaluate::step_costs(&self.model, &self.config, pictures, device);
        Ok(costs.map_err(PredictError::from)?)
    }

    /// What the model was trained on and chosen by, as far as that is known.
    ///
    /// # Errors
    ///
    /// When the list of the run's files is damaged.
    pub fn seen(&self) -> Result<Seen, RunError> {
        self.run.seen(&self.config)
    }

    /// The data that the run was trained on; `evaluate` is meant for the test part. They contain
    /// only pictures that the run began with, each in its original part.
    ///
    /// # Errors
    ///
    /// When the data cannot be read, or are no longer those of the run.
    pub fn data(&self) -> Result<DataSet, Error> {
        Ok(self.parts(self.run.read_parts(&self.config, false)?))
    }

    /// The same from the place where these data are now; `None` if other data are there.
    ///
    /// # Errors
    ///
    /// When the data cannot be read.
    pub fn moved_data(&self, place: &DataSource) -> Result<Option<DataSet>, Error> {
        let data = self.config.data.moved_to(place);
        if place.path.is_none() || data == self.config.data {
            return Ok(None);
        }
        let config = TrainConfig {
            data,
            ..self.config.clone()
        };
        Ok(self.run.read_moved(&config)?.map(|parts| self.parts(parts)))
    }

    fn parts(&self, parts: Parts) -> DataSet {
        let mut train = parts.train;
        train.extend(parts.valid);
        let (shape, classes) = (self.config.shape, self.config.classes.clone());
        DataSet::new(shape, classes, train, parts.test)
    }

    /// Other data to test the model with, brought to its shape and with its labels.
    ///
    /// # Errors
    ///
    /// When the data cannot be read, or have other classes than the run.
    pub fn other_data(&self, source: &DataSource) -> Result<OtherData, Error> {
        let data = source.load_to_test(self.config.shape)?;
        let own: Vec<String> = self.config.classes.iter().map(|c| composed(c)).collect();
        let theirs: Vec<String> = data.classes.iter().map(|c| composed(c)).collect();
        let place = |class: &String| own.iter().position(|known| known == class);
        let labels: Option<Vec<usize>> = theirs.iter().map(place).collect();
        let Some(labels) = labels.filter(|labels| labels.len() == own.len()) else {
            return Err(DataError::Classes {
                path: source.describe(),
                reason: difference(&own, &theirs),
            }
            .into());
        };
        let mut pictures = data.test;
        for picture in &mut pictures {
            picture.label = labels[picture.label];
        }
        let seen = self.seen()?;
        Ok(OtherData {
            seen: pictures
                .iter()
                .filter(|picture| seen.contains(picture))
                .count(),
            maybe_more: seen.is_partly(),
            pictures,
            part: data.part,
            skipped: data.skipped,
            ignored: data.ignored,
        })
    }
}

/// The classes by their logits, the likeliest first.
pub(crate) fn ranked(logits: &[f64], classes: &[String]) -> Vec<Likelihood> {
    let mut ranked: Vec<Likelihood> = softmax(logits)
        .into_iter()
        .zip(classes)
        .map(|(probability, class)| Likelihood {
            class: class.clone(),
            probability,
        })
        .collect();
    ranked.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    ranked
}

/// Data that a model was not trained on.
#[derive(Clone, Debug)]
pub struct OtherData {
    /// The pictures, with the labels of the model.
    pub pictures: Vec<Picture>,
    /// Name of the part that they form; `None` if they are all the pictures.
    pub part: Option<String>,
    /// Picture files that were left out, each with the reason.
    pub skipped: Vec<String>,
    /// What systems and this program left beside them, with the number of pictures in it.
    pub ignored: Vec<(String, usize)>,
    /// Number of pictures that the model was trained on or chosen by after all.
    pub seen: usize,
    /// There may be more of these, because not everything that it was trained on is known.
    pub maybe_more: bool,
}

/// The config with another limit on the solver's steps.
fn with_steps(config: &TrainConfig, steps: Option<usize>) -> Result<TrainConfig, Error> {
    let mut config = config.clone();
    if let Some(steps) = steps {
        for equilibrium in config.equilibria_mut() {
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

/// What was found at a path.
#[derive(Default)]
pub struct Read {
    /// The pictures.
    pub pictures: Vec<PictureFile>,
    /// Why others could not be read, each with its name.
    pub failed: Vec<String>,
    /// Files of a folder that are not pictures.
    pub others: Vec<String>,
    /// What systems and this program left in a folder, with the number of pictures in it.
    pub ignored: Vec<(String, usize)>,
}

/// Reads the pictures of a path: the file itself, or all files in a folder and in its folders, in
/// order of their names.
///
/// Values stay as they are: a model trained on white strokes on black, as MNIST is, needs such
/// pictures, or `invert`.
///
/// # Errors
///
/// When a folder cannot be read, or no file in it is a picture.
pub fn read_path(path: &Path, shape: PictureShape, invert: bool) -> Result<Read, Error> {
    let mut read = Read::default();
    let files = match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            let below = pictures_below(path)?;
            (read.failed, read.others) = (below.failed, below.others);
            read.ignored = below.ignored;
            if below.pictures.is_empty() && read.failed.is_empty() {
                return Err(PredictError::Empty(path.into()).into());
            }
            below.pictures
        }
        // Reading from a pipe might never end.
        Ok(found) if !found.is_file() => {
            let line = format!("{}: neither a file nor a folder", path.display());
            read.failed.push(line);
            Vec::new()
        }
        _ => vec![path.to_owned()],
    };
    for path in files {
        match decode_file(&path, shape, invert) {
            Ok(values) => read.pictures.push(PictureFile {
                path,
                pixels: values.into(),
            }),
            Err(error) => read.failed.push(error.to_string()),
        }
    }
    Ok(read)
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
        let read = read_path(folder.path(), shape, false).unwrap();
        assert!(read.pictures.is_empty() && read.failed[0].contains("0.png: not a picture"));
        for name in ["2.png", "1.png"] {
            GrayImage::new(4, 4).save(path(name)).unwrap();
        }
        fs::create_dir_all(path("deeper/@eaDir")).unwrap();
        GrayImage::new(4, 4).save(path("deeper/3.png")).unwrap();
        GrayImage::new(4, 4)
            .save(path("deeper/@eaDir/3.png"))
            .unwrap();
        fs::write(path("notes.txt"), "no picture").unwrap();
        let read = read_path(folder.path(), shape, true).unwrap();
        let names: Vec<_> = read
            .pictures
            .iter()
            .map(|file| file.path.strip_prefix(folder.path()).unwrap())
            .collect();
        assert_eq!(names, ["1.png", "2.png", "deeper/3.png"].map(Path::new));
        assert_eq!(&*read.pictures[0].pixels.read().unwrap(), [255; 16]);
        assert_eq!(
            (read.failed.len(), read.others),
            (1, vec![path("notes.txt").display().to_string()])
        );
        fs::remove_dir_all(path("deeper")).unwrap();
        for name in ["0.png", "1.png", "2.png"] {
            fs::remove_file(path(name)).unwrap();
        }
        let empty = read_path(folder.path(), shape, false).err().unwrap();
        assert!(empty.to_string().contains("no file in this folder"));
    }
}
