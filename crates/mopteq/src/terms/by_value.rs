//! Terms that are given only by their value.

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use burn_deq::{EquilibriumConfig, FixedPointMap, Gradient, Input, Jacobian, Solver};

use super::term::zeros_like;
use super::{Curvature, Hessian, Setting, Term};
use crate::context::{Branches, Context, add, inner, map_branches};

/// A function of the state without parameters: see [`ByValue`].
pub trait Energy: Debug + Send + Sync {
    /// Its name in reports.
    fn name(&self) -> &str;

    /// Value for every sample, `[batch]`, in differentiable operations. Sample i depends only on
    /// sample i of z.
    fn value(&self, z: &Branches, x: &Context) -> Tensor<1>;

    /// As [`Term::curvature`].
    fn curvature(&self, setting: &Setting) -> Curvature {
        let _ = setting;
        Curvature::UNKNOWN
    }
}

/// An [`Energy`] as a term. Its gradient comes from autodiff. Its Hessian comes from central
/// differences of the gradient, because Burn differentiates only once.
///
/// It is slower than a term with its own gradient. The Hessian is exact to about the 2/3 power of
/// the rounding error. A gradient computed this way is a constant for the parameters in the
/// context.
#[derive(Clone, Debug)]
pub struct ByValue {
    energy: Arc<dyn Energy>,
}

impl ByValue {
    /// The term of this energy.
    pub fn new(energy: impl Energy + 'static) -> Self {
        Self {
            energy: Arc::new(energy),
        }
    }

    fn plain_gradient(&self, z: &Branches, x: &Context) -> Branches {
        autodiff(z, |z| self.energy.value(z, x))
    }

    /// (g(z + hu) - g(z - hu)) / 2h, with an h per sample that suits its z and u.
    fn product(&self, z: &Branches, x: &Context, u: &Branches) -> Branches {
        let epsilon = match z[0].dtype() {
            DType::F64 => f64::EPSILON,
            _ => f64::from(f32::EPSILON),
        };
        let norm = |v: &Branches| inner(v, v).sqrt();
        // h |u| = eps^(1/3) (1 + |z|/sqrt n) sqrt n balances truncation and rounding.
        let n: usize = z
            .iter()
            .map(|z| z.dims()[1..].iter().product::<usize>())
            .sum();
        let size = norm(z) + (n as f64).sqrt();
        let h = size * epsilon.cbrt() / norm(u).clamp_min(f64::from(f32::MIN_POSITIVE));
        let h: Tensor<4> = h.unsqueeze_dims(&[1, 2, 3]);
        let step = map_branches(u, |u| u * h.clone());
        let ahead = self.plain_gradient(&add(z.clone(), step.clone()), x);
        let behind = self.plain_gradient(&add(z.clone(), map_branches(&step, |s| -s)), x);
        ahead
            .into_iter()
            .zip(behind)
            .map(|(a, b)| (a - b) / (h.clone() * 2.0))
            .collect()
    }
}

impl Term for ByValue {
    fn name(&self) -> &str {
        self.energy.name()
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        self.energy.value(z, x)
    }

    /// The gradient by autodiff. If z is tracked, its derivative is the Hessian.
    ///
    /// # Panics
    ///
    /// Panics if the value depends on a tracked tensor of the context, because the parameters
    /// behind it would get no gradient. In that case, implement [`Term`] with its gradient.
    fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        let (plain_z, plain_x) = (z.plain(), x.plain());
        if x.is_autodiff() {
            let value = self.energy.value(&plain_z, x);
            assert!(
                !(value.is_autodiff() && value.is_tracked()),
                "mopteq: the energy `{}` depends on parameters, which a gradient computed from its \
                 value alone cannot reach; implement Term with its gradient",
                self.name()
            );
        }
        let gradient = self.plain_gradient(&plain_z, &plain_x);
        if !z.iter().any(|z| z.is_autodiff() && z.is_tracked()) {
            return gradient;
        }
        // A derivative known in closed form, H, has to enter the tape. The implicit layer does
        // this: (a, b) = (z, g(a)) is a fixed point whose Jacobian [[0, 0], [H, 0]] is known and
        // has square 0, so its backward solve ends after two products.
        let exact = Solver::plain().with_relative(0.0).with_absolute(0.0);
        EquilibriumConfig::new()
            .with_forward(exact.clone().with_max_steps(0))
            .with_gradient(Gradient::implicit(exact.with_max_steps(4)))
            .init()
            .solve_map(
                &Node(self.clone()),
                (z.clone(), plain_x),
                (plain_z, gradient),
            )
            .state
            .1
    }

    fn hessian(&self, z: &Branches, x: &Context) -> Option<Hessian> {
        let (term, z, x) = (self.clone(), z.clone(), x.clone());
        Some(Box::new(move |u| term.product(&z, &x, u)))
    }

    fn curvature(&self, setting: &Setting) -> Curvature {
        self.energy.curvature(setting)
    }
}

/// (a, b) -> (z, g(a)).
#[derive(Clone)]
struct Node(ByValue);

impl FixedPointMap<(Branches, Branches), (Branches, Context)> for Node {
    fn apply(
        &self,
        (a, _b): (Branches, Branches),
        (z, x): (Branches, Context),
    ) -> (Branches, Branches) {
        let gradient = self.0.plain_gradient(&a.plain(), &x);
        (z, gradient)
    }

    fn jacobian(
        &self,
        (a, _b): (Branches, Branches),
        (_z, x): (Branches, Context),
    ) -> Option<Box<dyn Jacobian<(Branches, Branches)>>> {
        Some(Box::new(NodeJacobian {
            term: self.0.clone(),
            a,
            x,
        }))
    }
}

struct NodeJacobian {
    term: ByValue,
    a: Branches,
    x: Context,
}

impl Jacobian<(Branches, Branches)> for NodeJacobian {
    fn vjp(&self, (_ua, ub): (Branches, Branches)) -> (Branches, Branches) {
        let product = self.term.product(&self.a, &self.x, &ub);
        (product, zeros_like(&ub))
    }
}

/// The gradient of the sum of `value` over the batch, on a separate tape.
pub(super) fn autodiff(z: &Branches, value: impl Fn(&Branches) -> Tensor<1>) -> Branches {
    let leaves: Branches = map_branches(z, |z| z.without_autodiff().autodiff().require_grad());
    let value = value(&leaves).sum();
    if !(value.is_autodiff() && value.is_tracked()) {
        return zeros_like(z);
    }
    let mut gradients = value.backward();
    leaves
        .iter()
        .zip(z)
        .map(|(leaf, z)| {
            let gradient = leaf.grad_remove(&mut gradients);
            gradient.unwrap_or_else(|| z.clone().without_autodiff().zeros_like())
        })
        .collect()
}
