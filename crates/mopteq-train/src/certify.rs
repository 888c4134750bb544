//! Certified radii: how far a picture may change before its class can.
//!
//! The mathematics is that of [`mopteq::lipschitz::Lipschitz`]. Here it is applied to trained runs:
//! everything is computed in f64 on the CPU, every equilibrium is solved to a small tolerance, and
//! distances are those of pixel values from 0 to 1.

use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::DType;
use burn_deq::{Branches, Check, Norm};
use mopteq::lipschitz::{Certificate, Lipschitz};
use mopteq::{LayerConfig, NetworkConfig, Precision};
use serde::Serialize;

use crate::Error;
use crate::classifier::Classifier;
use crate::config::TrainConfig;
use crate::crash::{self, Crash};
use crate::data::Picture;
use crate::device::{DeviceChoice, SelectedDevice, select};
pub use crate::error::CertifyError;
use crate::predict::{PredictError, Predictor};

/// Radii whose certified accuracy is reported, in steps of 1/255.
pub const RADII: [f64; 8] = [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0];
/// Pictures that are solved together.
const BATCH: usize = 32;
/// Largest number of steps of a solve. A solve that needs more ends here, and its error is
/// subtracted.
const MAX_STEPS: usize = 5000;

/// The logits of a picture, and the residuals of its solves.
type Row = (Vec<f64>, Vec<f64>);

/// A trained model in f64, with its Lipschitz constants.
pub struct Certifier {
    model: Classifier,
    config: TrainConfig,
    device: SelectedDevice,
    constants: Lipschitz,
}

impl Certifier {
    /// Where certificates are computed.
    ///
    /// # Errors
    ///
    /// When the CPU backend is not built in.
    pub fn device() -> Result<SelectedDevice, Error> {
        Ok(select(DeviceChoice::CPU)?)
    }

    /// A predictor's model, solved to this relative tolerance. The predictor is on
    /// [`device`](Self::device).
    ///
    /// # Errors
    ///
    /// When the network has no Lipschitz constant.
    pub fn new(predictor: &Predictor, tolerance: f64) -> Result<Self, Error> {
        let config = exact(predictor.config(), tolerance);
        let device = predictor.device().clone();
        let model = Classifier::new(&config, &device.device)?;
        let model = model.load_record(predictor.model().clone().into_record());
        let model = model.map(&mut Cast);
        let std = config.normalisation.std.iter();
        let scale: Vec<f64> = std.map(|std| f64::from(*std).recip()).collect();
        let constants = crash::catch(|| model.network().lipschitz(&scale));
        let constants = constants.map_err(PredictError::from)?;
        let constants = constants.map_err(|source| CertifyError::Constant {
            run: predictor.run().path().display().to_string(),
            source,
        })?;
        Ok(Self {
            model,
            config,
            device,
            constants,
        })
    }

    /// The constants, for pixel values from 0 to 1.
    pub fn constants(&self) -> &Lipschitz {
        &self.constants
    }

    /// The certificate of each picture. Pictures hold `shape.len()` values.
    ///
    /// # Errors
    ///
    /// When the device fails, a picture cannot be read back from the cache file, or the model's
    /// numbers are not finite.
    pub fn certify(&self, pictures: &[Picture]) -> Result<Vec<Certificate>, PredictError> {
        let mut certificates = Vec::with_capacity(pictures.len());
        let mut failed = 0;
        for chunk in pictures.chunks(BATCH) {
            let solved = crash::catch(|| self.solve(chunk))?;
            let solved = solved.map_err(|message| Crash {
                message,
                backtrace: String::new(),
            })?;
            for (logits, residuals) in solved {
                failed += usize::from(!logits.iter().all(|logit| logit.is_finite()));
                certificates.push(self.constants.certificate(&logits, &residuals));
            }
        }
        match failed {
            0 => Ok(certificates),
            failed => Err(PredictError::NotFinite {
                failed,
                total: pictures.len(),
            }),
        }
    }

    /// The logits of each picture and the residuals of its solves.
    fn solve(&self, pictures: &[Picture]) -> Result<Vec<Row>, String> {
        let images = self.images(pictures)?;
        let mut answers = self.read(images.clone())?;
        if self.config.test_flip {
            // The logits are means, and so are the bounds on their errors. Two mirror images are as
            // far apart as the pictures themselves, so the constants are the same.
            let mirrored = self.read(images.flip([3]))?;
            let mean = |a: &mut Vec<f64>, b: Vec<f64>| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a = 0.5 * (*a + b));
            };
            for ((logits, residuals), (other, others)) in answers.iter_mut().zip(mirrored) {
                mean(logits, other);
                mean(residuals, others);
            }
        }
        Ok(answers)
    }

    /// Normalised pictures, computed in f64 from the whole numbers of their pixels. Rounding a
    /// picture would change it.
    fn images(&self, pictures: &[Picture]) -> Result<Tensor<4>, String> {
        let shape = self.config.shape;
        let mut values: Vec<f64> = Vec::with_capacity(pictures.len() * shape.len());
        for picture in pictures {
            let pixels = picture.pixels.read().map_err(|error| error.to_string())?;
            values.extend(pixels.iter().map(|value| f64::from(*value)));
        }
        let normalisation = &self.config.normalisation;
        let constants = normalisation.mean.iter().zip(&normalisation.std).cycle();
        let plane = (shape.height * shape.width).max(1);
        for (channel, (mean, std)) in values.chunks_exact_mut(plane).zip(constants) {
            for value in channel {
                *value = (*value / 255.0 - f64::from(*mean)) / f64::from(*std);
            }
        }
        let dims = [pictures.len(), shape.channels, shape.height, shape.width];
        let data = TensorData::new(values, dims);
        Ok(Tensor::from_data(data, (&self.device.device, DType::F64)))
    }

    fn read(&self, images: Tensor<4>) -> Result<Vec<Row>, String> {
        let solved = self.model.network().solved(images);
        let [_, classes] = solved.logits.dims();
        let logits = solved.logits.try_into_vec_as::<f64>();
        let logits = logits.map_err(|error| error.to_string())?;
        let rows = logits.chunks_exact(classes.max(1)).enumerate();
        let residuals = |i: usize| {
            let of = |layer: &Vec<f64>| layer.get(i).copied().unwrap_or(f64::NAN);
            solved.residuals.iter().map(of).collect()
        };
        Ok(rows.map(|(i, row)| (row.to_vec(), residuals(i))).collect())
    }
}

/// Casts a plain module's numbers to f64.
struct Cast;

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|t| t.without_autodiff().cast(DType::F64))
    }
}

/// The config with solves to this tolerance, in full precision. A solver with a fixed number of
/// steps stays as it is, because its result is not an equilibrium.
fn exact(config: &TrainConfig, tolerance: f64) -> TrainConfig {
    let mut config = config.clone();
    for equilibrium in config.equilibria_mut() {
        let rule = &mut equilibrium.forward.termination;
        if rule.check == Check::Never {
            continue;
        }
        rule.relative = tolerance;
        rule.absolute = tolerance * 1e-3;
        rule.max_steps = MAX_STEPS;
        rule.check = Check::Every(1);
        rule.norm = Norm::L2;
        rule.branches = Branches::Together;
    }
    match &mut config.model {
        NetworkConfig::MOptEqs(model) | NetworkConfig::OptEq(model) => {
            model.core.precision = Precision::Full;
        }
        NetworkConfig::Deep(model) => {
            for stage in &mut model.stages {
                if let LayerConfig::Core { core, .. } = &mut stage.layer {
                    core.precision = Precision::Full;
                }
            }
        }
        NetworkConfig::Mdeq(_) | NetworkConfig::Residual(_) => {}
    }
    config
}

/// The certificates of a set of labelled pictures, summarised.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Number of pictures.
    pub pictures: usize,
    /// Pictures whose likeliest class is the right one, in percent.
    pub accuracy: f64,
    /// Pictures with a radius above 0, in percent.
    pub certified: f64,
    /// Median of the radii of all pictures, for pixel values from 0 to 1.
    pub median_radius: f64,
    /// The largest radius.
    pub largest_radius: f64,
    /// The certified accuracy at each of [`RADII`].
    pub radii: Vec<CertifiedShare>,
}

/// Pictures that are classified correctly and stay so within a radius.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CertifiedShare {
    /// The radius in steps of 1/255.
    pub radius_255: f64,
    /// Pictures whose class is the right one and cannot change within it, in percent.
    pub accuracy: f64,
}

/// Summarises certificates of labelled pictures.
pub fn summary(certificates: &[Certificate], pictures: &[Picture]) -> Summary {
    let pairs = || certificates.iter().zip(pictures);
    let percent = |count: usize| 100.0 * count as f64 / certificates.len().max(1) as f64;
    let right = |certificate: &Certificate, picture: &Picture| certificate.class == picture.label;
    let mut sorted: Vec<f64> = certificates.iter().map(|c| c.radius).collect();
    sorted.sort_by(f64::total_cmp);
    let median = match (sorted.get(sorted.len() / 2), sorted.len() % 2) {
        (Some(upper), 0) => 0.5 * (sorted[sorted.len() / 2 - 1] + upper),
        (Some(middle), _) => *middle,
        (None, _) => 0.0,
    };
    let share = |radius_255: f64| {
        let within = pairs().filter(|(c, p)| right(c, p) && c.radius * 255.0 >= radius_255);
        CertifiedShare {
            radius_255,
            accuracy: percent(within.count()),
        }
    };
    Summary {
        pictures: certificates.len(),
        accuracy: percent(pairs().filter(|(c, p)| right(c, p)).count()),
        certified: percent(certificates.iter().filter(|c| c.radius > 0.0).count()),
        median_radius: median,
        largest_radius: sorted.last().copied().unwrap_or(0.0),
        radii: RADII.map(share).to_vec(),
    }
}

/// Takes `count` pictures at equal intervals, because data are often sorted by class.
pub fn spread(pictures: Vec<Picture>, count: usize) -> Vec<Picture> {
    let all = pictures.len();
    if count >= all {
        return pictures;
    }
    let taken = (0..count).map(|i| i * all / count.max(1));
    taken.filter_map(|i| pictures.get(i).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(class: usize, radius: f64) -> Certificate {
        Certificate {
            class,
            nearest: 1 - class,
            margin: 1.0,
            error: 0.0,
            radius,
        }
    }

    #[test]
    fn what_is_wrong_or_too_near_is_not_certified() {
        let labels = [0, 0, 0, 1];
        let pictures = labels.map(|label| Picture::new(vec![0], label));
        let certificates = [(0, 3.5), (0, 0.0), (1, 9.0), (1, 1.0)];
        let certificates = certificates.map(|(class, r)| certificate(class, r / 255.0));
        let found = summary(&certificates, &pictures);
        assert_eq!((found.accuracy, found.certified), (75.0, 75.0));
        assert!((found.median_radius * 255.0 - 2.25).abs() < 1e-12);
        let shares: Vec<f64> = found.radii.iter().map(|share| share.accuracy).collect();
        assert_eq!(shares[2..6], [50.0, 50.0, 25.0, 0.0]);
        assert_eq!(summary(&[], &[]).median_radius, 0.0);
    }

    #[test]
    fn fewer_pictures_are_spread_over_all() {
        let pictures: Vec<Picture> = (0..10).map(|i| Picture::new(vec![0], i)).collect();
        let labels = |count| -> Vec<usize> {
            let taken = spread(pictures.clone(), count);
            taken.iter().map(|picture| picture.label).collect()
        };
        assert_eq!(labels(4), [0, 2, 5, 7]);
        assert_eq!(
            (labels(10).len(), labels(99).len(), labels(0).len()),
            (10, 10, 0)
        );
    }
}
