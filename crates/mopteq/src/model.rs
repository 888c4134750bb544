//! The image classifier: stem, hidden objective, perturbation, head.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, Linear};
use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{Distribution, Tensor};
use burn_deq::{AdjointMonitor, FixedPointMap, Report, Solution};

use crate::config::MOptEqsConfig;
use crate::norm::BoundedKernel;
use crate::objective::{Branches, Context};

/// A multi-branch optimization-induced equilibrium network for pictures.
///
/// picture -> stem -> injection c_i = U_i g_i + b_i a branch -> equilibrium of the hidden objective
/// -> pools of all branches -> classes. Made by [`MOptEqsConfig::init`].
#[derive(Module, Debug)]
pub struct MOptEqs {
    pub(crate) stem: Conv2d,
    pub(crate) stem_norm: BatchNorm,
    /// W_i.
    pub(crate) kernels: Vec<BoundedKernel>,
    /// U_i and b_i.
    pub(crate) injections: Vec<Conv2d>,
    pub(crate) head_norms: Vec<BatchNorm>,
    pub(crate) head: Linear,
    #[module(skip)]
    pub(crate) config: MOptEqsConfig,
}

/// What the network says of a batch, and what the solver spent on it.
#[derive(Debug)]
pub struct Prediction {
    /// Unnormalised class scores, `[batch, classes]`.
    pub logits: Tensor<2>,
    /// The forward solve.
    pub forward: Report,
    /// The backward solve, once `backward()` has run.
    pub adjoint: AdjointMonitor,
}

impl MOptEqs {
    /// The configuration the model was made from.
    pub fn config(&self) -> &MOptEqsConfig {
        &self.config
    }

    /// Number of parameters that are trained. (`Module::num_params` also counts the buffers:
    /// running statistics and singular vectors.)
    pub fn num_parameters(&self) -> usize {
        let norm = |n: &BatchNorm| n.gamma.shape().num_elements() + n.beta.shape().num_elements();
        let conv = |c: &Conv2d| {
            let bias = c.bias.as_ref().map_or(0, |b| b.shape().num_elements());
            c.weight.shape().num_elements() + bias
        };
        let head_bias = self
            .head
            .bias
            .as_ref()
            .map_or(0, |b| b.shape().num_elements());
        conv(&self.stem)
            + norm(&self.stem_norm)
            + self
                .kernels
                .iter()
                .map(|k| k.weight.shape().num_elements())
                .sum::<usize>()
            + self.injections.iter().map(conv).sum::<usize>()
            + self.head_norms.iter().map(norm).sum::<usize>()
            + self.head.weight.shape().num_elements()
            + head_bias
    }

    /// Class scores for pictures.
    ///
    /// With autodiff (in training), the equilibrium is perturbed before the head.
    ///
    /// # Shapes
    ///
    /// - images: `[batch, input_channels, height, width]`
    /// - logits: `[batch, classes]`
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn forward(&self, images: Tensor<4>) -> Prediction {
        let training = images.device().is_autodiff();
        let context = self.context(images);
        let Solution {
            mut state,
            forward,
            adjoint,
            ..
        } = self.equilibrium(&context);
        if training && self.config.perturbation > 0.0 {
            state = self.perturb(state, &context);
        }
        Prediction {
            logits: self.classify(state),
            forward,
            adjoint,
        }
    }

    /// Everything the hidden objective depends on for these pictures: the bounded kernels W_i and
    /// the injections c_i = U_i g_i + b_i, with g_i the stem's output at the branch's resolution.
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn context(&self, images: Tensor<4>) -> Context {
        let [_, channels, height, width] = images.dims();
        let MOptEqsConfig {
            input_channels,
            input_size,
            ..
        } = self.config;
        assert!(
            channels == input_channels && [height, width] == input_size,
            "the model takes pictures of shape [{input_channels}, {}, {}], not [{channels}, \
             {height}, {width}]",
            input_size[0],
            input_size[1],
        );
        let g = self
            .stem_norm
            .forward(self.stem.forward(images))
            .clamp_min(0.0);
        let [_, _, height, width] = g.dims();
        let injection = self
            .injections
            .iter()
            .enumerate()
            .map(|(i, u)| u.forward(adaptive_avg_pool2d(g.clone(), [height >> i, width >> i])))
            .collect();
        Context::new(
            self.kernels.iter().map(BoundedKernel::kernel).collect(),
            injection,
        )
    }

    /// Algorithm 1: the equilibrium of the hidden objective, one `[batch, channels, h_i, w_i]` a
    /// branch.
    pub fn equilibrium(&self, context: &Context) -> Solution<Branches> {
        let start = context
            .injection()
            .iter()
            .map(|c| {
                let [batch, _, height, width] = c.dims();
                let shape = [batch, self.config.channels, height, width];
                Tensor::zeros(shape, (&c.device().without_autodiff(), c.dtype()))
            })
            .collect();
        let equilibrium = self.config.equilibrium.init();
        equilibrium.solve_map(&self.config.objective(), context.clone(), start)
    }

    /// Perturbation enhancement (a reconstruction): Gaussian noise of size epsilon relative to each
    /// branch's root mean square, followed by steps of the map, which pull the state back towards
    /// the minimiser. Training then asks that the whole neighbourhood be classified alike.
    fn perturb(&self, state: Branches, context: &Context) -> Branches {
        let mut z: Branches = state
            .into_iter()
            .map(|z| {
                let plain = z.clone().without_autodiff();
                let rms = (plain.clone() * plain.clone()).mean_dims(&[1, 2, 3]).sqrt();
                let options = (&plain.device(), plain.dtype());
                let noise = Tensor::random(plain.dims(), Distribution::Normal(0.0, 1.0), options);
                z + noise * rms * self.config.perturbation
            })
            .collect();
        let objective = self.config.objective();
        for _ in 0..self.config.perturbation_steps {
            z = objective.apply(z, context.clone());
        }
        z
    }

    /// Class scores of an equilibrium: every branch normalised and pooled to a grid, all cells
    /// concatenated, one linear layer.
    pub fn classify(&self, state: Branches) -> Tensor<2> {
        let grid = self.config.head_grid;
        let pools = state
            .into_iter()
            .zip(&self.head_norms)
            .map(|(z, norm)| {
                let [_, _, height, width] = z.dims();
                let pooled = adaptive_avg_pool2d(z, [grid.min(height), grid.min(width)]);
                norm.forward(pooled).flatten::<2>(1, 3)
            })
            .collect();
        self.head.forward(Tensor::cat(pools, 1))
    }
}
