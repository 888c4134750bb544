//! Classifying picture files with a trained run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageReader, Rgba, RgbaImage};

use crate::Error;
use crate::checkpoint::{Which, load_model};
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::data::{Picture, PictureShape};
use crate::device::SelectedDevice;
use crate::evaluate::{self, Scores, softmax};
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
    /// The file is no picture that can be read.
    #[error("{path}: not a picture that can be read ({reason}); PNG, JPEG, BMP, GIF and WebP can")]
    NotAPicture {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// No file of the folder is a picture.
    #[error("{0}: no file in this folder is a picture that can be read")]
    Empty(PathBuf),
    /// The device failed.
    #[error("the prediction failed: {0}")]
    Crashed(String),
}

/// A class and how likely it is.
#[derive(Clone, Debug, PartialEq)]
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
    epoch: usize,
}

impl Predictor {
    /// Loads a checkpoint of a run.
    ///
    /// # Errors
    ///
    /// When the run's config or the checkpoint is missing or damaged.
    pub fn load(run: &RunFolder, which: Which, device: SelectedDevice) -> Result<Self, Error> {
        let config = run.read_config()?;
        let epoch = which.epoch(run)?;
        let model = Classifier::new(&config, &device.device)?;
        let model = load_model(run, epoch, model)?;
        Ok(Self {
            model,
            config,
            device,
            epoch,
        })
    }

    /// The epoch after which the model was saved.
    pub fn epoch(&self) -> usize {
        self.epoch
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
    pub fn classify(&self, pictures: &[Arc<[u8]>]) -> Result<Vec<Vec<Likelihood>>, PredictError> {
        let unlabelled = |pixels: &Arc<[u8]>| Picture {
            pixels: pixels.clone(),
            label: 0,
        };
        let pictures: Vec<Picture> = pictures.iter().map(unlabelled).collect();
        let (rows, _) = evaluate::logits(&self.model, &self.config, &pictures, &self.device.device)
            .map_err(|crash| PredictError::Crashed(crash.message))?;
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
        Ok(rows.into_iter().map(ranked).collect())
    }

    /// Scores on the test part of the data that the run was trained on.
    ///
    /// # Errors
    ///
    /// When the data cannot be read or the device fails.
    pub fn evaluate(&self) -> Result<Scores, Error> {
        let data = self.config.data.load()?;
        let scores = evaluate::evaluate(&self.model, &self.config, &data.test, &self.device.device)
            .map_err(|crash| PredictError::Crashed(crash.message))?;
        Ok(scores)
    }
}

/// A picture file that was read.
pub struct PictureFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its values in the model's shape.
    pub pixels: Arc<[u8]>,
}

/// Reads the pictures of a path: the file itself, or the files of a folder in order of their
/// names. In a folder, what is no picture is left out and passed to `skipped`.
///
/// # Errors
///
/// When the path is not there, the file no picture, or the folder without any.
pub fn read_path(
    path: &Path,
    shape: PictureShape,
    invert: bool,
    mut skipped: impl FnMut(PredictError),
) -> Result<Vec<PictureFile>, PredictError> {
    let unreadable = |source| PredictError::Read {
        path: path.into(),
        source,
    };
    if !fs::metadata(path).map_err(unreadable)?.is_dir() {
        let pixels = read_picture(path, shape, invert)?;
        return Ok(vec![PictureFile {
            path: path.into(),
            pixels,
        }]);
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
        match read_picture(&path, shape, invert) {
            Ok(pixels) => pictures.push(PictureFile { path, pixels }),
            Err(error) => skipped(error),
        }
    }
    if pictures.is_empty() {
        return Err(PredictError::Empty(path.into()));
    }
    Ok(pictures)
}

/// Reads a picture file as the model takes it: its orientation applied, transparent parts on
/// white, resized to the model's size, grey or RGB as the model has channels.
///
/// Values stay as they are: a model trained on white strokes on black, as MNIST is, needs such
/// pictures, or `invert`.
///
/// # Errors
///
/// When the file cannot be read or is no picture.
pub fn read_picture(
    path: &Path,
    shape: PictureShape,
    invert: bool,
) -> Result<Arc<[u8]>, PredictError> {
    let unreadable = |source| PredictError::Read {
        path: path.into(),
        source,
    };
    let damaged = |error: image::ImageError| PredictError::NotAPicture {
        path: path.into(),
        reason: error.to_string(),
    };
    // By the content and not by the name, which may be wrong.
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    let mut decoder = reader
        .map_err(unreadable)?
        .into_decoder()
        .map_err(damaged)?;
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(orientation);
    if picture.color().has_alpha() {
        picture = on_white(&picture);
    }
    let (width, height) = (shape.width as u32, shape.height as u32);
    if (picture.width(), picture.height()) != (width, height) {
        picture = picture.resize_exact(width, height, FilterType::Lanczos3);
    }
    if invert {
        picture.invert();
    }
    Ok(if shape.channels == 1 {
        picture.to_luma8().into_raw().into()
    } else {
        let rgb = picture.to_rgb8();
        // From pixel after pixel to channel after channel.
        (0..3)
            .flat_map(|channel| rgb.pixels().map(move |pixel| pixel.0[channel]))
            .collect()
    })
}

fn on_white(picture: &DynamicImage) -> DynamicImage {
    let mut canvas = RgbaImage::from_pixel(
        picture.width(),
        picture.height(),
        Rgba([255, 255, 255, 255]),
    );
    image::imageops::overlay(&mut canvas, &picture.to_rgba8(), 0, 0);
    DynamicImage::ImageRgba8(canvas).to_rgb8().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, RgbImage};

    const GREY: PictureShape = PictureShape {
        channels: 1,
        height: 4,
        width: 4,
    };

    #[test]
    fn reads_grey_colour_and_transparency() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, picture: DynamicImage| {
            let path = folder.path().join(name);
            picture.save(&path).unwrap();
            path
        };
        let grey = save("a.png", GrayImage::from_pixel(8, 6, Luma([40])).into());
        assert_eq!(&*read_picture(&grey, GREY, false).unwrap(), [40; 16]);
        assert_eq!(&*read_picture(&grey, GREY, true).unwrap(), [215; 16]);

        let colour = save(
            "b.png",
            RgbImage::from_pixel(4, 4, image::Rgb([10, 20, 30])).into(),
        );
        let rgb = PictureShape {
            channels: 3,
            ..GREY
        };
        let expected = [[10; 16], [20; 16], [30; 16]].concat();
        assert_eq!(&*read_picture(&colour, rgb, false).unwrap(), expected);

        let clear = save(
            "c.png",
            RgbaImage::from_pixel(4, 4, Rgba([9, 9, 9, 0])).into(),
        );
        assert_eq!(&*read_picture(&clear, GREY, false).unwrap(), [255; 16]);
    }

    #[test]
    fn a_folder_is_read_in_order_and_the_rest_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("0.png"), "this is text").unwrap();
        let empty = read_path(folder.path(), GREY, false, drop);
        assert!(matches!(empty, Err(PredictError::Empty(_))));
        for name in ["2.png", "1.png"] {
            GrayImage::new(4, 4).save(path(name)).unwrap();
        }
        let mut skipped = Vec::new();
        let read = read_path(folder.path(), GREY, false, |error| skipped.push(error)).unwrap();
        let names: Vec<_> = read
            .iter()
            .map(|file| file.path.file_name().unwrap())
            .collect();
        assert_eq!(names, ["1.png", "2.png"]);
        assert!(matches!(&skipped[..], [PredictError::NotAPicture { .. }]));
    }
}
