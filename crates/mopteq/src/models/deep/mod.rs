//! Several equilibria one after the other.

mod layer;
mod lipschitz;

use burn::config::Config;
use burn::module::Module;
use burn::nn::BatchNormConfig;
use burn::tensor::{Device, Tensor};
use burn_deq::{AdjointMonitor, FixedPointMap, Report};
use deq_kernels::mean_pool;

use self::layer::{Implicit, Layer};
pub use self::layer::{LayerConfig, LayerState, StageConfig};
use super::coding::CodingConfig;
use super::mopteqs::check_halving;
use super::parts::{Head, HeadConfig, Stem, StemConfig, trainable};
use super::{LayerSolve, Prediction, check_pictures};
use crate::context::Branches;
use crate::error::ConfigError;
use crate::graph::{Builder, Graph, GraphError, Value};

/// Configuration of [`Deep`].
#[derive(Config, Debug, PartialEq)]
pub struct DeepConfig {
    /// Number of classes.
    pub classes: usize,
    /// Channels of the pictures.
    pub input_channels: usize,
    /// Height and width of the pictures in pixels.
    pub input_size: [usize; 2],
    /// Channels of the stem's output.
    pub stem_channels: usize,
    /// The stem's convolution. Default: 3 x 3, which keeps the resolution
    #[config(default = "StemConfig::new()")]
    pub stem: StemConfig,
    /// The stages, in the order of the data.
    pub stages: Vec<StageConfig>,
    /// Whether every second layer of a stage adds the input of the pair to its output, or the
    /// output of the first layer if the channels differ. Default: true
    #[config(default = true)]
    pub skip: bool,
    /// The last stage is pooled to this many cells per side before the classifier. Default: 1
    #[config(default = 1)]
    pub head_grid: usize,
}

impl DeepConfig {
    /// A stem with this many channels, and codings in stages of `[channels, layers]`. Each stage
    /// after the first has half the resolution of the previous one.
    fn codings(
        [classes, input_channels]: [usize; 2],
        input_size: [usize; 2],
        stem: usize,
        stages: &[[usize; 2]],
    ) -> Self {
        let stages = stages.iter().enumerate().map(|(i, [channels, layers])| {
            StageConfig::coding(*channels, *layers, i > 0, CodingConfig::new())
        });
        Self::new(classes, input_channels, input_size, stem, stages.collect())
    }

    /// 0.70 M parameters for pictures of 32 x 32 pixels: twelve layers of 32, 64 and 128 channels,
    /// as in wide residual networks.
    pub fn deep(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        let stages = [[32, 4], [64, 4], [128, 4]];
        Self::codings([classes, input_channels], input_size, 32, &stages)
    }

    /// For CPUs: few channels where there are many pixels, after airbench (Jordan 2024,
    /// arXiv:2404.00498).
    pub fn fast(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        let stages = [[48, 1], [96, 2], [160, 2], [160, 1]];
        Self::codings([classes, input_channels], input_size, 24, &stages)
    }

    /// About 10 M parameters.
    pub fn large(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        let stages = [[64, 4], [128, 4], [256, 4], [512, 4]];
        Self::codings([classes, input_channels], input_size, 64, &stages)
    }

    /// For 28 x 28 digits, padded to 32 x 32.
    pub fn digits(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        let stages = [[32, 1], [48, 2], [64, 2]];
        let config = Self::codings([classes, input_channels], input_size, 16, &stages);
        config.with_stem(StemConfig::new().with_stride(2).with_padding(3))
    }

    /// The same network without iteration: each layer takes one step from z = 0.
    pub fn without_iteration(self) -> Self {
        self.unrolled(1)
    }

    /// The same network with this number of unrolled steps in every coding.
    pub fn unrolled(mut self, steps: usize) -> Self {
        for stage in &mut self.stages {
            if let LayerConfig::Coding(coding) = &mut stage.layer {
                *coding = coding.clone().unrolled(steps);
            }
        }
        self
    }

    /// Height and width of every stage.
    pub fn sizes(&self) -> Vec<[usize; 2]> {
        let mut size = self.stem.output(self.input_size);
        let halve = |stage: &StageConfig| {
            if stage.pool {
                size = size.map(|n| n / 2);
            }
            size
        };
        self.stages.iter().map(halve).collect()
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
            ("stem_channels", self.stem_channels),
            ("head_grid", self.head_grid),
            ("stages", self.stages.len()),
        ])?;
        self.stem.validate(self.input_size)?;
        let mut size = self.stem.output(self.input_size);
        for (stage, pooled) in self.stages.iter().zip(self.sizes()) {
            ConfigError::counts(&[("channels", stage.channels), ("layers", stage.layers)])?;
            if stage.pool {
                check_halving(size, 2)?;
            }
            size = pooled;
            stage.layer.validate(stage.channels, size)?;
        }
        Ok(())
    }

    /// Creates the model with random weights from the device's generator.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<Deep, ConfigError> {
        self.validate()?;
        let mut channels = self.stem_channels;
        let mut stages = Vec::new();
        for (stage, size) in self.stages.iter().zip(self.sizes()) {
            let mut layers = Vec::new();
            for _ in 0..stage.layers {
                let shape = [
                    std::mem::replace(&mut channels, stage.channels),
                    stage.channels,
                ];
                layers.push(Layer {
                    implicit: stage.layer.init(shape, size, device)?,
                    norm: BatchNormConfig::new(stage.channels).init(device),
                });
            }
            stages.push(layers);
        }
        let head = HeadConfig::new().with_grid(self.head_grid);
        let last = self.sizes().pop().into_iter().collect::<Vec<_>>();
        let stem = [self.input_channels, self.stem_channels];
        Ok(Deep {
            stem: self.stem.init(stem, device),
            stages,
            head: head.init([channels, self.classes], &last, device),
            config: self.clone(),
        })
    }
}

/// Equilibria one after the other, each the minimiser of its own hidden objective.
///
/// picture -> stem -> stages of (equilibrium -> batch norm, skip around each pair) -> head.
/// [`DeepConfig::init`] creates it.
#[derive(Module, Debug)]
pub struct Deep {
    pub(super) stem: Stem,
    stages: Vec<Vec<Layer>>,
    head: Head,
    #[module(skip)]
    config: DeepConfig,
}

impl Deep {
    /// The configuration the model was made from.
    pub fn config(&self) -> &DeepConfig {
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
        let mut layers = Vec::new();
        let outputs = self.run(images, |name, layer, input| {
            let solution = layer.equilibrium(input);
            layers.push(LayerSolve {
                name,
                forward: solution.forward,
                adjoint: solution.adjoint,
            });
            solution.state
        });
        let adjoints = layers.iter().map(|layer| layer.adjoint.clone());
        Prediction {
            logits: self.head.classify(&outputs[outputs.len() - 1..].to_vec()),
            dense: None,
            forward: Report::worst(layers.iter().map(|layer| &layer.forward)),
            adjoint: AdjointMonitor::joined(adjoints.collect()),
            layers,
        }
    }

    /// The outputs of the stages for pictures `[batch, input_channels, height, width]`.
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn states(&self, images: Tensor<4>) -> Branches {
        self.run(images, |_, layer, input| layer.equilibrium(input).state)
    }

    /// As [`Network::after_plain_steps`](crate::Network::after_plain_steps).
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn after_plain_steps(&self, images: Tensor<4>, steps: usize) -> Tensor<2> {
        let outputs = self.run(images, |_, layer, input| {
            let start = layer.start(&input);
            let context = layer.context(input);
            let step = |z, _| layer.objective().apply(z, context.clone());
            (0..steps).fold(start, step)
        });
        self.head.classify(&outputs[outputs.len() - 1..].to_vec())
    }

    /// As [`Network::graph`](crate::Network::graph).
    ///
    /// # Errors
    ///
    /// As [`Network::graph`](crate::Network::graph).
    pub fn graph(&self) -> Result<Graph, GraphError> {
        let config = &self.config;
        let [height, width] = config.input_size;
        let (mut graph, images) = Builder::new([config.input_channels, height, width]);
        let x = self.stem.operations(&mut graph, images);
        let outputs = self.walk(&mut graph, x, |graph, _, layer, input| {
            layer.operations(graph, input)
        })?;
        Ok(self.head.finish(graph, &outputs[outputs.len() - 1..]))
    }

    /// Inputs and results of all layers for pictures `[batch, input_channels, height, width]`.
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn layers(&self, images: Tensor<4>) -> Vec<LayerState> {
        let mut layers = Vec::new();
        self.run(images, |name, layer, input| {
            let state = layer.equilibrium(input.clone()).state;
            let reconstruction = match &layer.implicit {
                Implicit::Coding(coding) => Some(coding.reconstruction(&state)),
                Implicit::Core(_) => None,
            };
            layers.push(LayerState {
                name,
                state: state.clone(),
                reconstruction,
                context: layer.context(input.clone()),
                objective: layer.objective().clone(),
                input,
            });
            state
        });
        layers
    }

    /// The outputs of the stages. `solve` gets the name of each layer, the layer and its input,
    /// and returns its equilibrium.
    fn run(
        &self,
        images: Tensor<4>,
        mut solve: impl FnMut(String, &Layer, Tensor<4>) -> Branches,
    ) -> Branches {
        let config = &self.config;
        check_pictures(&images, config.input_channels, config.input_size);
        let x = self.stem.forward(images);
        let outputs = self.walk(&mut Tensors, x, |_, name, layer, input| {
            Ok::<_, GraphError>(layer.output(&solve(name, layer, input)))
        });
        outputs.expect("tensors are never refused")
    }

    /// The outputs of the stages from the output of the stem: as tensors, as operations of a graph,
    /// or as how far they can move. `output` gets the name of each layer, the layer and its input.
    fn walk<F: Flow, E>(
        &self,
        flow: &mut F,
        mut x: F::Value,
        mut output: impl FnMut(&mut F, String, &Layer, F::Value) -> Result<F::Value, E>,
    ) -> Result<Vec<F::Value>, E> {
        let mut outputs = Vec::with_capacity(self.stages.len());
        for (s, (stage, layers)) in self.config.stages.iter().zip(&self.stages).enumerate() {
            if stage.pool {
                x = flow.halve(x);
            }
            let mut before = x.clone();
            for (k, layer) in layers.iter().enumerate() {
                let name = format!("stage {}, layer {}", s + 1, k + 1);
                let y = output(flow, name, layer, x.clone())?;
                if !self.config.skip || k % 2 == 0 {
                    x = y;
                    continue;
                }
                let fits = flow.shape(&before) == flow.shape(&y);
                x = flow.add(y, if fits { before } else { x });
                before = x.clone();
            }
            outputs.push(x.clone());
        }
        Ok(outputs)
    }
}

/// The operations that a stack needs on the values that flow through it.
trait Flow {
    type Value: Clone;

    /// Means over cells of 2 x 2 pixels.
    fn halve(&mut self, x: Self::Value) -> Self::Value;

    /// Channels, height and width.
    fn shape(&self, x: &Self::Value) -> [usize; 3];

    fn add(&mut self, a: Self::Value, b: Self::Value) -> Self::Value;
}

/// Values are tensors.
struct Tensors;

impl Flow for Tensors {
    type Value = Tensor<4>;

    fn halve(&mut self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        mean_pool(x, [height / 2, width / 2])
    }

    fn shape(&self, x: &Tensor<4>) -> [usize; 3] {
        let [_, channels, height, width] = x.dims();
        [channels, height, width]
    }

    fn add(&mut self, a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
        a + b
    }
}

impl Flow for Builder {
    type Value = Value;

    fn halve(&mut self, x: Value) -> Value {
        let [_, height, width] = self.picture(x);
        self.mean_pool(x, [height / 2, width / 2])
    }

    fn shape(&self, x: &Value) -> [usize; 3] {
        self.picture(*x)
    }

    fn add(&mut self, a: Value, b: Value) -> Value {
        self.combine(&[(1.0, a), (1.0, b)])
    }
}
