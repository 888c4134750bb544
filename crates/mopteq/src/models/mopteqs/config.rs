//! The configuration of a MOptEq and its presets.

use burn::config::Config;
use burn::serde::{Deserialize, Serialize};
use burn_deq::EquilibriumConfig;

use crate::constraint::Constraint;
use crate::context::Precision;
use crate::error::ConfigError;
use crate::models::core::{CoreConfig, Family, default_equilibrium};
use crate::models::parts::{Fusion, StemShape};
use crate::objective::HiddenObjective;
use crate::perturbation::{Perturbation, PerturbationGradient, PerturbationKind};
use crate::terms::{ActivationConfig, Pairs};

/// Configuration of [`MOptEqs`](crate::MOptEqs).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde")]
pub struct MOptEqsConfig {
    /// Number of classes.
    pub classes: usize,
    /// Channels of the pictures.
    pub input_channels: usize,
    /// Height and width of the pictures in pixels.
    pub input_size: [usize; 2],
    /// Number of branches; each has half the resolution of the previous one. Default: 3
    pub branches: usize,
    /// Channels of the state in every branch. Default: 32
    pub channels: usize,
    /// Channels of W z in every branch. Default: 32
    pub hidden: usize,
    /// Whether the activation is inside or outside. Default: P (the book's chapter "Results"
    /// compares the two)
    pub family: Family,
    /// The activation of family S. Default: ReLU
    #[serde(default)]
    pub activation: ActivationConfig,
    /// The constraint of family P. Default: z >= 0
    #[serde(default)]
    pub constraint: Constraint,
    /// lambda, the strength of the coupling between branches. Default: 0.01
    pub coupling: f64,
    /// Which branches are coupled. Default: all pairs
    #[serde(default)]
    pub pairs: Pairs,
    /// Whether W also has blocks between branches. Default: false
    #[serde(default)]
    pub cross_branch: bool,
    /// Weight of spatial smoothness of the state. Default: 0
    #[serde(default)]
    pub smoothness: f64,
    /// Weight of diversity between branches. Default: 0
    #[serde(default)]
    pub diversity: f64,
    /// Bound on the norm of W. Default: 0.95
    pub norm_bound: f64,
    /// The type in which W is applied. Default: f32
    #[serde(default)]
    pub precision: Precision,
    /// Side of the stem's kernel in pixels. Default: 3
    #[serde(default = "three")]
    pub stem_kernel: usize,
    /// Stride of the stem's convolution. Default: 1
    pub stem_stride: usize,
    /// Zero padding of the stem's convolution in pixels. Default: 1
    pub stem_padding: usize,
    /// How branches become one feature vector. Default: concatenated pools
    #[serde(default)]
    pub fusion: Fusion,
    /// Every branch is pooled to this many cells per side before the classifier. Default: 4
    pub head_grid: usize,
    /// Classes of a second, dense head for every pixel of the finest branch; 0 for none. Default: 0
    #[serde(default)]
    pub dense_classes: usize,
    /// epsilon: size of the perturbation of the equilibrium in training, relative to the branch's
    /// root mean square. 0 turns it off. Default: 0.1
    pub perturbation: f64,
    /// Differentiable steps of the map after the perturbation. Default: 1
    pub perturbation_steps: usize,
    /// Location and direction of the perturbation. Default: Gaussian noise on z*
    #[serde(default)]
    pub perturbation_kind: PerturbationKind,
    /// How gradients pass a perturbed equilibrium. Default: implicitly
    #[serde(default)]
    pub perturbation_gradient: PerturbationGradient,
    /// Solvers and gradient. Default: Anderson acceleration to a relative tolerance of 1e-3, at
    /// most 30 steps; implicit gradient to the same tolerance.
    pub equilibrium: EquilibriumConfig,
}

fn three() -> usize {
    3
}

impl Config for MOptEqsConfig {}

impl std::fmt::Display for MOptEqsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&burn::config::config_to_json(self))
    }
}

/// Setters that take and return the configuration.
macro_rules! setters {
    ($($name:ident $field:ident: $type:ty),+ $(,)?) => {$(
        #[doc = concat!("The same configuration with this [`", stringify!($field), "`](Self::", stringify!($field), ").")]
        pub fn $name(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }
    )+};
}

impl MOptEqsConfig {
    /// Three branches of 32 channels; all other fields have their defaults.
    pub fn new(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        Self {
            classes,
            input_channels,
            input_size,
            branches: 3,
            channels: 32,
            hidden: 32,
            family: Family::P,
            activation: ActivationConfig::default(),
            constraint: Constraint::default(),
            coupling: 0.01,
            pairs: Pairs::default(),
            cross_branch: false,
            smoothness: 0.0,
            diversity: 0.0,
            norm_bound: 0.95,
            precision: Precision::default(),
            stem_kernel: 3,
            stem_stride: 1,
            stem_padding: 1,
            fusion: Fusion::default(),
            head_grid: 4,
            dense_classes: 0,
            perturbation: 0.1,
            perturbation_steps: 1,
            perturbation_kind: PerturbationKind::default(),
            perturbation_gradient: PerturbationGradient::default(),
            equilibrium: default_equilibrium(),
        }
    }

    setters! {
        with_branches branches: usize,
        with_channels channels: usize,
        with_hidden hidden: usize,
        with_family family: Family,
        with_activation activation: ActivationConfig,
        with_constraint constraint: Constraint,
        with_coupling coupling: f64,
        with_pairs pairs: Pairs,
        with_cross_branch cross_branch: bool,
        with_smoothness smoothness: f64,
        with_diversity diversity: f64,
        with_norm_bound norm_bound: f64,
        with_precision precision: Precision,
        with_stem_kernel stem_kernel: usize,
        with_stem_stride stem_stride: usize,
        with_stem_padding stem_padding: usize,
        with_fusion fusion: Fusion,
        with_head_grid head_grid: usize,
        with_dense_classes dense_classes: usize,
        with_perturbation perturbation: f64,
        with_perturbation_steps perturbation_steps: usize,
        with_perturbation_kind perturbation_kind: PerturbationKind,
        with_perturbation_gradient perturbation_gradient: PerturbationGradient,
        with_equilibrium equilibrium: EquilibriumConfig,
    }

    /// The paper's small model: three branches of 32 channels.
    pub fn small(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        Self::new(classes, input_channels, input_size)
    }

    /// A large model: four branches of 128 channels (a guess; the paper's model is not known).
    pub fn large(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        Self::new(classes, input_channels, input_size)
            .with_branches(4)
            .with_channels(128)
            .with_hidden(128)
    }

    /// For pictures of a few hundred pixels per side, such as ImageNette's: a 7 x 7 stem of stride
    /// 4 and four branches of 64 channels (a guess; the paper's model is not known).
    pub fn imagenette(classes: usize, input_channels: usize, input_size: [usize; 2]) -> Self {
        Self::new(classes, input_channels, input_size)
            .with_branches(4)
            .with_channels(64)
            .with_hidden(64)
            .with_stem_kernel(7)
            .with_stem_stride(4)
            .with_stem_padding(3)
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

    /// The same model with one branch, an OptEq. Its kernels W and U together have as many
    /// parameters as those of all branches before.
    pub fn single_branch(mut self) -> Self {
        let n = self.branches;
        // Per pixel of the kernel, a branch has hidden * channels parameters in W. In U, it has
        // channels^2 in family P and hidden * channels in family S.
        self.hidden = match self.family {
            Family::P => n * self.hidden + n.saturating_sub(1) * self.channels,
            Family::S => n * self.hidden,
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
            .with_coupling(0.0)
            .with_norm_bound(3.0)
            .with_perturbation(0.0)
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
            ("branches", self.branches),
            ("channels", self.channels),
            ("hidden", self.hidden),
            ("stem_kernel", self.stem_kernel),
            ("stem_stride", self.stem_stride),
            ("head_grid", self.head_grid),
        ])?;
        let few = self.branches <= 16;
        ConfigError::range("branches", self.branches as f64, few, "at most 16")?;
        self.core().validate(self.branches)?;
        let contraction = self.coupling * self.branches as f64;
        ConfigError::range(
            "coupling",
            self.coupling,
            self.family == Family::P || contraction < 1.0,
            "less than 1 / branches for family S",
        )?;
        let shrunk = self.input_size[0].min(self.input_size[1]) + 2 * self.stem_padding;
        ConfigError::range(
            "input_size",
            shrunk as f64,
            shrunk >= self.stem_kernel,
            "at least the size of the stem's kernel, padding included",
        )?;
        check_halving(self.finest(), self.branches)
    }

    pub(super) fn stem(&self) -> StemShape {
        StemShape {
            kernel: self.stem_kernel,
            stride: self.stem_stride,
            padding: self.stem_padding,
        }
    }

    /// Height and width of the finest branch.
    pub fn finest(&self) -> [usize; 2] {
        self.stem().output(self.input_size)
    }

    /// Height and width of every branch.
    pub fn sizes(&self) -> Vec<[usize; 2]> {
        let finest = self.finest();
        (0..self.branches).map(|i| finest.map(|n| n >> i)).collect()
    }

    /// The fields of the perturbation.
    pub fn perturbation(&self) -> Perturbation {
        Perturbation {
            size: self.perturbation,
            kind: self.perturbation_kind,
            steps: self.perturbation_steps,
            gradient: self.perturbation_gradient,
        }
    }

    /// The fields of the implicit part.
    pub fn core(&self) -> CoreConfig {
        CoreConfig {
            channels: self.channels,
            hidden: self.hidden,
            family: self.family,
            activation: self.activation,
            constraint: self.constraint,
            coupling: self.coupling,
            pairs: self.pairs,
            cross_branch: self.cross_branch,
            smoothness: self.smoothness,
            diversity: self.diversity,
            norm_bound: self.norm_bound,
            precision: self.precision,
            perturbation: self.perturbation(),
            equilibrium: self.equilibrium.clone(),
        }
    }

    /// The hidden objective.
    ///
    /// # Errors
    ///
    /// Returns the field that [`CoreConfig::validate`] refuses.
    pub fn objective(&self) -> Result<HiddenObjective, ConfigError> {
        self.core().objective(self.branches)
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
