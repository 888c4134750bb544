//! Accuracy on disturbed pictures, and a penalty on codes that adapts to the noise.

use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use mopteq::perturbation::gaussian;
use mopteq::{Deep, Network};

use crate::Digits;
use crate::layers::cross_entropy;

/// Names of the columns of [`accuracies`].
pub const COLUMNS: [&str; 7] = [
    "clean",
    "noise 1",
    "noise 1.5",
    "blur",
    "occlusion",
    "attack, 1 step",
    "attack, 10 steps",
];

/// Largest change of a normalised pixel by an attack.
const ATTACK: f64 = 0.3;

/// Accuracies in percent on clean and on disturbed pictures. The disturbances are Gaussian noise
/// relative to the root mean square, two passes of a mean over 3 x 3 pixels, a square of 12 x 12
/// pixels in the colour of the darkest pixel, and signed gradient steps (Goodfellow et al. 2015,
/// arXiv:1412.6572; ten of them as in Madry et al. 2018, arXiv:1706.06083, without a random start).
pub fn accuracies(network: &Network, test: &Digits) -> [f64; 7] {
    let hits = |images: Tensor<4>| test.accuracy(network.forward(images).logits);
    [
        hits(test.images.clone()),
        hits(gaussian(test.images.clone(), 1.0)),
        hits(gaussian(test.images.clone(), 1.5)),
        hits(blurred(blurred(test.images.clone()))),
        hits(occluded(test.images.clone())),
        hits(attacked(network, test, 1)),
        hits(attacked(network, test, 10)),
    ]
}

fn blurred(images: Tensor<4>) -> Tensor<4> {
    let options = AvgPoolOptions::new([3, 3])
        .with_stride([1, 1])
        .with_padding([1, 1]);
    avg_pool2d(images, options)
}

fn occluded(images: Tensor<4>) -> Tensor<4> {
    let [count, channels, height, width] = images.dims();
    let (side, dark) = (12, images.clone().min().into_scalar::<f32>());
    let square = Tensor::full([1, channels, side, side], dark, &images.device());
    let pictures = (0..count).map(|i| {
        // Somewhere near the middle, where the strokes are.
        let [y, x] = [i * 5 % (height - side - 7), i * 3 % (width - side - 7)].map(|n| n + 4);
        let area = [0..1, 0..channels, y..y + side, x..x + side];
        images
            .clone()
            .narrow(0, i, 1)
            .slice_assign(area, square.clone())
    });
    Tensor::cat(pictures.collect(), 0)
}

fn attacked(network: &Network, test: &Digits, steps: usize) -> Tensor<4> {
    // Ten steps may go back and forth.
    let step = if steps == 1 { ATTACK } else { ATTACK / 4.0 };
    let mut images = test.images.clone();
    for _ in 0..steps {
        let tracked = images.clone().autodiff().require_grad();
        let logits = network.forward(tracked.clone()).logits;
        let loss = cross_entropy(&logits, &test.labels.clone().autodiff());
        let Some(gradient) = tracked.grad(&loss.backward()) else {
            break;
        };
        let moved = images + gradient.sign() * step;
        let change = (moved - test.images.clone()).clamp(-ATTACK, ATTACK);
        images = test.images.clone() + change;
    }
    images
}

/// Chooses the penalty on the codes by how badly they explain the input of the first layer. SDNet
/// (Dai et al. 2022, arXiv:2210.12945) does this for noise. Here, the rule chooses one factor on
/// all learnt penalties for a batch with one level of noise.
pub struct NoiseRule {
    /// Reconstruction error and best factor for each level of noise.
    levels: Vec<[f64; 2]>,
}

impl NoiseRule {
    /// Finds the best factors on training pictures.
    pub fn fit(network: &Deep, train: &Digits) -> Self {
        let level = |noise: f64| {
            let images = gaussian(train.images.clone(), noise);
            let score = |factor: &f64| {
                let raised = raised(network, *factor);
                train.accuracy(raised.forward(images.clone()).logits)
            };
            let factors = [1.0, 2.0, 4.0, 8.0, 16.0];
            let scores = factors.map(|factor| score(&factor));
            // Of equal scores, that of the smallest factor wins.
            let best = (0..scores.len())
                .rev()
                .max_by(|i, j| scores[*i].total_cmp(&scores[*j]));
            [error(network, images), factors[best.unwrap_or(0)]]
        };
        let levels = [0.0, 0.5, 1.0, 1.5, 2.0].map(level);
        Self {
            levels: levels.to_vec(),
        }
    }

    /// The factor for pictures with one level of noise.
    pub fn factor(&self, network: &Deep, images: Tensor<4>) -> f64 {
        let error = error(network, images);
        let nearest = self.levels.iter().min_by(|a, b| {
            let off = |level: &[f64; 2]| (level[0] - error).abs();
            off(a).total_cmp(&off(b))
        });
        nearest.map_or(1.0, |level| level[1])
    }

    /// Accuracies in percent at noise 1 and 1.5, with the factors chosen.
    pub fn accuracies(&self, network: &Deep, test: &Digits) -> [[f64; 2]; 2] {
        [1.0, 1.5].map(|noise| {
            let images = gaussian(test.images.clone(), noise);
            let factor = self.factor(network, images.clone());
            let raised = raised(network, factor);
            [test.accuracy(raised.forward(images).logits), factor]
        })
    }
}

/// |g - D z| / |g| of the first layer, for all pictures together.
fn error(network: &Deep, images: Tensor<4>) -> f64 {
    let layers = network.layers(images);
    let Some(layer) = layers.first() else {
        return 0.0;
    };
    let Some(reconstruction) = layer.reconstruction.clone() else {
        return 0.0;
    };
    let norm = |x: Tensor<4>| (x.clone() * x).sum().sqrt().into_scalar::<f64>();
    norm(layer.input.clone() - reconstruction) / norm(layer.input.clone()).max(1e-12)
}

/// The network with all penalties multiplied by a factor.
fn raised(network: &Deep, factor: f64) -> Deep {
    struct Raise {
        factor: f64,
        inside: bool,
    }
    impl ModuleMapper for Raise {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.inside = name == "threshold";
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.inside = false;
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match self.inside {
                true => param.map(|threshold| threshold * self.factor),
                false => param,
            }
        }
    }
    network.clone().map(&mut Raise {
        factor,
        inside: false,
    })
}
