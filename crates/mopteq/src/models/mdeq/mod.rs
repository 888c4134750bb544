//! Multiscale deep equilibrium models (Bai, Koltun and Kolter 2020, arXiv:2006.08656).
//!
//! The layout is that of TorchDEQ's `deq-zoo/mdeq/mdeq_cifar`, whose checkpoints `Mdeq::read_pytorch`
//! reads (feature `pytorch`).

mod cell;
mod head;
#[cfg(feature = "pytorch")]
mod pytorch;

use std::convert::Infallible;

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{Device, Tensor};
use burn_deq::{EquilibriumConfig, Solution, dropout_mask};

use self::cell::Cell;
use self::head::{MdeqHead, conv_norm};
use super::core::default_equilibrium;
use super::mopteqs::check_halving;
use super::parts::{Stem, trainable};
use super::{Prediction, check_pictures};
use crate::context::{Branches, map_branches};
use crate::error::ConfigError;
use crate::graph::{Builder, Graph};

/// Configuration of [`Mdeq`].
#[derive(Config, Debug, PartialEq)]
pub struct MdeqConfig {
    /// Number of classes.
    pub classes: usize,
    /// Channels of the pictures.
    pub input_channels: usize,
    /// Height and width of the pictures in pixels.
    pub input_size: [usize; 2],
    /// Channels of every branch; each has half the resolution of the previous one.
    pub channels: Vec<usize>,
    /// Inner channels of the head's bottleneck on every branch.
    pub head_channels: Vec<usize>,
    /// Channels of the last layer before the classifier.
    pub final_channels: usize,
    /// Residual blocks in every branch. Default: 1
    #[config(default = 1)]
    pub blocks: usize,
    /// Ratio of a residual block's inner channels to its outer ones. Default: 5
    #[config(default = 5)]
    pub expansion: usize,
    /// Groups of the group norms; even. Default: 8
    #[config(default = 8)]
    pub groups: usize,
    /// Number of times the stem halves the resolution, 0 to 2. Default: 0
    #[config(default = 0)]
    pub halvings: usize,
    /// Share of elements that variational dropout sets to 0 in training. One mask serves all steps
    /// of a solve. Default: 0
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Solvers and gradient. Default: Anderson acceleration to a relative tolerance of 1e-3, at
    /// most 30 steps; implicit gradient to the same tolerance.
    #[config(default = "default_equilibrium()")]
    pub equilibrium: EquilibriumConfig,
}

impl MdeqConfig {
    /// The published small configuration for CIFAR-10: two branches of 24 channels.
    pub fn small(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        let (channels, heads) = (vec![24, 24], vec![8, 16]);
        Self::new(classes, input_channels, input_size, channels, heads, 200)
    }

    /// The published large configuration for CIFAR-10: four branches of 32 to 256 channels.
    pub fn large(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        let (channels, heads) = (vec![32, 64, 128, 256], vec![14, 28, 56, 112]);
        Self::new(classes, input_channels, input_size, channels, heads, 1680)
    }

    /// A model for 28 x 28 digits of the size of
    /// [`MOptEqsConfig::digits`](crate::MOptEqsConfig::digits): two branches of 8 channels at 14 x
    /// 14 and 7 x 7.
    pub fn digits(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        let (channels, heads) = (vec![8, 8], vec![4, 4]);
        Self::new(classes, input_channels, input_size, channels, heads, 32)
            .with_groups(4)
            .with_halvings(1)
    }

    /// Height and width of the finest branch.
    pub fn finest(&self) -> [usize; 2] {
        // A 3 x 3 convolution with stride 2 and padding 1 rounds up.
        self.input_size
            .map(|n| (0..self.halvings.min(2)).fold(n, |n, _| n.div_ceil(2)))
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// Returns the first invalid field, by name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::counts(&[
            ("classes", self.classes),
            ("input_channels", self.input_channels),
            ("input_size", self.input_size[0].min(self.input_size[1])),
            ("channels", self.channels.len()),
            ("channels", self.channels.iter().copied().min().unwrap_or(0)),
            ("final_channels", self.final_channels),
            ("blocks", self.blocks),
            ("expansion", self.expansion),
        ])?;
        let (found, expected) = (self.head_channels.len(), self.channels.len());
        if found != expected {
            return Err(ConfigError::Length {
                field: "head_channels",
                found,
                expected,
            });
        }
        let least = self.head_channels.iter().copied().min().unwrap_or(0);
        ConfigError::counts(&[("head_channels", least)])?;
        let few = expected <= 16;
        ConfigError::range("channels", expected as f64, few, "at most 16 branches")?;
        let groups = self.groups;
        let divides = groups > 0 && self.channels.iter().all(|c| c % groups == 0);
        ConfigError::range(
            "groups",
            groups as f64,
            divides && groups.is_multiple_of(2),
            "even and a divisor of the channels of every branch",
        )?;
        let halvings = self.halvings as f64;
        ConfigError::range("halvings", halvings, self.halvings <= 2, "0, 1 or 2")?;
        let share = (0.0..1.0).contains(&self.dropout);
        ConfigError::range("dropout", self.dropout, share, "at least 0 and below 1")?;
        check_halving(self.finest(), expected)
    }

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
