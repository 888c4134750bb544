//! Custom solvers: a state, its start, and a step.

use std::fmt;
use std::sync::Arc;

use burn::tensor::Tensor;
use deq_kernels::vectors::{Rows, squares};

use crate::iteration::{Iteration, Observation, Operator, Scalars};

/// An iterate, its value under f, its residual and their norms.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Iterate {
    /// z, `[batch, n]`: the tensors of the state side by side.
    pub z: Tensor<2>,
    /// f(z).
    pub f: Tensor<2>,
    /// The residual f(z) - z.
    pub r: Tensor<2>,
    /// |r|^2 and |f|^2, `[batch, 2]`.
    pub squares: Tensor<2>,
}

impl Iterate {
    /// Keeps only these samples.
    pub fn keep(self, rows: &Rows) -> Self {
        Self {
            z: rows.of(self.z),
            f: rows.of(self.f),
            r: rows.of(self.r),
            squares: rows.of(self.squares),
        }
    }
}

/// A solver, represented by the state that it keeps between two iterates.
///
/// The layer does the rest: it evaluates f once per step, judges every sample, keeps its best
/// iterate, lets finished samples leave the batch, and reports. The same solver serves the backward
/// pass, where f is u -> J'u + g.
///
/// # Example
///
/// Heavy-ball momentum, z+ = f(z) + momentum (z - z_before):
///
/// ```
/// use burn::prelude::*;
/// use burn_deq::solver::{Custom, Iterate, Step};
/// use burn_deq::{EquilibriumConfig, Rows, Solver};
///
/// struct HeavyBall {
///     before: Tensor<2>,
/// }
///
/// impl Step for HeavyBall {
///     fn step(&mut self, at: Iterate) -> Tensor<2> {
///         let before = std::mem::replace(&mut self.before, at.z.clone());
///         at.f + (at.z - before) * 0.2
///     }
///
///     fn keep(&mut self, rows: &Rows) {
///         self.before = rows.of(self.before.clone());
///     }
/// }
///
/// # let device = Device::flex();
/// let solver: Solver = Custom::new(|z0| HeavyBall { before: z0 }).into();
/// let deq = EquilibriumConfig::new().with_forward(solver).init();
/// let x = Tensor::<2>::ones([2, 4], &device);
/// let out = deq.solve_map(&|z: Tensor<2>, x: Tensor<2>| z * 0.7 + x, x.clone(), x);
/// assert!(out.forward.all_converged());
/// ```
pub trait Step: Send {
    /// The next iterate, `[batch, n]`.
    fn step(&mut self, at: Iterate) -> Tensor<2>;

    /// Keeps only these samples of every tensor that the state holds.
    fn keep(&mut self, rows: &Rows);

    /// Whether the solver rejects a step that made the residual explode or become NaN. Such a
    /// sample then gets one more step.
    fn recovers(&self) -> bool {
        false
    }

    /// B'g, where B is the inverse Jacobian of f(z) - z that a quasi-Newton solver has built.
    fn inverse_transposed(&self, g: Tensor<2>) -> Option<Tensor<2>> {
        let _ = g;
        None
    }
}

/// A custom solver as a [`Method`](crate::Method).
///
/// It is code, so a configuration that contains it cannot be serialised. Two custom solvers are
/// equal if one is a clone of the other.
#[derive(Clone)]
pub struct Custom(Arc<dyn Fn(Tensor<2>) -> Box<dyn Step> + Send + Sync>);

impl Custom {
    /// The solver whose state at the start z0, `[batch, n]`, is `init(z0)`.
    pub fn new<S: Step + 'static>(init: impl Fn(Tensor<2>) -> S + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |z0| Box::new(init(z0))))
    }

    pub(crate) fn init(&self, z0: Tensor<2>) -> Box<dyn Step> {
        (self.0)(z0)
    }
}

// A panic leaves nothing behind, because every solve has its own state.
impl std::panic::UnwindSafe for Custom {}
impl std::panic::RefUnwindSafe for Custom {}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custom")
    }
}

impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Runs a [`Step`] for the driver.
pub(super) struct Stepped {
    step: Box<dyn Step>,
    z: Tensor<2>,
    /// Between `observe` and `advance`.
    seen: Option<Iterate>,
}

impl Stepped {
    pub(super) fn new(step: Box<dyn Step>, z: Tensor<2>) -> Self {
        Self {
            step,
            z,
            seen: None,
        }
    }
}

impl Iteration for Stepped {
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation {
        let (z, f) = (self.z.clone(), map.apply(self.z.clone()));
        let r = f.clone() - z.clone();
        let squares = squares(&r, &f);
        self.seen = Some(Iterate {
            z: z.clone(),
            f: f.clone(),
            r: r.clone(),
            squares: squares.clone(),
        });
        Observation {
            state: z,
            image: Some(f),
            residual: Some(r),
            within: None,
            squares: Some(squares),
            extra: None,
        }
    }

    fn advance(&mut self, _map: &mut Operator<'_>, _scalars: Option<&Scalars>) {
        if let Some(at) = self.seen.take() {
            self.z = self.step.step(at);
        }
    }

    fn keep(&mut self, rows: &Rows) {
        self.z = rows.of(self.z.clone());
        self.seen = self.seen.take().map(|at| at.keep(rows));
        self.step.keep(rows);
    }

    fn recovers(&self) -> bool {
        self.step.recovers()
    }

    fn inverse_transposed(&self, g: Tensor<2>) -> Option<Tensor<2>> {
        self.step.inverse_transposed(g)
    }
}
