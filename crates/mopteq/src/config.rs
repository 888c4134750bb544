//! The configuration of a MOptEq and its presets.

use std::sync::Arc;

use burn::config::Config;
use burn::nn::conv::Conv2dConfig;
use burn::nn::{BatchNormConfig, LinearConfig, PaddingConfig2d};
use burn::serde::{Deserialize, Serialize};
use burn::tensor::Device;
use burn_deq::{EquilibriumConfig, Solver};

use crate::error::ConfigError;
use crate::model::MOptEqs;
use crate::norm::BoundedKernel;
use crate::objective::{
    ActivationPotential, Coupling, HiddenObjective, KernelEnergy, Proximity, Quadratic, Term,
};

/// Where the activation stands. Both are reconstructions of the paper's objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Family {
    /// Inside, as in OptEqs: G = 1/2|z|^2 - 1's(Wz + Ug + b) + coupling, z = W' relu(Wz + Ug + b) -
    /// lambda L z. Needs ||W|| < 1.
    S,
    /// Outside, proximal: G = indicator(z >= 0) + 1/2|z - (Ug + b)|^2 + 1/2|Wz|^2 + coupling,
    /// z = relu(z - step dG/dz). Strongly convex for every W.
    P,
}

/// Configuration of [`MOptEqs`].
#[derive(Config, Debug, PartialEq)]
pub struct MOptEqsConfig {
    /// Number of classes.
    pub classes: usize,
    /// Channels of the pictures.
    pub input_channels: usize,
    /// Height and width of the pictures in pixels.
    pub input_size: [usize; 2],
    /// Number of branches; each has half the resolution of the one before. Default: 3
    #[config(default = 3)]
    pub branches: usize,
    /// Channels of the state in every branch. Default: 32
    #[config(default = 32)]
    pub channels: usize,
    /// Channels of W z in family S (family P uses it for the range of W, too). Default: 32
    #[config(default = 32)]
    pub hidden: usize,
    /// Where the activation stands. Default: P (the book's chapter "Results" compares the two)
    #[config(default = "Family::P")]
    pub family: Family,
    /// lambda, the strength of the coupling between branches. Default: 0.01
    #[config(default = 0.01)]
    pub coupling: f64,
    /// Bound on the norm of every W. Default: 0.95
    #[config(default = 0.95)]
    pub norm_bound: f64,
    /// Stride of the stem's convolution. Default: 1
    #[config(default = 1)]
    pub stem_stride: usize,
    /// Zero padding of the stem's 3 x 3 convolution in pixels. Default: 1
    #[config(default = 1)]
    pub stem_padding: usize,
    /// Every branch is pooled to this many cells a side before the classifier. Default: 4
    #[config(default = 4)]
    pub head_grid: usize,
    /// epsilon: size of the Gaussian perturbation of the equilibrium in training, relative to the
    /// branch's root mean square. 0 turns it off. Default: 0.1
    #[config(default = 0.1)]
    pub perturbation: f64,
    /// Differentiable steps of the map that follow the perturbation. Default: 1
    #[config(default = 1)]
    pub perturbation_steps: usize,
    /// Solvers and gradient. Default: Anderson acceleration to a relative tolerance of 1e-3, at
    /// most 30 steps; implicit gradient to the same tolerance.
    #[config(
        default = "EquilibriumConfig::new().with_forward(Solver::default().with_relative(1e-3).with_max_steps(30))"
    )]
    pub equilibrium: EquilibriumConfig,
}

impl MOptEqsConfig {
    /// The paper's small model: three branches of 32 channels.
    pub fn small(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        Self::new(classes, input_channels, input_size)
    }

    /// A narrow model for 28 x 28 digits: three branches of 16 channels, 16 x 16 at the finest.
    pub fn digits(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        Self::new(classes, input_channels, input_size)
            .with_channels(16)
            .with_hidden(16)
            .with_stem_stride(2)
            .with_stem_padding(3)
            .with_head_grid(2)
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// The first field that cannot be used, by name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let counts = [
            ("classes", self.classes),
            ("input_channels", self.input_channels),
            ("input_size", self.input_size[0].min(self.input_size[1])),
            ("branches", self.branches),
            ("channels", self.channels),
            ("hidden", self.hidden),
            ("stem_stride", self.stem_stride),
            ("head_grid", self.head_grid),
        ];
        for (field, value) in counts {
            if value == 0 {
                return Err(ConfigError::Zero { field });
            }
        }
        let range = |field, value: f64, ok: bool, expected| {
            if ok {
                Ok(())
            } else {
                Err(ConfigError::OutOfRange {
                    field,
                    value,
                    expected,
                })
            }
        };
        let finite_positive = |v: f64| v.is_finite() && v >= 0.0;
        range(
            "coupling",
            self.coupling,
            finite_positive(self.coupling),
            "0 or more",
        )?;
        range(
            "perturbation",
            self.perturbation,
            finite_positive(self.perturbation),
            "0 or more",
        )?;
        let bound = self.norm_bound;
        match self.family {
            Family::S => {
                let ok = bound > 0.0 && bound < 1.0;
                range(
                    "norm_bound",
                    bound,
                    ok,
                    "between 0 and 1 (exclusive) for family S",
                )?;
                let contraction = self.coupling * self.branches as f64;
                let ok = contraction < 1.0;
                range(
                    "coupling",
                    self.coupling,
                    ok,
                    "less than 1 / branches for family S",
                )?;
            }
            Family::P => {
                let ok = bound > 0.0 && bound.is_finite();
                range("norm_bound", bound, ok, "positive and finite")?;
            }
        }
        let shrunk = self.input_size[0].min(self.input_size[1]) + 2 * self.stem_padding;
        range(
            "input_size",
            shrunk as f64,
            shrunk >= 3,
            "at least 3 with the stem's padding",
        )?;
        if self.branches > 16 {
            let value = self.branches as f64;
            return Err(ConfigError::OutOfRange {
                field: "branches",
                value,
                expected: "at most 16",
            });
        }
        let [height, width] = self.finest();
        let divisor = 1 << (self.branches - 1);
        if height % divisor != 0 || width % divisor != 0 {
            let branches = self.branches;
            return Err(ConfigError::Indivisible {
                height,
                width,
                branches,
                divisor,
            });
        }
        Ok(())
    }

    /// Height and width of the finest branch.
    pub fn finest(&self) -> [usize; 2] {
        self.input_size
            .map(|n| (n + 2 * self.stem_padding).saturating_sub(3) / self.stem_stride + 1)
    }

    /// The hidden objective of the configured family.
    pub fn objective(&self) -> HiddenObjective {
        let coupling = Arc::new(Coupling {
            strength: self.coupling,
        });
        let (n, bound) = (self.branches, self.norm_bound);
        match self.family {
            Family::S => {
                let terms: Vec<Arc<dyn Term>> =
                    vec![Arc::new(Quadratic), Arc::new(ActivationPotential), coupling];
                HiddenObjective::smooth(terms, 1.0, n, bound)
            }
            Family::P => {
                let terms: Vec<Arc<dyn Term>> =
                    vec![Arc::new(Proximity), Arc::new(KernelEnergy), coupling];
                HiddenObjective::non_negative(terms, n, bound)
            }
        }
    }

    /// The model, with random weights from the device's generator.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<MOptEqs, ConfigError> {
        self.validate()?;
        let [height, width] = self.finest();
        // Family P injects into the state, family S into W z.
        let injected = match self.family {
            Family::S => self.hidden,
            Family::P => self.channels,
        };
        let same = PaddingConfig2d::Explicit(1, 1, 1, 1);
        let p = self.stem_padding;
        let stem = Conv2dConfig::new([self.input_channels, self.channels], [3, 3])
            .with_stride([self.stem_stride, self.stem_stride])
            .with_padding(PaddingConfig2d::Explicit(p, p, p, p))
            .with_bias(false)
            .init(device);
        let kernels = (0..self.branches)
            .map(|i| {
                let size = [height >> i, width >> i];
                let shape = [self.hidden, self.channels, 3];
                BoundedKernel::new(shape, size, self.norm_bound, device)
            })
            .collect();
        let injections = (0..self.branches)
            .map(|_| {
                Conv2dConfig::new([self.channels, injected], [3, 3])
                    .with_padding(same.clone())
                    .init(device)
            })
            .collect();
        let features: usize = (0..self.branches)
            .map(|i| {
                let cells = |side: usize| self.head_grid.min(side >> i);
                self.channels * cells(height) * cells(width)
            })
            .sum();
        Ok(MOptEqs {
            stem,
            stem_norm: BatchNormConfig::new(self.channels).init(device),
            kernels,
            injections,
            head_norms: (0..self.branches)
                .map(|_| BatchNormConfig::new(self.channels).init(device))
                .collect(),
            head: LinearConfig::new(features, self.classes).init(device),
            config: self.clone(),
        })
    }
}
