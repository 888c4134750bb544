//! Normalisation of weights that a map uses repeatedly, as Burn reparameterisations.
//!
//! `module.apply_reparameterization(config)` attaches one to every weight of a module (or of a
//! [`ParamGroup`]). From then on, the module sees the normalised weight. The layer folds it once
//! per solve (`Module::materialize`), whatever the number of steps, and gradients reach the
//! underlying parameters.

use burn::module::{Module, Param, ParamGroup, Reparameterization, Reparameterizer, RunningState};
use burn::tensor::module::{conv_transpose2d, conv2d};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use burn::tensor::{Distribution, Tensor};

/// Weight normalisation, w = g v / |v|, separately for every output unit (Salimans and Kingma 2016,
/// arXiv:1602.07868). v is the base of the parameter it is attached to.
#[derive(Module, Debug)]
pub struct WeightNorm {
    /// Lengths, one per output unit.
    pub g: Param<Tensor<1>>,
    dim: usize,
}

impl Reparameterization for WeightNorm {
    const NAME: &'static str = "weight_norm";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let norm = lengths(base.clone(), self.dim);
        let mut shape = [1; D];
        shape[self.dim] = base.dims()[self.dim];
        // A unit of zeros stays zero.
        let norm = norm.clamp_min(f64::MIN_POSITIVE.max(1e-30));
        base * (self.g.val().reshape(shape) / norm)
    }
}

/// Euclidean norms over all dimensions but one, which is kept.
fn lengths<const D: usize>(x: Tensor<D>, dim: usize) -> Tensor<D> {
    let others: Vec<usize> = (0..D).filter(|d| *d != dim).collect();
    (x.clone() * x).sum_dims(&others).sqrt()
}

/// The dimension of the output units: the last of a linear layer's `[in, out]`, the first of a
/// convolution's `[out, in, ..]`.
fn output_dimension<const D: usize>() -> usize {
    usize::from(D == 2)
}

/// Attaches [`WeightNorm`] to the weights of a module. Biases and other vectors stay as they are.
///
/// # Example
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::prelude::*;
/// use burn_deq::WeightNormConfig;
///
/// # let device = Device::flex();
/// let linear = LinearConfig::new(3, 5).init(&device);
/// let before = linear.weight.val();
/// let linear = linear.apply_reparameterization(WeightNormConfig::new());
/// // The weight is the same at first; its direction and its lengths are now trained apart.
/// before.into_data().assert_approx_eq::<f32>(&linear.weight.val().into_data(), Default::default());
/// ```
#[derive(Clone, Debug)]
pub struct WeightNormConfig {
    group: ParamGroup,
}

impl Default for WeightNormConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl WeightNormConfig {
    /// Normalises all weights.
    pub fn new() -> Self {
        Self {
            group: ParamGroup::all(),
        }
    }

    /// Normalises the weights of this group only.
    pub fn with_group(self, group: ParamGroup) -> Self {
        Self { group }
    }
}

impl Reparameterizer for WeightNormConfig {
    type Reparam = WeightNorm;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<WeightNorm>) {
        if D < 2 || !self.group.matches(&param.id, Some(path)) {
            return (param, None);
        }
        let dim = output_dimension::<D>();
        let base = param.base();
        let units = base.dims()[dim];
        let g = lengths(base, dim).reshape([units]).detach();
        let norm = WeightNorm {
            g: Param::from_tensor(g),
            dim,
        };
        (param, Some(norm))
    }
}

/// The linear operator whose norm is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpectralOperator {
    /// The weight of a linear layer as a matrix.
    Matrix,
    /// A two-dimensional convolution with zero padding on inputs of this size. Its norm differs
    /// from that of the reshaped kernel: it depends on resolution, stride and padding.
    Convolution {
        /// Height and width of the input.
        size: [usize; 2],
        /// Stride along height and width.
        stride: [usize; 2],
        /// Zeros added on each side along height and width.
        padding: [usize; 2],
    },
}

impl SpectralOperator {
    /// W v, for v flattened; `weight` is `[in, out]` or `[out, in, k, k]`.
    fn apply<const D: usize>(self, weight: Tensor<D>, v: Tensor<1>) -> Tensor<1> {
        match self {
            Self::Matrix => {
                let weight = as_rank::<D, 2>(weight);
                v.unsqueeze::<2>().matmul(weight).squeeze_dim(0)
            }
            Self::Convolution {
                size,
                stride,
                padding,
            } => {
                let weight = as_rank::<D, 4>(weight);
                let v = v.reshape([1, weight.dims()[1], size[0], size[1]]);
                let options = ConvOptions::new(stride, padding, [1, 1], 1);
                conv2d(v, weight, None, options).flatten(0, 3)
            }
        }
    }

    /// W'y, flattened.
    fn transposed<const D: usize>(self, weight: Tensor<D>, y: Tensor<1>) -> Tensor<1> {
        match self {
            Self::Matrix => {
                let weight = as_rank::<D, 2>(weight);
                y.unsqueeze::<2>().matmul(weight.transpose()).squeeze_dim(0)
            }
            Self::Convolution {
                size,
                stride,
                padding,
            } => {
                let weight = as_rank::<D, 4>(weight);
                let [out, _, kh, kw] = weight.dims();
                let cells = |i: usize, k: usize| (size[i] + 2 * padding[i] - k) / stride[i] + 1;
                let cells = [cells(0, kh), cells(1, kw)];
                // Rows and columns left over by the stride at the far end.
                let rest =
                    |i: usize, k: usize| size[i] + 2 * padding[i] - k - (cells[i] - 1) * stride[i];
                let y = y.reshape([1, out, cells[0], cells[1]]);
                let rest = [rest(0, kh), rest(1, kw)];
                let options = ConvTransposeOptions::new(stride, padding, rest, [1, 1], 1);
                conv_transpose2d(y, weight, None, options).flatten(0, 3)
            }
        }
    }

    /// Number of elements of the input.
    fn width<const D: usize>(self, weight: &Tensor<D>) -> usize {
        match self {
            Self::Matrix => weight.dims()[0],
            Self::Convolution { size, .. } => weight.dims()[1] * size[0] * size[1],
        }
    }

    /// Whether the operator applies to weights of this rank.
    fn fits<const D: usize>(self) -> bool {
        match self {
            Self::Matrix => D == 2,
            Self::Convolution { .. } => D == 4,
        }
    }
}

fn as_rank<const D: usize, const E: usize>(weight: Tensor<D>) -> Tensor<E> {
    let shape = weight.shape();
    weight.reshape::<E, _>(shape)
}

/// Bounds the spectral norm of a weight: w = v min(1, bound / ||v||), where ||v|| is the norm of
/// the operator that the weight represents (Miyato et al. 2018, arXiv:1802.05957, with the actual
/// convolution instead of the reshaped kernel).
///
/// Power iteration estimates the norm and continues from one training step to the next: one
/// iteration each time the weight is used with autodiff. It approaches the norm from below, so the
/// norm can exceed the bound by the error of the estimate. The gradient treats the singular vectors
/// as constants, which is exact for a simple largest singular value.
#[derive(Module, Debug)]
pub struct SpectralNorm {
    /// Right singular vector of the largest singular value, flattened.
    direction: RunningState<Tensor<1>>,
    #[module(skip)]
    operator: SpectralOperator,
    #[module(skip)]
    bound: f64,
}

impl SpectralNorm {
    /// One power iteration on W'W, normalised.
    fn iterate<const D: usize>(&self, weight: Tensor<D>, v: Tensor<1>) -> Tensor<1> {
        let v = self
            .operator
            .transposed(weight.clone(), self.operator.apply(weight, v));
        let norm = (v.clone() * v.clone()).sum().sqrt().clamp_min(1e-30);
        v / norm
    }
}

impl Reparameterization for SpectralNorm {
    const NAME: &'static str = "spectral_norm";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let plain = base.clone().without_autodiff();
        // Clones of a module share their running states, whatever device each clone is on.
        let direction = self.direction.value_sync().without_autodiff();
        let mut direction = direction.to_device(&plain.device());
        if base.is_autodiff() {
            direction = self.iterate(plain, direction);
            self.direction.update(direction.clone().autodiff());
        }
        let image = self.operator.apply(base.clone(), direction);
        let norm = (image.clone() * image).sum().sqrt();
        let factor = (norm.recip() * self.bound).clamp_max(1.0);
        base * factor.reshape([1; D])
    }
}

/// Attaches [`SpectralNorm`] to those weights of a module whose rank fits the operator.
///
/// # Example
///
/// ```
/// use burn::nn::{Initializer, conv::Conv2dConfig};
/// use burn::prelude::*;
/// use burn_deq::{SpectralNormConfig, SpectralOperator};
///
/// # let device = Device::flex();
/// let operator = SpectralOperator::Convolution { size: [8, 8], stride: [1, 1], padding: [1, 1] };
/// let conv = Conv2dConfig::new([4, 4], [3, 3]).with_initializer(Initializer::Ones).init(&device);
/// let conv = conv.apply_reparameterization(SpectralNormConfig::new(operator, 0.9));
/// let norm = SpectralNormConfig::norm(operator, conv.weight.val(), 100);
/// assert!(norm < 0.91);
/// ```
#[derive(Clone, Debug)]
pub struct SpectralNormConfig {
    operator: SpectralOperator,
    bound: f64,
    iterations: usize,
    group: ParamGroup,
}

impl SpectralNormConfig {
    /// Bounds all weights of the operator's rank, with 30 power iterations at the start.
    pub fn new(operator: SpectralOperator, bound: f64) -> Self {
        Self {
            operator,
            bound,
            iterations: 30,
            group: ParamGroup::all(),
        }
    }

    /// Bounds the weights of this group only.
    pub fn with_group(mut self, group: ParamGroup) -> Self {
        self.group = group;
        self
    }

    /// Uses this number of power iterations at the start.
    pub fn with_iterations(mut self, iterations: usize) -> Self {
        self.iterations = iterations;
        self
    }

    /// The norm of the operator with this weight (`[in, out]` or `[out, in, k, k]`), by power
    /// iteration from a random start. The result is a lower bound that is close after a few tens of
    /// iterations.
    ///
    /// # Panics
    ///
    /// Panics if the weight does not have the operator's rank.
    pub fn norm<const D: usize>(
        operator: SpectralOperator,
        weight: Tensor<D>,
        iterations: usize,
    ) -> f64 {
        let weight = weight.without_autodiff();
        let norm = Self::new(operator, 1.0)
            .with_iterations(iterations)
            .start(&weight);
        let image = operator.apply(weight, norm.direction.value().without_autodiff());
        let square = (image.clone() * image).sum();
        square
            .into_data()
            .iter::<f64>()
            .next()
            .unwrap_or(0.0)
            .sqrt()
    }

    fn start<const D: usize>(&self, weight: &Tensor<D>) -> SpectralNorm {
        let plain = weight.clone().without_autodiff();
        let width = self.operator.width(&plain);
        let options = (&plain.device(), plain.dtype());
        let mut direction = Tensor::random([width], Distribution::Normal(0.0, 1.0), options);
        let mut norm = SpectralNorm {
            direction: RunningState::new(direction.clone()),
            operator: self.operator,
            bound: self.bound,
        };
        for _ in 0..self.iterations.max(1) {
            direction = norm.iterate(plain.clone(), direction);
        }
        let direction = if weight.is_autodiff() {
            direction.autodiff()
        } else {
            direction
        };
        norm.direction = RunningState::new(direction);
        norm
    }
}

impl Reparameterizer for SpectralNormConfig {
    type Reparam = SpectralNorm;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<SpectralNorm>) {
        if !self.operator.fits::<D>() || !self.group.matches(&param.id, Some(path)) {
            return (param, None);
        }
        let norm = self.start(&param.base());
        (param, Some(norm))
    }
}
