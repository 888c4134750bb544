//! One equilibrium of nonnegative sparse coding with its own dictionary.

mod lipschitz;

use std::sync::Arc;

use burn::config::Config;
use burn::module::{Initializer, Module, Param, RunningState};
use burn::serde::{Deserialize, Serialize};
use burn::tensor::{Device, Distribution, Tensor};
use burn_deq::{EquilibriumConfig, Gradient, Solution, Solver};
use deq_kernels::convolution::{convolve, convolve_with};
use deq_kernels::vectors::split;

use crate::constraint::Constraint;
use crate::context::{Branches, Context};
use crate::error::ConfigError;
use crate::graph::{Builder, GraphError, Op, Operands, Value};
use crate::norm::BoundedKernel;
use crate::objective::{HiddenObjective, Step};
use crate::resample::resample;
use crate::terms::{JointReconstruction, PatchReconstruction, Quadratic, Setting, Term};

/// What the codes reconstruct.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum CodingForm {
    /// Every patch of the input on its own: a solver step is a product with one matrix per pixel.
    /// The default.
    #[default]
    Patches,
    /// The input as a whole, as a sum of convolutions: a solver step costs two convolutions.
    Convolution,
}

/// Configuration of [`Coding`].
#[derive(Config, Debug, PartialEq)]
pub struct CodingConfig {
    /// Branches that explain the input together; each has half the resolution of the previous one.
    /// Default: 2
    #[config(default = 2)]
    pub branches: usize,
    /// Share of all channels that belong to each branch but the first. Default: 0.25
    #[config(default = 0.25)]
    pub coarse: f64,
    /// Side of the patches or kernels in pixels, odd. Default: 3
    #[config(default = 3)]
    pub kernel: usize,
    /// mu, the weight of 1/2 |z|^2, relative to the squared norm of the dictionary. It makes the
    /// objective strongly convex. Default: 0.1
    #[config(default = 0.1)]
    pub mu: f64,
    /// The weight of the sum of the codes. For patches, it is a parameter of each channel that
    /// starts here and is kept at 0 or more. Default: 0.05
    #[config(default = 0.05)]
    pub l1: f64,
    /// What the codes reconstruct. Default: patches
    #[config(default = "Default::default()")]
    pub form: CodingForm,
    /// Solvers and gradient. Default: accelerated proximal gradient to a relative tolerance of
    /// 1e-2, at most 12 steps; implicit gradient to the same tolerance.
    #[config(default = "loose()")]
    pub equilibrium: EquilibriumConfig,
}

fn loose() -> EquilibriumConfig {
    let solver = Solver::accelerated().with_relative(1e-2).with_max_steps(12);
    EquilibriumConfig::new().with_forward(solver)
}

impl CodingConfig {
    /// The same layer with this number of unrolled steps in place of an equilibrium. With one step,
    /// there is no iteration: z = relu(step (D'g - l1)).
    pub fn unrolled(mut self, steps: usize) -> Self {
        // A solve returns the state before its last evaluation.
        self.equilibrium.forward = Solver::plain().with_fixed_steps(steps + 1);
        self.equilibrium.gradient = Gradient::Unrolled {
            steps,
            damping: 1.0,
        };
        self
    }

    /// Channels of every branch, if all branches together have `all`.
    pub fn channels(&self, all: usize) -> Vec<usize> {
        let coarse = (all as f64 * self.coarse).round() as usize;
        let others = self.branches.saturating_sub(1);
        let first = all.saturating_sub(others * coarse);
        std::iter::once(first)
            .chain(std::iter::repeat_n(coarse, others))
            .collect()
    }

    /// Checks every field for this number of channels and this resolution of the first branch.
    ///
    /// # Errors
    ///
    /// Returns the first invalid field, by name.
    pub fn validate(&self, channels: usize, size: [usize; 2]) -> Result<(), ConfigError> {
        ConfigError::counts(&[("branches", self.branches), ("kernel", self.kernel)])?;
        let few = self.branches <= 16;
        ConfigError::range("branches", self.branches as f64, few, "at most 16")?;
        let odd = self.kernel % 2 == 1;
        ConfigError::range("kernel", self.kernel as f64, odd, "odd")?;
        let positive = self.mu > 0.0 && self.mu.is_finite();
        ConfigError::range("mu", self.mu, positive, "positive and finite")?;
        ConfigError::at_least_zero("l1", self.l1)?;
        let channels = self.channels(channels);
        let all = channels.iter().all(|c| *c > 0);
        ConfigError::range(
            "coarse",
            self.coarse,
            all,
            "a share that leaves every branch a channel",
        )?;
        super::mopteqs::check_halving(size, self.branches)
    }

    /// The hidden objective over the branches: strongly convex, with a step of at most the inverse
    /// of its smoothness, as accelerated descent requires.
    ///
    /// # Errors
    ///
    /// Returns an error if mu does not give a positive and finite step.
    pub fn objective(&self) -> Result<HiddenObjective, ConfigError> {
        let (term, constraint, norm): (Arc<dyn Term>, _, _) = match self.form {
            CodingForm::Patches => (Arc::new(PatchReconstruction), Constraint::NonNegative, 1.0),
            CodingForm::Convolution => (
                Arc::new(JointReconstruction),
                Constraint::Sparse { weight: self.l1 },
                self.block_norm(),
            ),
        };
        let setting = Setting {
            branches: self.branches,
            kernel_norm: norm,
        };
        let terms: Vec<Arc<dyn Term>> = vec![Arc::new(Quadratic { weight: self.mu }), term];
        let step = Step::Fixed(1.0 / (1.0 + self.mu));
        HiddenObjective::new(terms, Some(constraint.shared()), step, &setting)
    }

    /// The norm of each D_i, such that the norm of D is at most 1.
    fn block_norm(&self) -> f64 {
        1.0 / (self.branches as f64).sqrt()
    }

    /// Creates the layer for inputs of `[input, height, width]`, with `channels` channels over all
    /// branches.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(
        &self,
        [input, channels]: [usize; 2],
        size: [usize; 2],
        device: &Device,
    ) -> Result<Coding, ConfigError> {
        self.validate(channels, size)?;
        let dictionary = match self.form {
            CodingForm::Patches => {
                Dictionary::Patches(Patches::new(self, [input, channels], device))
            }
            CodingForm::Convolution => {
                let sizes = (0..self.branches).map(|i| size.map(|n| n >> i));
                let kernels = self.channels(channels).into_iter().zip(sizes);
                let kernel = |(channels, size)| {
                    let shape = [input, channels, self.kernel];
                    BoundedKernel::scaled(shape, size, self.block_norm(), device)
                };
                Dictionary::Kernels(kernels.map(kernel).collect())
            }
        };
        Ok(Coding {
            dictionary,
            objective: self.objective()?,
            channels: self.channels(channels),
            config: self.clone(),
        })
    }
}

/// The equilibrium of a nonnegative coding: the codes z >= 0, in one or several branches, that
/// explain the input together.
///
/// minimise 1/2 |g - D z|^2 + mu/2 |z|^2 + l1 1'z over z >= 0. The dictionary D is scaled to norm
/// 1, and its transpose injects, so the layer has one kernel.
#[derive(Module, Debug)]
pub struct Coding {
    dictionary: Dictionary,
    #[module(skip)]
    objective: HiddenObjective,
    #[module(skip)]
    channels: Vec<usize>,
    #[module(skip)]
    config: CodingConfig,
}

/// The parameters of a coding.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a layer is not moved in a hot loop"
)]
enum Dictionary {
    Patches(Patches),
    Kernels(Vec<BoundedKernel>),
}

/// The dictionary of patches.
#[derive(Module, Debug)]
struct Patches {
    /// D', up to its norm, `[channels, in, k, k]`.
    weight: Param<Tensor<4>>,
    /// l1 of every channel, `[channels]`.
    threshold: Param<Tensor<1>>,
    /// Eigenvector of the largest eigenvalue of D'D, `[channels, 1]`.
    direction: RunningState<Tensor<2>>,
}

impl Patches {
    fn new(config: &CodingConfig, [input, channels]: [usize; 2], device: &Device) -> Self {
        let k = config.kernel;
        let weight: Param<Tensor<4>> = Initializer::KaimingNormal {
            gain: 1.0,
            fan_out_only: false,
        }
        .init_with(
            [channels, input, k, k],
            Some(input * k * k),
            Some(channels * k * k),
            device,
        );
        let host = deq_kernels::host(device);
        let plain = weight.val().without_autodiff().to_device(&host);
        let gram = gram(&plain);
        let random = Distribution::Normal(0.0, 1.0);
        let start = Tensor::random([channels, 1], random, device).without_autodiff();
        let mut direction = start.to_device(&host);
        for _ in 0..30 {
            direction = power_step(&gram, direction);
        }
        let direction = direction.to_device(&device.clone().without_autodiff());
        let direction = match device.is_autodiff() {
            true => direction.autodiff(),
            false => direction,
        };
        let l1 = Initializer::Constant { value: config.l1 };
        Self {
            weight,
            threshold: l1.init([channels], device),
            direction: RunningState::new(direction),
        }
    }

    /// D' and D'D, with D scaled to norm 1. With autodiff, it first improves the estimate of the
    /// norm.
    fn normalised(&self) -> [Tensor<4>; 2] {
        let weight = self.weight.val();
        let direction = self.direction.value_sync().without_autodiff();
        let mut direction = direction.to_device(&weight.device().without_autodiff());
        let gram = gram(&weight);
        if weight.is_autodiff() {
            direction = power_step(&gram.clone().without_autodiff(), direction);
            self.direction.update(direction.clone().autodiff());
            direction = direction.autodiff();
        }
        // |D|^2 = v'D'D v, with the eigenvector v as a constant.
        let square = direction
            .clone()
            .transpose()
            .matmul(gram.clone())
            .matmul(direction);
        let square = square.clamp_min(1e-30);
        let channels = weight.dims()[0];
        let scale = square.clone().sqrt().recip().reshape([1, 1, 1, 1]);
        let gram = (gram / square).reshape([channels, channels, 1, 1]);
        [weight * scale, gram]
    }
}

/// D'D, from D' `[channels, in, k, k]`.
fn gram(weight: &Tensor<4>) -> Tensor<2> {
    let rows = weight.clone().flatten::<2>(1, 3);
    rows.clone().matmul(rows.transpose())
}

/// One power iteration, normalised.
fn power_step(gram: &Tensor<2>, v: Tensor<2>) -> Tensor<2> {
    let v = gram.clone().matmul(v);
    let norm = v.clone().mul(v.clone()).sum().sqrt().clamp_min(1e-30);
    v / norm.reshape([1, 1])
}

impl Coding {
    /// The configuration.
    pub fn config(&self) -> &CodingConfig {
        &self.config
    }

    /// The hidden objective.
    pub fn objective(&self) -> &HiddenObjective {
        &self.objective
    }

    /// Everything that the objective depends on for inputs g `[batch, in, height, width]`, except
    /// the codes.
    pub fn context(&self, g: Tensor<4>) -> Context {
        match &self.dictionary {
            Dictionary::Kernels(kernels) => Context::new(BoundedKernel::kernels(kernels), vec![g]),
            Dictionary::Patches(patches) => {
                let [batch, _, height, width] = g.dims();
                let [weight, gram] = patches.normalised();
                // Resampling multiplies means by the ratio of the sides, so the bias is divided by
                // it.
                let factors = self.channels.iter().enumerate().flat_map(|(i, c)| {
                    let factor = -1.0 / (1_u32 << i) as f32;
                    std::iter::repeat_n(factor, *c)
                });
                let factors: Vec<f32> = factors.collect();
                let l1 = patches.threshold.val().clamp_min(0.0);
                let factors = Tensor::<1>::from_floats(factors.as_slice(), &l1.device());
                let dtype = l1.dtype();
                let bias = l1 * factors.cast(dtype);
                let codes = convolve_with(g, weight, Some(bias)).flatten::<2>(1, 3);
                let area = height * width;
                let widths: Vec<usize> = self.channels.iter().map(|c| c * area).collect();
                let parts = split(codes, &widths).into_iter().zip(&self.channels);
                let parts = parts.enumerate().map(|(i, (part, channels))| {
                    let part = part.reshape([batch, *channels, height, width]);
                    resample(part, [height >> i, width >> i])
                });
                Context::new(vec![gram], parts.collect())
            }
        }
    }

    /// z = 0, one `[batch, channels_i, h_i, w_i]` per branch, for inputs g.
    pub fn start(&self, g: &Tensor<4>) -> Branches {
        let [batch, _, height, width] = g.dims();
        let options = (&g.device().without_autodiff(), g.dtype());
        let branches = self.channels.iter().enumerate();
        branches
            .map(|(i, c)| Tensor::zeros([batch, *c, height >> i, width >> i], options))
            .collect()
    }

    /// The codes of inputs g `[batch, in, height, width]`, one `[batch, channels_i, h_i, w_i]` per
    /// branch.
    pub fn equilibrium(&self, g: Tensor<4>) -> Solution<Branches> {
        let start = self.start(&g);
        let equilibrium = self.config.equilibrium.init();
        equilibrium.solve_map(&self.objective, self.context(g), start)
    }

    /// The codes as operations of a graph.
    pub(crate) fn operations(
        &self,
        graph: &mut Builder,
        g: Value,
    ) -> Result<Vec<Value>, GraphError> {
        let [_, height, width] = graph.picture(g);
        let sizes = (0..self.channels.len()).map(|i| [height >> i, width >> i]);
        let x = match &self.dictionary {
            Dictionary::Kernels(kernels) => Operands {
                kernels: BoundedKernel::kernels(kernels)
                    .into_iter()
                    .map(Tensor::without_autodiff)
                    .collect(),
                cross: Vec::new(),
                injections: vec![g],
            },
            Dictionary::Patches(patches) => {
                let [weight, gram] = patches.normalised().map(Tensor::without_autodiff);
                let l1 = patches.threshold.val().without_autodiff().clamp_min(0.0);
                let mut first = 0;
                let injections = self.channels.iter().zip(sizes.clone()).map(|(c, size)| {
                    let rows = weight.clone().narrow(0, first, *c);
                    let codes = graph.convolve(g, rows);
                    let (factor, codes) = graph.resample(codes, size);
                    let shift = l1.clone().narrow(0, first, *c).neg();
                    first += c;
                    let scale = shift.ones_like() * factor;
                    let shape = vec![*c, size[0], size[1]];
                    graph.push(Op::Affine { scale, shift }, &[codes], shape)
                });
                Operands {
                    injections: injections.collect(),
                    kernels: vec![gram],
                    cross: Vec::new(),
                }
            }
        };
        let shapes = self.channels.iter().zip(sizes);
        let shapes: Vec<_> = shapes.map(|(c, [h, w])| vec![*c, h, w]).collect();
        let rule = &self.config.equilibrium.forward.termination;
        graph.equilibrium(&shapes, rule, |graph, z| {
            self.objective.operations(graph, z, &x)
        })
    }

    /// The reconstruction of the input from codes, at the resolution of the input: the input as the
    /// layer sees it. For patches, each pixel is the sum of its values in all patches, divided by
    /// the number of pixels of a patch.
    pub fn reconstruction(&self, codes: &Branches) -> Tensor<4> {
        let [_, _, height, width] = codes[0].dims();
        match &self.dictionary {
            Dictionary::Kernels(kernels) => {
                let parts = codes.iter().zip(BoundedKernel::kernels(kernels));
                let parts = parts.map(|(z, d)| resample(convolve(z.clone(), d), [height, width]));
                let sum = parts.reduce(|a, b| a + b);
                sum.expect("a state has at least one branch")
            }
            Dictionary::Patches(patches) => {
                let [weight, _] = patches.normalised();
                let patch = weight.dims()[2] * weight.dims()[3];
                let stacked = codes.iter().map(|z| resample(z.clone(), [height, width]));
                let stacked = Tensor::cat(stacked.collect(), 1);
                let kernel = deq_kernels::convolution::transposed(weight);
                convolve(stacked, kernel) / patch as f64
            }
        }
    }
}
