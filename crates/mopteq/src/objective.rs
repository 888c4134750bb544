//! Hidden objectives: sums of terms over a multi-branch state, and the maps that descend them.
//!
//! The equilibrium of a MOptEq is a stationary point of G(z; g(x)), a sum of [`Term`]s. A term
//! knows its value, its gradient and its Hessian; from them follow the layer (the paper's
//! Algorithm 2, T(z) = z - dG/dz), its fixed point (Algorithm 1) and its exact backward. The
//! objective itself is a reconstruction: see the chapter "Fidelity" of the book.

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;
use burn_deq::{FixedPointMap, Input, Jacobian, Structure};

use crate::norm::{convolve, transposed};
use crate::resample::{scaled_pool, scaled_upsample};

/// One tensor `[batch, channels, height, width]` a branch, finest first; each branch has half the
/// resolution of the one before.
pub type Branches = Vec<Tensor<4>>;

/// What the objective depends on besides the state: folded once for a whole solve.
#[derive(Clone, Debug)]
pub struct Context {
    /// W_i, `[hidden, channels, k, k]` a branch.
    kernels: Branches,
    /// The kernels of W_i'.
    transposed: Branches,
    /// c_i = U_i g_i(x) + b_i: `[batch, hidden or channels, height, width]` a branch.
    injection: Branches,
}

impl Context {
    /// Kernels W_i `[hidden, channels, k, k]` and injections c_i, one a branch.
    pub fn new(kernels: Branches, injection: Branches) -> Self {
        let transposed = kernels.iter().cloned().map(transposed).collect();
        Self {
            kernels,
            transposed,
            injection,
        }
    }

    fn w(&self, i: usize, z: Tensor<4>) -> Tensor<4> {
        convolve(z, self.kernels[i].clone())
    }

    fn w_transposed(&self, i: usize, h: Tensor<4>) -> Tensor<4> {
        convolve(h, self.transposed[i].clone())
    }

    /// W_i z_i + c_i.
    fn preactivation(&self, i: usize, z: Tensor<4>) -> Tensor<4> {
        self.w(i, z) + self.injection[i].clone()
    }

    /// The injections c_i.
    pub fn injection(&self) -> &Branches {
        &self.injection
    }
}

impl Input for Context {
    fn plain(&self) -> Self {
        Self {
            kernels: self.kernels.plain(),
            transposed: self.transposed.plain(),
            injection: self.injection.plain(),
        }
    }

    fn is_autodiff(&self) -> bool {
        self.kernels.is_autodiff() || self.injection.is_autodiff()
    }
}

/// The Hessian of a term at a point: u -> H u.
pub type Hessian = Box<dyn Fn(&Branches) -> Branches + Send>;

/// A term of a hidden objective.
pub trait Term: Debug + Send + Sync {
    /// The term's name in reports.
    fn name(&self) -> &'static str;

    /// Value for every sample, `[batch]`.
    fn value(&self, z: &Branches, x: &Context) -> Tensor<1>;

    /// Gradient with respect to z, in the shape of z.
    fn gradient(&self, z: &Branches, x: &Context) -> Branches;

    /// The (generalised) Hessian at z, which is symmetric.
    fn hessian(&self, z: &Branches, x: &Context) -> Hessian;

    /// Bounds (lower, upper) on the eigenvalues of the Hessian, valid everywhere, for `branches`
    /// branches whose kernels have norm at most `kernel_norm`.
    fn curvature(&self, branches: usize, kernel_norm: f64) -> (f64, f64);
}

/// Sum over everything but the batch: `[batch]`.
fn sum_samples(x: Tensor<4>) -> Tensor<1> {
    x.flatten::<2>(1, 3).sum_dim(1).squeeze_dim(1)
}

/// 1/2 |x|^2 for every sample.
fn half_square(x: Tensor<4>) -> Tensor<1> {
    sum_samples(x.clone() * x) * 0.5
}

/// Sum over the branches of a per-branch value.
fn over_branches(z: &Branches, value: impl Fn(usize, Tensor<4>) -> Tensor<1>) -> Tensor<1> {
    z.iter()
        .enumerate()
        .map(|(i, z)| value(i, z.clone()))
        .reduce(|a, b| a + b)
        .expect("a state has at least one branch")
}

fn map_branches(z: &Branches, f: impl Fn(usize, Tensor<4>) -> Tensor<4>) -> Branches {
    z.iter().enumerate().map(|(i, z)| f(i, z.clone())).collect()
}

/// 1/2 |z|^2.
#[derive(Clone, Copy, Debug)]
pub struct Quadratic;

impl Term for Quadratic {
    fn name(&self) -> &'static str {
        "quadratic"
    }

    fn value(&self, z: &Branches, _x: &Context) -> Tensor<1> {
        over_branches(z, |_, z| half_square(z))
    }

    fn gradient(&self, z: &Branches, _x: &Context) -> Branches {
        z.clone()
    }

    fn hessian(&self, _z: &Branches, _x: &Context) -> Hessian {
        Box::new(Branches::clone)
    }

    fn curvature(&self, _branches: usize, _kernel_norm: f64) -> (f64, f64) {
        (1.0, 1.0)
    }
}

/// 1/2 |z - c|^2, with c the injection.
#[derive(Clone, Copy, Debug)]
pub struct Proximity;

impl Term for Proximity {
    fn name(&self) -> &'static str {
        "proximity"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        over_branches(z, |i, z| half_square(z - x.injection[i].clone()))
    }

    fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        map_branches(z, |i, z| z - x.injection[i].clone())
    }

    fn hessian(&self, z: &Branches, x: &Context) -> Hessian {
        Quadratic.hessian(z, x)
    }

    fn curvature(&self, _branches: usize, _kernel_norm: f64) -> (f64, f64) {
        (1.0, 1.0)
    }
}

/// 1/2 |W z|^2.
#[derive(Clone, Copy, Debug)]
pub struct KernelEnergy;

impl Term for KernelEnergy {
    fn name(&self) -> &'static str {
        "kernel energy"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        over_branches(z, |i, z| half_square(x.w(i, z)))
    }

    fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        map_branches(z, |i, z| x.w_transposed(i, x.w(i, z)))
    }

    fn hessian(&self, _z: &Branches, x: &Context) -> Hessian {
        let x = x.clone();
        Box::new(move |u| map_branches(u, |i, u| x.w_transposed(i, x.w(i, u))))
    }

    fn curvature(&self, _branches: usize, kernel_norm: f64) -> (f64, f64) {
        (0.0, kernel_norm * kernel_norm)
    }
}

/// -1's(W z + c) with s' = ReLU, that is s(a) = 1/2 max(a, 0)^2: concave, and its gradient is the
/// layer -W' relu(W z + c) of an OptEq (arXiv:2105.13228).
#[derive(Clone, Copy, Debug)]
pub struct ActivationPotential;

impl Term for ActivationPotential {
    fn name(&self) -> &'static str {
        "activation potential"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        over_branches(z, |i, z| -half_square(x.preactivation(i, z).clamp_min(0.0)))
    }

    fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        map_branches(z, |i, z| {
            -x.w_transposed(i, x.preactivation(i, z).clamp_min(0.0))
        })
    }

    fn hessian(&self, z: &Branches, x: &Context) -> Hessian {
        let slopes = map_branches(z, |i, z| x.preactivation(i, z).greater_elem(0.0).float());
        let slopes: Branches = slopes
            .into_iter()
            .zip(z)
            .map(|(s, z)| s.cast(z.dtype()))
            .collect();
        let x = x.clone();
        Box::new(move |u| map_branches(u, |i, u| -x.w_transposed(i, x.w(i, u) * slopes[i].clone())))
    }

    fn curvature(&self, _branches: usize, kernel_norm: f64) -> (f64, f64) {
        (-kernel_norm * kernel_norm, 0.0)
    }
}

/// lambda/2 sum over i < j of |Q_ij z_i - z_j|^2: neighbouring resolutions are drawn together.
#[derive(Clone, Copy, Debug)]
pub struct Coupling {
    /// lambda.
    pub strength: f64,
}

impl Coupling {
    /// Adds lambda L z to `sum`, with L the Laplacian of the complete graph of branches.
    fn laplacian(&self, z: &Branches) -> Branches {
        let mut sum: Vec<Option<Tensor<4>>> = vec![None; z.len()];
        let mut add = |i: usize, t: Tensor<4>| {
            sum[i] = Some(match sum[i].take() {
                Some(s) => s + t,
                None => t,
            });
        };
        for i in 0..z.len() {
            for j in i + 1..z.len() {
                let s = 1 << (j - i);
                let r = (scaled_pool(z[i].clone(), s) - z[j].clone()) * self.strength;
                add(j, -r.clone());
                add(i, scaled_upsample(r, s));
            }
        }
        sum.into_iter()
            .zip(z)
            .map(|(s, z)| s.unwrap_or_else(|| z.zeros_like()))
            .collect()
    }
}

impl Term for Coupling {
    fn name(&self) -> &'static str {
        "coupling"
    }

    fn value(&self, z: &Branches, _x: &Context) -> Tensor<1> {
        let [batch, ..] = z[0].dims();
        let mut total = Tensor::zeros([batch], (&z[0].device(), z[0].dtype()));
        for i in 0..z.len() {
            for j in i + 1..z.len() {
                let r = scaled_pool(z[i].clone(), 1 << (j - i)) - z[j].clone();
                total = total + half_square(r) * self.strength;
            }
        }
        total
    }

    fn gradient(&self, z: &Branches, _x: &Context) -> Branches {
        self.laplacian(z)
    }

    fn hessian(&self, _z: &Branches, _x: &Context) -> Hessian {
        let coupling = *self;
        Box::new(move |u| coupling.laplacian(u))
    }

    fn curvature(&self, branches: usize, _kernel_norm: f64) -> (f64, f64) {
        // Q Q' = I, so the state restricted to what all branches can see is the complete graph's
        // Laplacian, whose largest eigenvalue is the number of branches.
        (
            0.0,
            if branches > 1 {
                self.strength * branches as f64
            } else {
                0.0
            },
        )
    }
}

/// A hidden objective: a sum of terms, a constraint on z, and the step that descends it.
#[derive(Clone, Debug)]
pub struct HiddenObjective {
    terms: Vec<Arc<dyn Term>>,
    /// Whether the indicator of z >= 0 is part of the objective.
    non_negative: bool,
    step: f64,
    convex: bool,
}

impl HiddenObjective {
    /// The smooth objective `sum of terms`, descended by z - step dG/dz.
    ///
    /// `branches` and `kernel_norm` (a bound on the norm of every kernel) tell what is guaranteed.
    pub fn smooth(terms: Vec<Arc<dyn Term>>, step: f64, branches: usize, kernel_norm: f64) -> Self {
        let convex = lower(&terms, branches, kernel_norm) > 0.0;
        Self {
            terms,
            non_negative: false,
            step,
            convex,
        }
    }

    /// `sum of terms` plus the indicator of z >= 0, descended by relu(z - step dG/dz) with the
    /// step 2 / (lower + upper) of the guaranteed curvature: the fastest fixed step.
    pub fn non_negative(terms: Vec<Arc<dyn Term>>, branches: usize, kernel_norm: f64) -> Self {
        let (low, high) = (
            lower(&terms, branches, kernel_norm),
            upper(&terms, branches, kernel_norm),
        );
        let convex = low > 0.0;
        let step = 2.0 / (low.max(0.0) + high);
        Self {
            terms,
            non_negative: true,
            step,
            convex,
        }
    }

    /// The terms.
    pub fn terms(&self) -> &[Arc<dyn Term>] {
        &self.terms
    }

    /// The step.
    pub fn step(&self) -> f64 {
        self.step
    }

    /// Whether the guarantees of the terms make the objective strongly convex, so that its
    /// stationary point is unique.
    pub fn is_strongly_convex(&self) -> bool {
        self.convex
    }

    /// G(z; x) for every sample, `[batch]`. Infinite where a constraint is violated.
    pub fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        let smooth = sum(self.terms.iter().map(|t| t.value(z, x)), |a, b| a + b);
        if !self.non_negative {
            return smooth;
        }
        let negative = over_branches(z, |_, z| sum_samples(z.clamp_max(0.0)));
        smooth.mask_fill(negative.lower_elem(0.0), f64::INFINITY)
    }

    /// dG/dz of the smooth part.
    pub fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        sum(self.terms.iter().map(|t| t.gradient(z, x)), add)
    }

    /// z - step dG/dz of the smooth part. With step 1 this is Algorithm 2, T(z) = z - dG/dz.
    pub fn descend(&self, z: &Branches, x: &Context, step: f64) -> Branches {
        z.iter()
            .zip(self.gradient(z, x))
            .map(|(z, g)| z.clone() - if step == 1.0 { g } else { g * step })
            .collect()
    }

    /// The Hessian of the smooth part at z.
    fn hessian(&self, z: &Branches, x: &Context) -> Hessian {
        let parts: Vec<Hessian> = self.terms.iter().map(|t| t.hessian(z, x)).collect();
        Box::new(move |u| sum(parts.iter().map(|h| h(u)), add))
    }
}

fn lower(terms: &[Arc<dyn Term>], branches: usize, kernel_norm: f64) -> f64 {
    terms
        .iter()
        .map(|t| t.curvature(branches, kernel_norm).0)
        .sum()
}

fn upper(terms: &[Arc<dyn Term>], branches: usize, kernel_norm: f64) -> f64 {
    terms
        .iter()
        .map(|t| t.curvature(branches, kernel_norm).1)
        .sum()
}

fn add(a: Branches, b: Branches) -> Branches {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}

fn sum<T>(parts: impl Iterator<Item = T>, add: impl Fn(T, T) -> T) -> T {
    parts
        .reduce(add)
        .expect("an objective has at least one term")
}

/// One step of Algorithm 1: z -> T(z), or z -> relu(T(z)) under the constraint z >= 0.
impl FixedPointMap<Branches, Context> for HiddenObjective {
    fn apply(&self, z: Branches, x: Context) -> Branches {
        let t = self.descend(&z, &x, self.step);
        if self.non_negative {
            t.into_iter().map(|t| t.clamp_min(0.0)).collect()
        } else {
            t
        }
    }

    fn jacobian(&self, z: Branches, x: Context) -> Option<Box<dyn Jacobian<Branches>>> {
        let active = self.non_negative.then(|| {
            let t = self.descend(&z, &x, self.step);
            t.into_iter()
                .map(|t| t.greater_elem(0.0).float().cast(z[0].dtype()))
                .collect()
        });
        let hessian = self.hessian(&z, &x);
        Some(Box::new(DescentJacobian {
            hessian,
            active,
            step: self.step,
        }))
    }

    fn structure(&self) -> Structure {
        // I - J = step H is symmetric; the constraint's mask makes J unsymmetric.
        if self.convex && !self.non_negative {
            Structure::SymmetricPositiveDefinite
        } else {
            Structure::General
        }
    }
}

/// J = D (I - step H), with D the derivative of the constraint's projection.
struct DescentJacobian {
    hessian: Hessian,
    active: Option<Branches>,
    step: f64,
}

impl Jacobian<Branches> for DescentJacobian {
    fn vjp(&self, u: Branches) -> Branches {
        let u: Branches = match &self.active {
            Some(active) => u
                .into_iter()
                .zip(active)
                .map(|(u, d)| u * d.clone())
                .collect(),
            None => u,
        };
        let h = (self.hessian)(&u);
        u.into_iter()
            .zip(h)
            .map(|(u, h)| u - h * self.step)
            .collect()
    }
}
