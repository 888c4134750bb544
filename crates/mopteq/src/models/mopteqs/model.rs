//! The network: stem, hidden objective, perturbation, head.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Int, Tensor};
use burn_deq::{FixedPointMap, Solution};
use deq_kernels::{convolution, mean_pool};

use super::config::MOptEqsConfig;
use crate::context::{Branches, Context};
use crate::error::ConfigError;
use crate::graph::{Builder, Graph, GraphError, Value};
use crate::models::core::{BranchShape, Core};
use crate::models::parts::{Head, Stem, same_convolution, trainable};
use crate::models::{Prediction, check_pictures};
use crate::objective::HiddenObjective;

/// A multi-branch optimization-induced equilibrium network for pictures; with one branch, an OptEq.
///
/// picture -> stem -> injection c_i = U_i g_i + b_i per branch -> equilibrium of the hidden
/// objective -> head. [`MOptEqsConfig::init`] creates it.
#[derive(Module, Debug)]
pub struct MOptEqs {
    pub(in crate::models) stem: Stem,
    pub(super) core: Core,
    /// U_i and b_i.
    pub(super) injections: Vec<Conv2d>,
    pub(super) head: Head,
    #[module(skip)]
    pub(super) config: MOptEqsConfig,
}

impl MOptEqsConfig {
    /// Creates the model with random weights from the device's generator.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<MOptEqs, ConfigError> {
        self.validate()?;
        let channels = self.core.channels;
        let sizes = self.sizes();
        let branches: Vec<_> = sizes
            .iter()
            .map(|size| BranchShape {
                size: *size,
                kernel: 3,
            })
            .collect();
        let injected = self.core.injected();
        Ok(MOptEqs {
            stem: self.stem.init([self.input_channels, channels], device),
            core: self.core.init(&branches, device)?,
            injections: sizes
                .iter()
                .map(|_| same_convolution([channels, injected], device))
                .collect(),
            head: self.head.init([channels, self.classes], &sizes, device),
            config: self.clone(),
        })
    }
}

impl MOptEqs {
    /// The configuration the model was made from.
    pub fn config(&self) -> &MOptEqsConfig {
        &self.config
    }

    /// The implicit part: the kernels and the hidden objective.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Replaces the hidden objective, for example with one that has a custom term.
    pub fn with_objective(mut self, objective: HiddenObjective) -> Self {
        self.core = self.core.with_objective(objective);
        self
    }

    /// Number of trainable parameters. (`Module::num_params` also counts the buffers: running
    /// statistics and singular vectors.)
    pub fn num_parameters(&self) -> usize {
        trainable(self)
    }

    /// Class scores for pictures `[batch, input_channels, height, width]`.
    ///
    /// With autodiff (in training), the equilibrium is perturbed before the head.
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn forward(&self, images: Tensor<4>) -> Prediction {
        self.predict(images, None)
    }

    /// As [`forward`](Self::forward), with the true classes `[batch]` for a perturbation in the
    /// ascent direction of the loss.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_labelled(&self, images: Tensor<4>, labels: Tensor<1, Int>) -> Prediction {
        self.predict(images, Some(labels))
    }

    fn predict(&self, images: Tensor<4>, labels: Option<Tensor<1, Int>>) -> Prediction {
        let training = images.device().is_autodiff();
        let perturbation = &self.config.perturbation;
        let mut g = self.features(images);
        let solution = if training && perturbation.is_on() {
            g = perturbation.features(g);
            let context = self.inject(g);
            let ascent = |z: &Branches| self.head.ascent(z, labels);
            self.core.perturbed(&context, perturbation, ascent)
        } else {
            self.core.equilibrium(&self.inject(g))
        };
        self.read(solution)
    }

    fn read(&self, solution: Solution<Branches>) -> Prediction {
        Prediction {
            logits: self.head.classify(&solution.state),
            dense: self.head.dense(&solution.state),
            forward: solution.forward,
            adjoint: solution.adjoint,
            layers: Vec::new(),
        }
    }

    fn features(&self, images: Tensor<4>) -> Tensor<4> {
        let MOptEqsConfig {
            input_channels,
            input_size,
            ..
        } = self.config;
        check_pictures(&images, input_channels, input_size);
        self.stem.forward(images)
    }

    fn inject(&self, g: Tensor<4>) -> Context {
        let mut features = Vec::<Tensor<4>>::with_capacity(self.injections.len());
        for size in self.config.sizes() {
            // Pools the previous branch if its cells subdivide those of this one. The mean is the
            // same.
            let nested = |f: &&Tensor<4>| {
                let [_, _, height, width] = f.dims();
                height.is_multiple_of(size[0]) && width.is_multiple_of(size[1])
            };
            let from = features.last().filter(nested).unwrap_or(&g).clone();
            let [_, _, height, width] = from.dims();
            features.push(if [height, width] == size {
                from
            } else {
                mean_pool(from, size)
            });
        }
        let injections = self.injections.iter().zip(features);
        let injection = injections
            .map(|(u, g)| convolution::forward(u, g))
            .collect();
        self.core.context(injection)
    }

    /// Everything that the hidden objective depends on for these pictures, except the state: the
    /// bounded kernels W_i and the injections c_i = U_i g_i + b_i, where g_i is the stem's output
    /// at the branch's resolution.
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn context(&self, images: Tensor<4>) -> Context {
        self.inject(self.features(images))
    }

    /// Algorithm 1: the equilibrium of the hidden objective, one `[batch, channels, h_i, w_i]` per
    /// branch.
    pub fn equilibrium(&self, context: &Context) -> Solution<Branches> {
        self.core.equilibrium(context)
    }

    /// As [`Network::after_plain_steps`](crate::Network::after_plain_steps).
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn after_plain_steps(&self, images: Tensor<4>, steps: usize) -> Tensor<2> {
        let context = self.context(images);
        let step = |z, _| self.core.objective().apply(z, context.clone());
        self.classify((0..steps).fold(self.core.start(&context), step))
    }

    /// Class scores `[batch, classes]` of an equilibrium.
    pub fn classify(&self, state: Branches) -> Tensor<2> {
        self.head.classify(&state)
    }

    /// As [`Network::graph`](crate::Network::graph).
    ///
    /// # Errors
    ///
    /// As [`Network::graph`](crate::Network::graph).
    pub fn graph(&self) -> Result<Graph, GraphError> {
        let MOptEqsConfig {
            input_channels,
            input_size: [height, width],
            ..
        } = self.config;
        let (mut graph, images) = Builder::new([input_channels, height, width]);
        let g = self.stem.operations(&mut graph, images);
        let mut from = g;
        let mut injections = Vec::<Value>::with_capacity(self.injections.len());
        for (size, u) in self.config.sizes().into_iter().zip(&self.injections) {
            // The mean of means is the same where the cells of one grid subdivide those of another.
            let [_, h, w] = graph.picture(from);
            let nested = h.is_multiple_of(size[0]) && w.is_multiple_of(size[1]);
            from = graph.mean_pool(if nested { from } else { g }, size);
            injections.push(graph.module_convolution(from, u));
        }
        let state = self.core.operations(&mut graph, injections)?;
        Ok(self.head.finish(graph, &state))
    }
}
