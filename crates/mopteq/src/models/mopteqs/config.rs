//! The configuration of a MOptEq and its presets.

use burn::config::Config;

use crate::error::ConfigError;
use crate::models::core::{CoreConfig, Family};
use crate::models::parts::{HeadConfig, StemConfig};
use crate::objective::HiddenObjective;
use crate::perturbation::Perturbation;

/// Configuration of [`MOptEqs`](crate::MOptEqs).
#[derive(Config, Debug, PartialEq)]
pub struct MOptEqsConfig {
    /// Number of classes.
    pub classes: usize,
    /// Channels of the pictures.
    pub input_channels: usize,
    /// Height and width of the pictures in pixels.
    pub input_size: [usize; 2],
    /// Number of branches; each has half the resolution of the previous one. Default: 3
    #[config(default = 3)]
    pub branches: usize,
    /// The stem's convolution. Default: 3 x 3, which keeps the resolution
    #[config(default = "StemConfig::new()")]
    pub stem: StemConfig,
    /// The hidden objective and its solver. Default: family P, 32 channels (the book's chapter
    /// "Results" compares the families)
    #[config(default = "CoreConfig::new()")]
    pub core: CoreConfig,
    /// Perturbation enhancement in training. Default: Gaussian, size 0.1, one step
    #[config(default = "Perturbation::new()")]
    pub perturbation: Perturbation,
    /// The head, from equilibrium to class scores. Default: concatenated pools of 4 x 4 cells
    #[config(default = "HeadConfig::new()")]
    pub head: HeadConfig,
}

impl MOptEqsConfig {
    /// The same configuration with a changed core, for example
    /// `config.map_core(|core| core.with_channels(64))`.
    pub fn map_core(mut self, change: impl FnOnce(CoreConfig) -> CoreConfig) -> Self {
        self.core = change(self.core);
        self
    }

    /// The paper's small model: three branches of 32 channels.
    pub fn small(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        Self::new(classes, input_channels, input_size)
    }

    /// A large model: four branches of 128 channels (a guess; the paper's model is not known).
    pub fn large(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        Self::new(classes, input_channels, input_size)
            .with_branches(4)
            .with_core(CoreConfig::new().with_channels(128).with_hidden(128))
    }

    /// For pictures of a few hundred pixels per side, such as ImageNette's: a 7 x 7 stem of stride
    /// 4 and four branches of 64 channels (a guess; the paper's model is not known).
    pub fn imagenette(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        Self::new(classes, input_channels, input_size)
            .with_branches(4)
            .with_core(CoreConfig::new().with_channels(64).with_hidden(64))
            .with_stem(StemConfig {
                kernel: 7,
                stride: 4,
                padding: 3,
            })
    }

    /// A narrow model for 28 x 28 digits: three branches of 16 channels, 16 x 16 at the finest.
    pub fn digits(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        Self::new(classes, input_channels, input_size)
            .with_core(CoreConfig::new().with_channels(16).with_hidden(16))
            .with_stem(StemConfig::new().with_stride(2).with_padding(3))
            .with_head(HeadConfig::new().with_grid(2))
    }

    /// The same model with one branch, an OptEq. Its kernels W and U together have as many
    /// parameters as those of all branches before.
    pub fn single_branch(mut self) -> Self {
        let n = self.branches;
        // Per pixel of the kernel, a branch has hidden * channels parameters in W. In U, it has
        // channels^2 in family P and hidden * channels in family S.
        let core = &mut self.core;
        core.hidden = match core.family {
            Family::P => n * core.hidden + n.saturating_sub(1) * core.channels,
            Family::S => n * core.hidden,
        };
        self.branches = 1;
        self
    }

    /// A symmetric monotone operator network: one branch, family P. A monDEQ (Winston and Kolter
    /// 2020, arXiv:2006.08591) solves z = relu(Wz + c) with W = (1 - m) I - A'A + B - B'. This is
    /// the case m = 1, B = 0. The skew part B - B' is not a gradient, so no objective has it.
    pub fn monotone(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        Self::new(classes, input_channels, input_size)
            .with_branches(1)
            .with_core(CoreConfig::new().with_coupling(0.0).with_norm_bound(3.0))
            .with_perturbation(Perturbation::off())
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
            ("head.grid", self.head.grid),
        ])?;
        let few = self.branches <= 16;
        ConfigError::range("branches", self.branches as f64, few, "at most 16")?;
        self.core.validate(self.branches)?;
        self.perturbation.validate()?;
        let contraction = self.core.coupling * self.branches as f64;
        ConfigError::range(
            "coupling",
            self.core.coupling,
            self.core.family == Family::P || contraction < 1.0,
            "less than 1 / branches for family S",
        )?;
        self.stem.validate(self.input_size)?;
        check_halving(self.finest(), self.branches)
    }

    /// Height and width of the finest branch.
    pub fn finest(&self) -> [usize; 2] {
        self.stem.output(self.input_size)
    }

    /// Height and width of every branch.
    pub fn sizes(&self) -> Vec<[usize; 2]> {
        let finest = self.finest();
        (0..self.branches).map(|i| finest.map(|n| n >> i)).collect()
    }

    /// The hidden objective.
    ///
    /// # Errors
    ///
    /// Returns the field that [`CoreConfig::validate`] rejects.
    pub fn objective(&self) -> Result<HiddenObjective, ConfigError> {
        self.core.objective(self.branches)
    }
}

/// Returns an error if the sides of the finest branch cannot be halved often enough.
pub(crate) fn check_halving(
    [height, width]: [usize; 2],
    branches: usize,
) -> Result<(), ConfigError> {
    let divisor = 1 << (branches - 1);
    if height % divisor == 0 && width % divisor == 0 {
        return Ok(());
    }
    Err(ConfigError::Indivisible {
        height,
        width,
        branches,
        divisor,
    })
}
