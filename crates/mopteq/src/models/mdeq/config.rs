//! The configuration of an MDEQ and its presets.

use burn::config::Config;
use burn_deq::EquilibriumConfig;

use crate::error::ConfigError;
use crate::models::core::default_equilibrium;
use crate::models::mopteqs::check_halving;

/// Configuration of [`Mdeq`](crate::Mdeq).
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
}
