//! Multi-view MOptEqs: every branch has its own input.

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Linear, LinearConfig};
use burn::serde::{Deserialize, Serialize};
use burn::tensor::{Device, Int, Tensor};
use deq_kernels::convolution;

use super::core::{BranchShape, Core, CoreConfig};
use super::parts::{Head, HeadConfig, Stem, StemConfig, same_convolution, trainable};
use super::{Prediction, check_pictures};
use crate::context::{Branches, Context};
use crate::error::ConfigError;
use crate::perturbation::Perturbation;

/// One of several views of the same object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum View {
    /// A picture; its branch has the resolution of its stem's output.
    Image {
        /// Channels of the picture.
        channels: usize,
        /// Height and width in pixels.
        size: [usize; 2],
        /// Stride of its stem, a 3 x 3 convolution.
        stride: usize,
        /// Zero padding of its stem in pixels.
        padding: usize,
    },
    /// A vector; its branch has one pixel.
    Vector {
        /// Number of elements.
        length: usize,
    },
}

impl View {
    fn stem(stride: usize, padding: usize) -> StemConfig {
        StemConfig::new().with_stride(stride).with_padding(padding)
    }

    /// Height and width of the view's branch.
    pub fn branch_size(&self) -> [usize; 2] {
        match *self {
            Self::Image {
                size,
                stride,
                padding,
                ..
            } => Self::stem(stride, padding).output(size),
            Self::Vector { .. } => [1, 1],
        }
    }
}

/// The data of a view for a batch.
#[derive(Clone, Debug)]
pub enum ViewInput {
    /// `[batch, channels, height, width]`.
    Image(Tensor<4>),
    /// `[batch, length]`.
    Vector(Tensor<2>),
}

/// Configuration of [`MultiView`].
#[derive(Config, Debug, PartialEq)]
pub struct MultiViewConfig {
    /// Number of classes.
    pub classes: usize,
    /// One view per branch. The resolutions of their branches must be nested.
    pub views: Vec<View>,
    /// The hidden objective and its solver. Default: that of [`CoreConfig`]
    #[config(default = "CoreConfig::new()")]
    pub core: CoreConfig,
    /// Perturbation enhancement in training. Default: Gaussian, size 0.1, one step
    #[config(default = "Perturbation::new()")]
    pub perturbation: Perturbation,
    /// Every branch is pooled to this many cells per side before the classifier. Default: 4
    #[config(default = 4)]
    pub head_grid: usize,
}

impl MultiViewConfig {
    /// Checks every field.
    ///
    /// # Errors
    ///
    /// Returns the first invalid field, by name.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::counts(&[
            ("classes", self.classes),
            ("views", self.views.len()),
            ("head_grid", self.head_grid),
        ])?;
        for view in &self.views {
            match *view {
                View::Image {
                    channels,
                    size: [height, width],
                    stride,
                    padding,
                } => {
                    let least = height.min(width).min(channels).min(stride);
                    ConfigError::counts(&[("views", least)])?;
                    let shrunk = height.min(width) + 2 * padding;
                    let expected = "at least 3 pixels per side, padding included";
                    ConfigError::range("views", shrunk as f64, shrunk >= 3, expected)?;
                }
                View::Vector { length } => ConfigError::counts(&[("views", length)])?,
            }
        }
        let sizes: Vec<_> = self.views.iter().map(View::branch_size).collect();
        let nested = |a: usize, b: usize| a.max(b).is_multiple_of(a.min(b));
        for (second, b) in sizes.iter().enumerate() {
            for (first, a) in sizes[..second].iter().enumerate() {
                // Both sides must shrink, or neither, because pooling goes to the coarser branch.
                let order = (a[0] >= b[0] && a[1] >= b[1]) || (a[0] <= b[0] && a[1] <= b[1]);
                if !(order && nested(a[0], b[0]) && nested(a[1], b[1])) {
                    return Err(ConfigError::NotNested {
                        field: "views",
                        first,
                        second,
                        a: *a,
                        b: *b,
                    });
                }
            }
        }
        self.perturbation.validate()?;
        self.core.validate(self.views.len())
    }

    /// Creates the model with random weights from the device's generator.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, device: &Device) -> Result<MultiView, ConfigError> {
        self.validate()?;
        let injected = self.core.injected();
        let channels = self.core.channels;
        let readers = self.views.iter().map(|view| match *view {
            View::Image {
                channels: input,
                stride,
                padding,
                ..
            } => Reader {
                stem: Some(View::stem(stride, padding).init([input, channels], device)),
                convolution: Some(same_convolution([channels, injected], device)),
                linear: None,
            },
            View::Vector { length } => Reader {
                stem: None,
                convolution: None,
                linear: Some(LinearConfig::new(length, injected).init(device)),
            },
        });
        let sizes: Vec<_> = self.views.iter().map(View::branch_size).collect();
        let branches: Vec<_> = sizes
            .iter()
            .map(|size| BranchShape {
                size: *size,
                // On one pixel, all entries of a larger kernel except its centre would meet the
                // padding.
                kernel: if *size == [1, 1] { 1 } else { 3 },
            })
            .collect();
        let head = HeadConfig::new().with_grid(self.head_grid);
        Ok(MultiView {
            readers: readers.collect(),
            core: self.core.init(&branches, device)?,
            head: head.init([channels, self.classes], &sizes, device),
            config: self.clone(),
        })
    }
}

/// Maps a view to the injection of its branch: stem and convolution, or a linear layer.
#[derive(Module, Debug)]
struct Reader {
    stem: Option<Stem>,
    convolution: Option<Conv2d>,
    linear: Option<Linear>,
}

/// A MOptEq whose branches see different views of the same object: pictures with nested
/// resolutions, and vectors. [`MultiViewConfig::init`] creates it.
///
/// The paper's summary mentions "single-view models" as a case, so the paper has such models. How
/// it builds them is not known.
#[derive(Module, Debug)]
pub struct MultiView {
    readers: Vec<Reader>,
    core: Core,
    head: Head,
    #[module(skip)]
    config: MultiViewConfig,
}

impl MultiView {
    /// The configuration the model was made from.
    pub fn config(&self) -> &MultiViewConfig {
        &self.config
    }

    /// The implicit part: the kernels and the hidden objective.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Number of parameters that are trained.
    pub fn num_parameters(&self) -> usize {
        trainable(self)
    }

    /// Class scores. `views` are in the order of the configuration.
    ///
    /// With autodiff (in training), the equilibrium is perturbed before the head. A perturbation in
    /// the ascent direction of the loss uses `labels` (`[batch]`).
    ///
    /// # Panics
    ///
    /// Panics if the number, kind or shape of the views is not the configured one.
    pub fn forward(&self, views: Vec<ViewInput>, labels: Option<Tensor<1, Int>>) -> Prediction {
        let perturbation = &self.config.perturbation;
        let training = views.iter().any(|view| match view {
            ViewInput::Image(x) => x.device().is_autodiff(),
            ViewInput::Vector(x) => x.device().is_autodiff(),
        });
        let perturbed = training && perturbation.is_on();
        let context = self.inject(views, |g| {
            if perturbed {
                perturbation.features(g)
            } else {
                g
            }
        });
        let solution = if perturbed {
            let ascent = |z: &Branches| self.head.ascent(z, labels);
            self.core.perturbed(&context, perturbation, ascent)
        } else {
            self.core.equilibrium(&context)
        };
        Prediction {
            logits: self.head.classify(&solution.state),
            dense: None,
            forward: solution.forward,
            adjoint: solution.adjoint,
            layers: Vec::new(),
        }
    }

    /// Everything that the hidden objective depends on for these views, except the state.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn context(&self, views: Vec<ViewInput>) -> Context {
        self.inject(views, |g| g)
    }

    fn inject(&self, views: Vec<ViewInput>, features: impl Fn(Tensor<4>) -> Tensor<4>) -> Context {
        let expected = &self.config.views;
        assert!(
            views.len() == expected.len(),
            "the model takes {} views, not {}",
            expected.len(),
            views.len()
        );
        let triples = views.into_iter().zip(expected).zip(&self.readers);
        let injection: Branches = triples
            .enumerate()
            .map(
                |(i, ((input, view), reader))| match (input, *view, reader) {
                    (
                        ViewInput::Image(x),
                        View::Image { channels, size, .. },
                        Reader {
                            stem: Some(stem),
                            convolution: Some(convolution),
                            ..
                        },
                    ) => {
                        check_pictures(&x, channels, size);
                        convolution::forward(convolution, features(stem.forward(x)))
                    }
                    (
                        ViewInput::Vector(x),
                        View::Vector { length },
                        Reader {
                            linear: Some(linear),
                            ..
                        },
                    ) => {
                        assert!(
                            x.dims()[1] == length,
                            "view {i} is a vector of {length} elements, not {}",
                            x.dims()[1]
                        );
                        let g: Tensor<4> = features(x.unsqueeze_dims(&[2, 3]));
                        let g = g.squeeze_dims::<2>(&[2, 3]);
                        linear.forward(g).unsqueeze_dims(&[2, 3])
                    }
                    _ => panic!("view {i} is not of the configured kind, {view:?}"),
                },
            )
            .collect();
        self.core.context(injection)
    }
}
