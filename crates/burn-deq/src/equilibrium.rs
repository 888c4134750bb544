//! The equilibrium layer: solve off the tape, re-attach once, differentiate implicitly.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::Tensor;

use crate::config::{Gradient, Solver};
use crate::driver::Operator;
use crate::hook::grad_hook;
use crate::map::{FixedPointMap, Input, ModuleMap, Structure, WithModule};
use crate::report::{AdjointMonitor, Report};
use crate::solver;
use crate::state::{Packing, State};

/// Settings of an [`Equilibrium`].
#[derive(Config, Debug, PartialEq)]
pub struct EquilibriumConfig {
    /// The forward solve. Default: Anderson acceleration, relative tolerance 1e-4, 50 steps.
    #[config(default = "Default::default()")]
    pub forward: Solver,
    /// How gradients pass. Default: exact, by the implicit function theorem.
    #[config(default = "Default::default()")]
    pub gradient: Gradient,
}

impl Default for EquilibriumConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl EquilibriumConfig {
    /// The layer with these settings.
    pub fn init(&self) -> Equilibrium {
        Equilibrium {
            config: self.clone(),
        }
    }
}

/// An equilibrium layer: its output is the fixed point z* = f(z*, x) of a map.
///
/// Memory does not depend on the number of solver steps, and gradients are exact up to the
/// tolerance of the backward solve.
///
/// # Example
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::prelude::*;
/// use burn_deq::EquilibriumConfig;
///
/// # let device = Device::flex();
/// let cell: Linear = LinearConfig::new(4, 4).init(&device);
/// let deq = EquilibriumConfig::new().init();
///
/// let x = Tensor::<2>::ones([2, 4], &device);
/// let z0 = x.zeros_like();
/// let out = deq.solve(
///     &cell,
///     |cell: &Linear, z: Tensor<2>, x: Tensor<2>| (cell.forward(z) * 0.3 + x).tanh(),
///     x,
///     z0,
/// );
/// assert!(out.forward.all_converged());
/// assert_eq!(out.state.dims(), [2, 4]);
/// ```
#[derive(Clone, Debug)]
pub struct Equilibrium {
    config: EquilibriumConfig,
}

/// The fixed point and what was spent on it.
#[derive(Clone, Debug)]
pub struct Solution<S> {
    /// The fixed point, in the shape of the initial state. With autodiff it is f(z*, x), one
    /// application past the z* that the report speaks of; without, it is z* itself. The two
    /// differ by no more than the tolerance.
    pub state: S,
    /// The forward solve.
    pub forward: Report,
    /// The backward solve, once `backward()` has run.
    pub adjoint: AdjointMonitor,
}

impl Equilibrium {
    /// Solves z = f(module, z, x) from `z0`, with gradients for the module and for x.
    ///
    /// The module is an argument of `f`, so that the layer can hand it a copy without autodiff.
    /// The gradient with respect to `z0` is zero, for the fixed point does not depend on it.
    ///
    /// Keep `BatchNorm` and `Dropout` out of `f`: both behave differently with autodiff and
    /// without, so the equilibrium that is solved for would not be the one that is differentiated.
    /// Sample dropout masks outside and pass them in `x`; use `GroupNorm` inside.
    ///
    /// # Panics
    ///
    /// Panics if `f` uses a tensor that is tracked by autodiff other than through its arguments,
    /// or returns a state of another shape.
    pub fn solve<M, S, X, F>(&self, module: &M, f: F, x: X, z0: S) -> Solution<S>
    where
        M: Module + 'static,
        S: State,
        X: Input,
        F: Fn(&M, S, X) -> S + Clone + Send + 'static,
    {
        let input = WithModule {
            module: module.clone(),
            input: x,
        };
        self.solve_map(&ModuleMap(f), input, z0)
    }

    /// Solves z = f(z, x) from `z0` for a [`FixedPointMap`], with gradients for x.
    ///
    /// # Panics
    ///
    /// As [`solve`](Self::solve).
    pub fn solve_map<S, X, F>(&self, map: &F, x: X, z0: S) -> Solution<S>
    where
        S: State,
        X: Input,
        F: FixedPointMap<S, X>,
    {
        let adjoint = AdjointMonitor::default();
        let tracked = x.is_autodiff();
        let plain = x.plain();
        let (start, packing) = Packing::pack(z0);
        let start = start.without_autodiff();
        let mut operator = Operator::new(|z| evaluate(map, &plain, &packing, z));
        let (z_star, forward) = solver::solve(&self.config.forward, &mut operator, start);
        drop(operator);

        let state = if !tracked || z_star.shape().num_elements() == 0 {
            packing.unpack(z_star)
        } else {
            if forward.evaluations == 0 {
                // With a step limit of 0 nothing has looked at the map yet.
                evaluate(map, &plain, &packing, z_star.clone());
            }
            let attached = Attached {
                map: map.clone(),
                packing,
                z_star,
            };
            match &self.config.gradient {
                Gradient::Implicit(solver) => {
                    let solver = self.adjoint_solver(solver, map.structure());
                    attached.implicit(x, plain, solver, adjoint.clone())
                }
                Gradient::Phantom { steps, damping } => attached.phantom(x, *steps, *damping),
            }
        };
        Solution {
            state,
            forward,
            adjoint,
        }
    }

    fn adjoint_solver(&self, chosen: &Option<Solver>, structure: Structure) -> Solver {
        match (chosen, structure) {
            (Some(solver), _) => solver.clone(),
            (None, Structure::SymmetricPositiveDefinite) => Solver {
                termination: self.config.forward.termination.clone(),
                ..Solver::conjugate_gradients()
            },
            (None, Structure::General) => Solver {
                termination: self.config.forward.termination.clone(),
                ..Solver::default()
            },
        }
    }
}

/// The map on packed plain tensors.
///
/// # Panics
///
/// Panics if the map brings autodiff in. The backward solve runs while Burn holds the lock of the
/// outer graph: a map that reaches into that graph would wait for the lock for ever. Here it is
/// seen before it can.
fn evaluate<S, X, F>(map: &F, x: &X, packing: &Packing<S::Layout>, z: Tensor<2>) -> Tensor<2>
where
    S: State,
    X: Input,
    F: FixedPointMap<S, X>,
{
    let f = packing.repack(map.apply(packing.unpack(z), x.clone()));
    assert!(
        !f.is_autodiff(),
        "burn-deq: the map captures a tensor or module that is tracked by autodiff; pass it as an \
         argument instead: the module through Equilibrium::solve, everything else through x (or \
         call .without_autodiff() on what is a constant)"
    );
    f
}

/// A solved equilibrium on its way back to the tape.
struct Attached<F, L> {
    map: F,
    packing: Packing<L>,
    z_star: Tensor<2>,
}

impl<F, L> Attached<F, L> {
    /// One tracked application of the map, whose backward pass first solves u = J'u + g.
    fn implicit<S, X>(self, x: X, plain: X, solver: Solver, monitor: AdjointMonitor) -> S
    where
        S: State<Layout = L>,
        X: Input,
        F: FixedPointMap<S, X>,
        L: Clone + std::fmt::Debug + PartialEq + Send + 'static,
    {
        let Self {
            map,
            packing,
            z_star,
        } = self;
        let f = packing.repack(map.apply(packing.unpack(z_star.clone()), x));
        let layout = packing.clone();
        let f = grad_hook(f, move |g| {
            let (u, report) = adjoint(&map, &plain, &layout, z_star, g, &solver);
            monitor.deliver(report);
            u
        });
        packing.unpack(f)
    }

    /// A few tracked steps from the detached equilibrium.
    fn phantom<S, X>(self, x: X, steps: usize, damping: f64) -> S
    where
        S: State<Layout = L>,
        X: Input,
        F: FixedPointMap<S, X>,
        L: Clone + std::fmt::Debug + PartialEq + Send + 'static,
    {
        let Self {
            map,
            packing,
            z_star,
        } = self;
        let mut z = z_star;
        for _ in 0..steps {
            let f = packing.repack(map.apply(packing.unpack(z.clone()), x.clone()));
            z = if damping == 1.0 {
                f
            } else {
                f * damping + z * (1.0 - damping)
            };
        }
        packing.unpack(z)
    }
}

/// Solves u = J'u + g, the transposed system of the implicit function theorem:
/// dL/dx = (df/dx)' (I - J')^-1 dL/dz*.
fn adjoint<S, X, F>(
    map: &F,
    x: &X,
    packing: &Packing<S::Layout>,
    z_star: Tensor<2>,
    g: Tensor<2>,
    solver: &Solver,
) -> (Tensor<2>, Report)
where
    S: State,
    X: Input,
    F: FixedPointMap<S, X>,
{
    match map.jacobian(packing.unpack(z_star.clone()), x.clone()) {
        Some(jacobian) => {
            let jacobian = &*jacobian;
            let vjp = |u| packing.repack(jacobian.vjp(packing.unpack(u)));
            solver::solve(solver, &mut Operator::affine(vjp, g.clone()), g)
        }
        None => {
            let vjp = |u| autodiff_vjp(map, x, packing, z_star.clone(), u);
            solver::solve(solver, &mut Operator::affine(vjp, g.clone()), g)
        }
    }
}

/// J'u on a tape of its own. Burn keeps no graph between two backward passes, so the map is
/// evaluated anew for every product.
fn autodiff_vjp<S, X, F>(
    map: &F,
    x: &X,
    packing: &Packing<S::Layout>,
    z: Tensor<2>,
    u: Tensor<2>,
) -> Tensor<2>
where
    S: State,
    X: Input,
    F: FixedPointMap<S, X>,
{
    let z = z.autodiff().require_grad();
    let f = packing.repack(map.apply(packing.unpack(z.clone()), x.clone()));
    if !f.is_tracked() {
        // The map does not depend on z.
        return u.zeros_like();
    }
    // backward() seeds with ones; the hook puts u in their place.
    let mut gradients = grad_hook(f, move |_ones| u).backward();
    match z.grad_remove(&mut gradients) {
        Some(gradient) => gradient,
        None => z.without_autodiff().zeros_like(),
    }
}
