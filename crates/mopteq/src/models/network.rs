//! One interface for all classifiers of single pictures.

use burn::module::Module;
use burn::serde::{Deserialize, Serialize};
use burn::tensor::{Device, Int, Tensor};
use burn_deq::EquilibriumConfig;

use super::{
    Deep, DeepConfig, MOptEqs, MOptEqsConfig, Mdeq, MdeqConfig, Prediction, Residual,
    ResidualConfig,
};
use crate::context::Branches;
use crate::error::ConfigError;
use crate::graph::{Graph, GraphError};
use crate::lipschitz::{Lipschitz, LipschitzError, Solved};

/// Configuration of a [`Network`]. When serialised, the field `network` tells the kinds apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", tag = "network")]
pub enum NetworkConfig {
    /// A MOptEq.
    #[serde(rename = "mopteq")]
    MOptEqs(MOptEqsConfig),
    /// A MOptEq with one branch, which is an OptEq.
    #[serde(rename = "opteq")]
    OptEq(MOptEqsConfig),
    /// A multi-scale deep equilibrium model.
    #[serde(rename = "mdeq")]
    Mdeq(MdeqConfig),
    /// Several equilibria one after the other.
    #[serde(rename = "deep")]
    Deep(DeepConfig),
    /// An explicit residual network.
    #[serde(rename = "residual")]
    Residual(ResidualConfig),
}

/// The kinds of [`NetworkConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// A MOptEq.
    MOptEqs,
    /// A MOptEq of one branch.
    OptEq,
    /// A multi-scale deep equilibrium model.
    Mdeq,
    /// Several equilibria one after the other.
    Deep,
    /// An explicit residual network.
    Residual,
}

impl NetworkKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::MOptEqs,
        Self::OptEq,
        Self::Mdeq,
        Self::Deep,
        Self::Residual,
    ];

    /// The name in serialised configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::MOptEqs => "mopteq",
            Self::OptEq => "opteq",
            Self::Mdeq => "mdeq",
            Self::Deep => "deep",
            Self::Residual => "residual",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// A network of this kind to compare with a MOptEq: for the same pictures and classes, and with
    /// the same number of parameters in its kernels. An MDEQ and a deep network have their own
    /// presets and a different number.
    pub fn comparable(self, base: &MOptEqsConfig) -> NetworkConfig {
        let (classes, channels, size) = (base.classes, base.input_channels, base.input_size);
        match self {
            Self::MOptEqs => NetworkConfig::MOptEqs(base.clone()),
            Self::OptEq => NetworkConfig::OptEq(base.clone().single_branch()),
            // 28 pixels can be halved twice, as that preset needs. Larger pictures are treated as
            // photographs.
            Self::Mdeq if size == [28, 28] => {
                NetworkConfig::Mdeq(MdeqConfig::digits(classes, channels, size))
            }
            Self::Mdeq => {
                let halvings = base.stem.stride.ilog2().min(2) as usize;
                let small = MdeqConfig::small(classes, channels, size);
                NetworkConfig::Mdeq(small.with_halvings(halvings))
            }
            Self::Deep if size == [28, 28] => {
                NetworkConfig::Deep(DeepConfig::digits(classes, channels, size))
            }
            Self::Deep => NetworkConfig::Deep(DeepConfig::fast(classes, channels, size)),
            Self::Residual => NetworkConfig::Residual(ResidualConfig::like(base)),
        }
    }
}

impl From<MOptEqsConfig> for NetworkConfig {
    fn from(config: MOptEqsConfig) -> Self {
        Self::MOptEqs(config)
    }
}

impl NetworkConfig {
    /// The network's name as in its serialised configuration.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// The network's kind.
    pub fn kind(&self) -> NetworkKind {
        match self {
            Self::MOptEqs(_) => NetworkKind::MOptEqs,
            Self::OptEq(_) => NetworkKind::OptEq,
            Self::Mdeq(_) => NetworkKind::Mdeq,
            Self::Deep(_) => NetworkKind::Deep,
            Self::Residual(_) => NetworkKind::Residual,
        }
    }

    /// The configuration of a MOptEq or an OptEq.
    pub fn mopteqs(&self) -> Option<&MOptEqsConfig> {
        match self {
            Self::MOptEqs(c) | Self::OptEq(c) => Some(c),
            _ => None,
        }
    }

    /// The configuration of a MOptEq or an OptEq, mutable.
    pub fn mopteqs_mut(&mut self) -> Option<&mut MOptEqsConfig> {
        match self {
            Self::MOptEqs(c) | Self::OptEq(c) => Some(c),
            _ => None,
        }
    }

    /// Solvers and gradient of every equilibrium, mutable; none for an explicit network.
    pub fn equilibria_mut(&mut self) -> Vec<&mut EquilibriumConfig> {
        match self {
            Self::MOptEqs(c) | Self::OptEq(c) => vec![&mut c.core.equilibrium],
            Self::Mdeq(c) => vec![&mut c.equilibrium],
            Self::Deep(c) => {
                let stages = c.stages.iter_mut();
                stages.map(|s| s.layer.equilibrium_mut()).collect()
            }
            Self::Residual(_) => Vec::new(),
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Self::MOptEqs(c) | Self::OptEq(c) => c.classes,
            Self::Mdeq(c) => c.classes,
            Self::Deep(c) => c.classes,
            Self::Residual(c) => c.classes,
        }
    }

    /// Channels, height and width of the pictures.
    pub fn input_shape(&self) -> [usize; 3] {
        let (channels, [height, width]) = match self {
            Self::MOptEqs(c) | Self::OptEq(c) => (c.input_channels, c.input_size),
            Self::Mdeq(c) => (c.input_channels, c.input_size),
            Self::Deep(c) => (c.input_channels, c.input_size),
            Self::Residual(c) => (c.input_channels, c.input_size),
        };
        [channels, height, width]
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// Returns the first invalid field, by name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::MOptEqs(c) => c.validate(),
            Self::OptEq(c) => {
                let one = c.branches <= 1;
                ConfigError::range("branches", c.branches as f64, one, "1 for an OptEq")?;
                c.validate()
            }
            Self::Mdeq(c) => c.validate(),
            Self::Deep(c) => c.validate(),
            Self::Residual(c) => c.validate(),
        }
    }

    /// Checks every field, and that the network has as many classes as the data.
    ///
    /// # Errors
    ///
    /// Returns the first invalid field, by name.
    pub fn validate_for(&self, classes: usize) -> Result<(), ConfigError> {
        self.validate()?;
        if self.classes() == classes {
            return Ok(());
        }
        Err(ConfigError::Classes {
            found: self.classes(),
            expected: classes,
        })
    }

    /// Creates the network with random weights from the device's generator.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<Network, ConfigError> {
        self.validate()?;
        Ok(match self {
            Self::MOptEqs(c) | Self::OptEq(c) => Network::MOptEqs(c.init(device)?),
            Self::Mdeq(c) => Network::Mdeq(c.init(device)?),
            Self::Deep(c) => Network::Deep(c.init(device)?),
            Self::Residual(c) => Network::Residual(c.init(device)?),
        })
    }
}

/// A classifier of single pictures.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a network is not moved in a hot loop"
)]
pub enum Network {
    /// A MOptEq or an OptEq.
    MOptEqs(MOptEqs),
    /// A multi-scale deep equilibrium model.
    Mdeq(Mdeq),
    /// Several equilibria one after the other.
    Deep(Deep),
    /// An explicit residual network.
    Residual(Residual),
}

impl Network {
    /// The network with a whitening kernel in its stem: the principal axes of the patches of these
    /// plain pictures `[batch, channels, height, width]`, each with both signs. An MDEQ stays
    /// unchanged.
    pub fn whitened(mut self, images: &Tensor<4>) -> Self {
        match &mut self {
            Self::MOptEqs(m) => m.stem = m.stem.clone().whitened(images),
            Self::Mdeq(_) => {}
            Self::Deep(m) => m.stem = m.stem.clone().whitened(images),
            Self::Residual(m) => m.stem = m.stem.clone().whitened(images),
        }
        self
    }

    /// Class scores for pictures `[batch, channels, height, width]`.
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn forward(&self, images: Tensor<4>) -> Prediction {
        match self {
            Self::MOptEqs(m) => m.forward(images),
            Self::Mdeq(m) => m.forward(images),
            Self::Deep(m) => m.forward(images),
            Self::Residual(m) => m.forward(images),
        }
    }

    /// As [`forward`](Self::forward), for training on pictures with known classes `[batch]`. The
    /// perturbation of a MOptEq can use them.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_labelled(&self, images: Tensor<4>, labels: Tensor<1, Int>) -> Prediction {
        match self {
            Self::MOptEqs(m) => m.forward_labelled(images, labels),
            Self::Mdeq(m) => m.forward(images),
            Self::Deep(m) => m.forward(images),
            Self::Residual(m) => m.forward(images),
        }
    }

    /// The equilibrium, one `[batch, channels_i, h_i, w_i]` per branch, or the outputs of all
    /// stages for an explicit or deep network. They are the input of the head. The head of a deep
    /// network reads only the last one.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn states(&self, images: Tensor<4>) -> Branches {
        match self {
            Self::MOptEqs(m) => m.equilibrium(&m.context(images)).state,
            Self::Mdeq(m) => m.equilibrium(images).state,
            Self::Deep(m) => m.states(images),
            Self::Residual(m) => m.stages(images),
        }
    }

    /// Class scores after `steps` plain steps z -> f(z) from 0 in place of a solve, as in the
    /// network's [`graph`](Self::graph). An explicit network takes no steps.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn after_plain_steps(&self, images: Tensor<4>, steps: usize) -> Tensor<2> {
        match self {
            Self::MOptEqs(m) => m.after_plain_steps(images, steps),
            Self::Mdeq(m) => m.after_plain_steps(images, steps),
            Self::Deep(m) => m.after_plain_steps(images, steps),
            Self::Residual(m) => m.forward(images).logits,
        }
    }

    /// The network for inference as a list of operations. Its inputs are normalised pictures. It
    /// finds a fixed point by plain iteration from 0, in the type of the parameters.
    ///
    /// # Errors
    ///
    /// Returns an error if a part has no operations, such as a custom term of the objective.
    pub fn graph(&self) -> Result<Graph, GraphError> {
        match self {
            Self::MOptEqs(m) => m.graph(),
            Self::Mdeq(m) => Ok(m.graph()),
            Self::Deep(m) => m.graph(),
            Self::Residual(m) => Ok(m.graph()),
        }
    }

    /// The Lipschitz constants of the class scores with respect to the pictures before
    /// normalisation, which multiplies each channel by its entry of `scale`. They hold for the
    /// exact equilibria, whatever the accuracy of the configured solvers.
    ///
    /// # Errors
    ///
    /// Returns an error if the network is an MDEQ, if an objective is not known to be strongly
    /// convex, if a layer takes a fixed number of steps instead of solving for its equilibrium, if
    /// a parameter is not finite, or if `scale` does not have one entry per channel.
    pub fn lipschitz(&self, scale: &[f64]) -> Result<Lipschitz, LipschitzError> {
        match self {
            Self::MOptEqs(m) => m.lipschitz(scale),
            Self::Mdeq(_) => Err(LipschitzError::Network { network: "mdeq" }),
            Self::Deep(m) => m.lipschitz(scale),
            Self::Residual(m) => m.lipschitz(scale),
        }
    }

    /// Class scores of normalised pictures `[batch, channels, height, width]`, with the residual at
    /// which each solve stopped, for [`Lipschitz::certificate`]. An MDEQ has no residuals here.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn solved(&self, images: Tensor<4>) -> Solved {
        let alone = |logits| Solved {
            logits,
            residuals: Vec::new(),
        };
        match self {
            Self::MOptEqs(m) => m.solved(images),
            Self::Mdeq(m) => alone(m.forward(images).logits),
            Self::Deep(m) => m.solved(images),
            Self::Residual(m) => alone(m.forward(images).logits),
        }
    }

    /// Number of parameters that are trained.
    pub fn num_parameters(&self) -> usize {
        match self {
            Self::MOptEqs(m) => m.num_parameters(),
            Self::Mdeq(m) => m.num_parameters(),
            Self::Deep(m) => m.num_parameters(),
            Self::Residual(m) => m.num_parameters(),
        }
    }
}
