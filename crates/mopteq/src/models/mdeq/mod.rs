//! Multiscale deep equilibrium models (Bai, Koltun and Kolter 2020, arXiv:2006.08656).
//!
//! The layout is that of TorchDEQ's `deq-zoo/mdeq/mdeq_cifar`, whose checkpoints `Mdeq::read_pytorch`
//! reads (feature `pytorch`).

mod cell;
mod config;
mod head;
#[cfg(feature = "pytorch")]
mod pytorch;

use std::convert::Infallible;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{Device, Tensor};
use burn_deq::{Solution, dropout_mask};

use self::cell::Cell;
pub use self::config::MdeqConfig;
use self::head::{MdeqHead, conv_norm};
use super::parts::{Stem, trainable};
use super::{Prediction, check_pictures};
use crate::context::{Branches, map_branches};
use crate::error::ConfigError;
use crate::graph::{Builder, Graph};

/// A multiscale deep equilibrium model. Its map is designed by hand, a residual block per branch
/// and a fusion of all branches, so nothing guarantees a fixed point.
#[derive(Module, Debug)]
pub struct Mdeq {
    downsample: Vec<Stem>,
    stage0: Option<Stem>,
    full_stage: Cell,
    head: MdeqHead,
    classifier: Linear,
    #[module(skip)]
    config: MdeqConfig,
}

impl MdeqConfig {
    /// Creates the model with random weights from the device's generator.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<Mdeq, ConfigError> {
        self.validate()?;
        let c = self.channels[0];
        let stride = |k: usize| if self.halvings > k { 2 } else { 1 };
        let transformed = self.halvings > 0 || self.channels.len() > 2;
        Ok(Mdeq {
            downsample: vec![
                conv_norm([self.input_channels, c], 3, stride(0), false, device),
                conv_norm([c, c], 3, stride(1), false, device),
            ],
            stage0: transformed.then(|| conv_norm([c, c], 1, 1, false, device)),
            full_stage: Cell::new(self, device),
            head: MdeqHead::new(self, device),
            classifier: LinearConfig::new(self.final_channels, self.classes).init(device),
            config: self.clone(),
        })
    }
}

impl Mdeq {
    /// The configuration the model was made from.
    pub fn config(&self) -> &MdeqConfig {
        &self.config
    }

    /// Number of parameters that are trained.
    pub fn num_parameters(&self) -> usize {
        trainable(self)
    }

    /// Class scores for pictures `[batch, input_channels, height, width]`.
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn forward(&self, images: Tensor<4>) -> Prediction {
        let Solution {
            state,
            forward,
            adjoint,
            ..
        } = self.equilibrium(images);
        Prediction {
            logits: self.classify(state),
            dense: None,
            forward,
            adjoint,
            layers: Vec::new(),
        }
    }

    /// The fixed point, one `[batch, channels_i, h_i, w_i]` per branch. With autodiff (in
    /// training), dropout masks are drawn once for the whole solve.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn equilibrium(&self, images: Tensor<4>) -> Solution<Branches> {
        let training = images.device().is_autodiff();
        let (injection, start) = self.input(images);
        let plain = (&injection.device().without_autodiff(), injection.dtype());
        let masks = if training && self.config.dropout > 0.0 {
            (start.iter())
                .map(|z| vec![z.clone(); self.config.blocks])
                .map(|blocks| {
                    map_branches(&blocks, |z| {
                        dropout_mask(z.dims(), self.config.dropout, plain)
                    })
                })
                .collect()
        } else {
            Vec::new()
        };
        let equilibrium = self.config.equilibrium.init();
        let input = (injection, masks);
        equilibrium.solve(&self.full_stage, Cell::forward, input, start)
    }

    /// The injection and z = 0.
    fn input(&self, images: Tensor<4>) -> (Tensor<4>, Branches) {
        check_pictures(&images, self.config.input_channels, self.config.input_size);
        let stem = self.downsample.iter().chain(&self.stage0);
        let injection = stem.fold(images, |x, part| part.forward(x));
        let [batch, _, height, width] = injection.dims();
        let plain = (&injection.device().without_autodiff(), injection.dtype());
        let channels = self.config.channels.iter().enumerate();
        let start = channels
            .map(|(i, c)| Tensor::zeros([batch, *c, height >> i, width >> i], plain))
            .collect();
        (injection, start)
    }

    fn classify(&self, state: Branches) -> Tensor<2> {
        let y = adaptive_avg_pool2d(self.head.forward(state), [1, 1]);
        self.classifier.forward(y.squeeze_dims::<2>(&[2, 3]))
    }

    /// As [`Network::after_plain_steps`](crate::Network::after_plain_steps).
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn after_plain_steps(&self, images: Tensor<4>, steps: usize) -> Tensor<2> {
        let (injection, start) = self.input(images);
        let step = |z, _| self.full_stage.forward(z, (injection.clone(), Vec::new()));
        self.classify((0..steps).fold(start, step))
    }

    /// As [`Network::graph`](crate::Network::graph).
    pub fn graph(&self) -> Graph {
        let config = &self.config;
        let [height, width] = config.input_size;
        let (mut graph, images) = Builder::new([config.input_channels, height, width]);
        let stem = self.downsample.iter().chain(&self.stage0);
        let injection = stem.fold(images, |x, part| part.operations(&mut graph, x));
        let [_, height, width] = graph.picture(injection);
        let channels = config.channels.iter().enumerate();
        let shapes: Vec<Vec<usize>> = channels
            .map(|(i, c)| vec![*c, height >> i, width >> i])
            .collect();
        let rule = &config.equilibrium.forward.termination;
        let map = |graph: &mut Builder, z: &[_]| {
            Ok::<_, Infallible>(self.full_stage.operations(graph, z, injection))
        };
        let Ok(state) = graph.equilibrium(&shapes, rule, map);
        let y = self.head.operations(&mut graph, &state);
        let y = graph.mean_pool(y, [1, 1]);
        let logits = graph.classify(vec![y], &self.classifier);
        graph.finish(logits, None)
    }
}
