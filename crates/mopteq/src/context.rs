//! Everything that an objective depends on, except the state.

use burn::serde::{Deserialize, Serialize};
use burn::tensor::{DType, Device, Tensor};
use burn_deq::{Input, Rows};
use deq_kernels::convolution::{convolve, transposed};
use deq_kernels::step::{Inputs, Prepared};

use crate::resample::resample;
/// One tensor `[batch, channels, height, width]` per branch.
///
/// The resolutions form nested grids: of any two branches, the sides of one divide those of the
/// other. In a MOptEq, the finest branch comes first, and each branch has half the resolution of
/// the previous one.
pub type Branches = Vec<Tensor<4>>;

/// A kernel W_ij from branch `from` to branch `to`. It is applied at the resolution of `from`, and
/// its result is resampled to that of `to`.
#[derive(Clone, Debug)]
pub struct CrossKernel {
    /// i, the branch that receives.
    pub to: usize,
    /// j, the branch that sends.
    pub from: usize,
    /// W_ij, `[hidden, channels, k, k]`.
    pub kernel: Tensor<4>,
}

/// The type in which W and its transpose are applied.
///
/// Everything else keeps its own type: the state with its norms and inner products, the estimate of
/// ||W||, and the parameters. So the solver's norms lose no digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Precision {
    /// The type of the parameters, which the models create as `f32`. The default.
    #[default]
    #[serde(rename = "f32")]
    Full,
    /// bfloat16, with 8 significant bits, accumulated as the device does. An application is
    /// accurate to about 1e-3, and no residual falls much below that.
    Bf16,
}

impl Precision {
    /// The name in serialised configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Whether the device supports it.
    pub fn is_supported(self, device: &Device) -> bool {
        self == Self::Full || device.supports_dtype(DType::BF16)
    }

    fn round(self, kernel: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Full => kernel,
            Self::Bf16 => kernel.cast(DType::BF16),
        }
    }
}

/// Everything that an objective depends on, except the state: the block operator W and the
/// injections c.
///
/// (W z)_i = W_i z_i + sum_j P_ij W_ij z_j, where P_ij is the scaled resampling from branch j to
/// branch i. Without cross kernels, only the other terms connect the branches. All kernels of W'
/// are computed once, here.
#[derive(Clone, Debug)]
pub struct Context {
    kernels: Branches,
    transposed: Branches,
    cross: Vec<Cross>,
    injection: Branches,
    prepared: Prepared,
}

#[derive(Clone, Debug)]
struct Cross {
    to: usize,
    from: usize,
    kernel: Tensor<4>,
    transposed: Tensor<4>,
}

impl Context {
    /// Creates a context from kernels W_i `[hidden, channels, k, k]` and injections c_i
    /// `[batch, hidden or channels, height, width]`, one per branch.
    pub fn new(kernels: Branches, injection: Branches) -> Self {
        let transposed = kernels.iter().cloned().map(transposed).collect();
        Self {
            kernels,
            transposed,
            cross: Vec::new(),
            injection,
            prepared: Prepared::default(),
        }
    }

    /// Adds kernels between branches.
    pub fn with_cross(mut self, cross: Vec<CrossKernel>) -> Self {
        self.cross = cross
            .into_iter()
            .map(|CrossKernel { to, from, kernel }| Cross {
                to,
                from,
                transposed: transposed(kernel.clone()),
                kernel,
            })
            .collect();
        self
    }

    /// The same context, with W and its transpose applied in this precision. Kernels are rounded to
    /// it here, states when they are passed in. Results have the type of the state.
    pub fn in_precision(mut self, precision: Precision) -> Self {
        let round = |kernel: &mut Tensor<4>| *kernel = precision.round(kernel.clone());
        self.kernels.iter_mut().for_each(round);
        self.transposed.iter_mut().for_each(round);
        for cross in &mut self.cross {
            round(&mut cross.kernel);
            round(&mut cross.transposed);
        }
        self.prepared = Prepared::default();
        self
    }

    /// W z, one `[batch, hidden, h_i, w_i]` per branch.
    pub fn w(&self, z: &Branches) -> Branches {
        let mut a: Branches = z
            .iter()
            .zip(&self.kernels)
            .map(|(z, kernel)| convolve(z.clone(), kernel.clone()))
            .collect();
        for cross in &self.cross {
            let message = convolve(z[cross.from].clone(), cross.kernel.clone());
            add_to(&mut a[cross.to], message);
        }
        a
    }

    /// W'h, the exact transpose of [`w`](Self::w), in the shape of the state.
    pub fn w_transposed(&self, h: &Branches) -> Branches {
        let mut z: Branches = h
            .iter()
            .zip(&self.transposed)
            .map(|(h, kernel)| convolve(h.clone(), kernel.clone()))
            .collect();
        for cross in &self.cross {
            let [_, _, height, width] = z[cross.from].dims();
            let message = resample(h[cross.to].clone(), [height, width]);
            let message = convolve(message, cross.transposed.clone());
            z[cross.from] = z[cross.from].clone() + message;
        }
        z
    }

    /// W z + c.
    pub fn preactivation(&self, z: &Branches) -> Branches {
        add(self.w(z), self.injection.clone())
    }

    /// The injections c_i.
    pub fn injection(&self) -> &Branches {
        &self.injection
    }

    /// The kernels between branches.
    pub fn cross(&self) -> Vec<CrossKernel> {
        let kernel = |c: &Cross| CrossKernel {
            to: c.to,
            from: c.from,
            kernel: c.kernel.clone(),
        };
        self.cross.iter().map(kernel).collect()
    }

    /// The inputs of a fused step; `None` with kernels between branches.
    pub(crate) fn inputs(&self) -> Option<Inputs<'_>> {
        self.cross.is_empty().then_some(Inputs {
            kernels: &self.kernels,
            prepared: &self.prepared,
            injections: &self.injection,
        })
    }

    /// The kernels W_i of the branches.
    pub fn kernels(&self) -> &Branches {
        &self.kernels
    }
}

/// Adds `message`, resampled to the resolution of `sum`.
fn add_to(sum: &mut Tensor<4>, message: Tensor<4>) {
    let [_, _, height, width] = sum.dims();
    *sum = sum.clone() + resample(message, [height, width]);
}

impl Input for Cross {
    fn plain(&self) -> Self {
        Self {
            kernel: self.kernel.plain(),
            transposed: self.transposed.plain(),
            ..*self
        }
    }

    fn is_autodiff(&self) -> bool {
        self.kernel.is_autodiff()
    }

    fn select(&self, _rows: &Rows) -> Option<Self> {
        Some(self.clone())
    }
}

impl Input for Context {
    fn plain(&self) -> Self {
        Self {
            kernels: self.kernels.plain(),
            transposed: self.transposed.plain(),
            cross: self.cross.plain(),
            injection: self.injection.plain(),
            prepared: self.prepared.plain(),
        }
    }

    fn is_autodiff(&self) -> bool {
        self.kernels.is_autodiff() || self.cross.is_autodiff() || self.injection.is_autodiff()
    }

    fn select(&self, rows: &Rows) -> Option<Self> {
        // Kernels are shared, even if their first dimension equals the batch.
        let injection = map_branches(&self.injection, |c| rows.of(c));
        Some(Self {
            injection,
            prepared: self.prepared.with_other_injections(),
            ..self.clone()
        })
    }
}

/// a + b, branch by branch.
pub(crate) fn add(a: Branches, b: Branches) -> Branches {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}

/// a * b elementwise, branch by branch.
pub(crate) fn multiply(a: Branches, b: &Branches) -> Branches {
    a.into_iter().zip(b).map(|(a, b)| a * b.clone()).collect()
}

/// Applies f to every branch.
pub(crate) fn map_branches(z: &Branches, f: impl FnMut(Tensor<4>) -> Tensor<4>) -> Branches {
    z.iter().cloned().map(f).collect()
}

/// Sum over all dimensions except the batch, branch by branch and over the branches: `[batch]`.
pub(crate) fn sum_samples(parts: impl IntoIterator<Item = Tensor<4>>) -> Tensor<1> {
    parts
        .into_iter()
        .map(|x| x.flatten::<2>(1, 3).sum_dim(1).squeeze_dim(1))
        .reduce(|a, b| a + b)
        .expect("a state has at least one branch")
}

/// 1/2 |x|^2 for every sample.
pub(crate) fn half_square(x: &Branches) -> Tensor<1> {
    sum_samples(x.iter().map(|x| x.clone() * x.clone())) * 0.5
}

/// <a, b> for every sample.
pub(crate) fn inner(a: &Branches, b: &Branches) -> Tensor<1> {
    sum_samples(a.iter().zip(b).map(|(a, b)| a.clone() * b.clone()))
}

/// 0/1 where the condition holds, in the type of `like`.
pub(crate) fn indicator(condition: Tensor<4, burn::tensor::Bool>, like: &Tensor<4>) -> Tensor<4> {
    condition.float().cast(like.dtype())
}
