//! The control: an explicit residual network of the same size.

mod lipschitz;

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::{Device, Tensor};
use deq_kernels::{convolution, mean_pool, norm_relu};

use super::mopteqs::{MOptEqsConfig, check_halving};
use super::parts::{Head, HeadConfig, Stem, StemConfig, same_convolution, trainable};
use super::{Prediction, check_pictures};
use crate::context::Branches;
use crate::error::ConfigError;
use crate::graph::{Builder, Graph, Value};

/// Configuration of [`Residual`].
#[derive(Config, Debug, PartialEq)]
pub struct ResidualConfig {
    /// Number of classes.
    pub classes: usize,
    /// Channels of the pictures.
    pub input_channels: usize,
    /// Height and width of the pictures in pixels.
    pub input_size: [usize; 2],
    /// Stages; each has half the resolution of the previous one. Default: 3
    #[config(default = 3)]
    pub branches: usize,
    /// Channels of every stage. Default: 32
    #[config(default = 32)]
    pub channels: usize,
    /// Residual blocks of two 3 x 3 convolutions in every stage. Default: 1
    #[config(default = 1)]
    pub blocks: usize,
    /// The stem's convolution. Default: 3 x 3, which keeps the resolution
    #[config(default = "StemConfig::new()")]
    pub stem: StemConfig,
    /// Every stage is pooled to this many cells per side before the classifier. Default: 4
    #[config(default = 4)]
    pub head_grid: usize,
}

impl ResidualConfig {
    /// The control of a MOptEq: its stem, head, resolutions and channels, and one block per branch,
    /// whose two convolutions are as large as W and U if `hidden` = `channels`.
    pub fn like(config: &MOptEqsConfig) -> Self {
        Self::new(config.classes, config.input_channels, config.input_size)
            .with_branches(config.branches)
            .with_channels(config.core.channels)
            .with_stem(config.stem)
            .with_head_grid(config.head.grid)
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
            ("branches", self.branches),
            ("channels", self.channels),
            ("blocks", self.blocks),
            ("head_grid", self.head_grid),
        ])?;
        let few = self.branches <= 16;
        ConfigError::range("branches", self.branches as f64, few, "at most 16")?;
        self.stem.validate(self.input_size)?;
        check_halving(self.stem.output(self.input_size), self.branches)
    }

    /// Creates the network with random weights from the device's generator.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<Residual, ConfigError> {
        self.validate()?;
        let finest = self.stem.output(self.input_size);
        let sizes: Vec<_> = (0..self.branches).map(|i| finest.map(|n| n >> i)).collect();
        let c = self.channels;
        let block = || Block {
            first: same_convolution([c, c], device),
            first_norm: BatchNormConfig::new(c).init(device),
            second: same_convolution([c, c], device),
            second_norm: BatchNormConfig::new(c).init(device),
        };
        let head = HeadConfig::new().with_grid(self.head_grid);
        Ok(Residual {
            stem: self.stem.init([self.input_channels, c], device),
            stages: sizes
                .iter()
                .map(|_| (0..self.blocks).map(|_| block()).collect())
                .collect(),
            head: head.init([c, self.classes], &sizes, device),
            config: self.clone(),
        })
    }
}

/// relu(x + norm(conv(relu(norm(conv(x)))))), as in He et al. (2016, arXiv:1512.03385).
#[derive(Module, Debug)]
struct Block {
    first: Conv2d,
    first_norm: BatchNorm,
    second: Conv2d,
    second_norm: BatchNorm,
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = norm_relu(
            &self.first_norm,
            convolution::forward(&self.first, x.clone()),
        );
        let h = convolution::forward(&self.second, h);
        (x + self.second_norm.forward(h)).clamp_min(0.0)
    }

    fn operations(&self, graph: &mut Builder, x: Value) -> Value {
        let h = graph.module_convolution(x, &self.first);
        let h = graph.batch_norm(h, &self.first_norm);
        let h = graph.relu(h);
        let h = graph.module_convolution(h, &self.second);
        let h = graph.batch_norm(h, &self.second_norm);
        let sum = graph.combine(&[(1.0, x), (1.0, h)]);
        graph.relu(sum)
    }
}

/// A residual network without an equilibrium: a stem, a stage of residual blocks per resolution
/// with average pooling by 2 in between, and the head of a MOptEq over the outputs of all stages.
#[derive(Module, Debug)]
pub struct Residual {
    pub(super) stem: Stem,
    stages: Vec<Vec<Block>>,
    head: Head,
    #[module(skip)]
    config: ResidualConfig,
}

impl Residual {
    /// The configuration the network was made from.
    pub fn config(&self) -> &ResidualConfig {
        &self.config
    }

    /// Number of parameters that are trained.
    pub fn num_parameters(&self) -> usize {
        trainable(self)
    }

    /// Class scores for pictures `[batch, input_channels, height, width]`. The solver's report has
    /// no samples.
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn forward(&self, images: Tensor<4>) -> Prediction {
        let outputs = self.stages(images);
        Prediction {
            logits: self.head.classify(&outputs),
            dense: None,
            forward: Default::default(),
            adjoint: Default::default(),
            layers: Vec::new(),
        }
    }

    /// The outputs of all stages, one `[batch, channels, h_i, w_i]` each.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn stages(&self, images: Tensor<4>) -> Branches {
        check_pictures(&images, self.config.input_channels, self.config.input_size);
        let mut x = self.stem.forward(images);
        let mut outputs: Branches = Vec::with_capacity(self.stages.len());
        for (i, stage) in self.stages.iter().enumerate() {
            if i > 0 {
                let [_, _, height, width] = x.dims();
                x = mean_pool(x, [height / 2, width / 2]);
            }
            x = stage.iter().fold(x, |x, block| block.forward(x));
            outputs.push(x.clone());
        }
        outputs
    }

    /// As [`Network::graph`](crate::Network::graph).
    pub fn graph(&self) -> Graph {
        let [height, width] = self.config.input_size;
        let (mut graph, images) = Builder::new([self.config.input_channels, height, width]);
        let mut x = self.stem.operations(&mut graph, images);
        let mut outputs = Vec::with_capacity(self.stages.len());
        for (i, stage) in self.stages.iter().enumerate() {
            if i > 0 {
                let [_, height, width] = graph.picture(x);
                x = graph.mean_pool(x, [height / 2, width / 2]);
            }
            for block in stage {
                x = block.operations(&mut graph, x);
            }
            outputs.push(x);
        }
        self.head.finish(graph, &outputs)
    }
}
