//! The equilibrium layer: solves off the tape, re-attaches the result once, and differentiates as
//! configured.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::Tensor;

use crate::adjoint::{AdjointPlan, Attached, Forward, ForwardMap, Point, start_from};
use crate::config::{AdjointStart, ConfigError, Freezing, Gradient, Implicit, Method, Solver};
use crate::driver::{Clock, Operator, Outcome, Requests};
use crate::fast::Batching;
use crate::input::{Input, WithModule};
use crate::map::{FixedPointMap, ModuleMap};
use crate::report::{AdjointMonitor, Report};
use crate::singly;
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
    /// Whether finished samples leave the batch, in both solves. Default: if the map declares
    /// independent samples
    #[config(default = "Freezing::Declared")]
    pub freezing: Freezing,
    /// Evaluations whose iterates are returned as [`Solution::intermediate`], ascending, for
    /// auxiliary losses. Default: none
    #[config(default = "Vec::new()")]
    pub record: Vec<usize>,
}

impl Default for EquilibriumConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl EquilibriumConfig {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// Returns the first setting that no solver can work with, by name. Without this check, such a
    /// setting gives samples whose status is not `Converged`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.forward.termination.validate("forward.termination")?;
        self.forward.method.validate("forward.method")?;
        self.gradient.validate("gradient")?;
        match self.record.windows(2).find(|pair| pair[0] >= pair[1]) {
            Some(pair) => Err(ConfigError {
                field: "record".to_owned(),
                value: pair[1] as f64,
                expected: "in strictly ascending order",
            }),
            None => Ok(()),
        }
    }

    /// Creates the layer.
    pub fn init(&self) -> Equilibrium {
        let mut config = self.clone();
        config.record.sort_unstable();
        config.record.dedup();
        // There is no iterate before the first evaluation.
        config.record.retain(|step| *step > 0);
        Equilibrium { config }
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

/// The fixed point and the cost of finding it.
#[derive(Clone, Debug)]
pub struct Solution<S> {
    /// The fixed point, in the shape of the initial state. With autodiff and an implicit, Neumann,
    /// phantom or one-step gradient, it is a few applications of f past the z* of the report (one
    /// for an implicit gradient). Without autodiff, it is z* itself. They differ by no more than
    /// the tolerance if f is a contraction.
    pub state: S,
    /// The forward solve.
    pub forward: Report,
    /// The backward solve, once `backward()` has run.
    pub adjoint: AdjointMonitor,
    /// The iterates at the evaluations in [`EquilibriumConfig::record`], one each; the final state
    /// if the solve ended before.
    pub intermediate: Vec<Intermediate<S>>,
    /// `[batch]`: relative residuals on the device if the solve read nothing back
    /// ([`Check::Never`](crate::Check::Never)). Otherwise `None`, and the report has them.
    pub residual: Option<Tensor<1>>,
}

/// An intermediate state of the solve, for auxiliary losses ("fixed-point correction" in DEQ-Flow,
/// Bai et al. 2022, arXiv:2204.08442).
#[derive(Clone, Debug)]
pub struct Intermediate<S> {
    /// The state. Its gradient is the configured one with the map linearised at this state. It
    /// approaches the exact gradient as the state approaches the equilibrium.
    pub state: S,
    /// The backward solve of this state.
    pub adjoint: AdjointMonitor,
}

/// The starting points of the two solves.
#[derive(Clone, Debug)]
pub struct Start<S> {
    /// The start of the forward solve.
    pub state: S,
    /// The start of the backward solve, packed as `[batch, n]`: the result of
    /// [`AdjointMonitor::solution`] of an earlier step. `None` uses the configured start.
    pub adjoint: Option<Tensor<2>>,
}

impl<S> From<S> for Start<S> {
    fn from(state: S) -> Self {
        Self {
            state,
            adjoint: None,
        }
    }
}

impl Equilibrium {
    /// Solves z = f(module, z, x) from `z0`, with gradients for the module and for x.
    ///
    /// The module is an argument of `f`, so the layer can pass a copy without autodiff. The
    /// gradient with respect to `z0` is zero, because the fixed point does not depend on it (except
    /// for [`Gradient::Unrolled`]).
    ///
    /// Keep `BatchNorm` and `Dropout` out of `f`. Both behave differently with and without
    /// autodiff, so the solver would find a different equilibrium from the one that is
    /// differentiated ([`check_declarations`](crate::check_declarations) finds this). Sample masks
    /// outside ([`dropout_mask`](crate::dropout_mask)) and pass them in `x`; use `GroupNorm`
    /// inside.
    ///
    /// # Shapes
    ///
    /// Every tensor of `z0` is `[batch, ...]`. The result of `f` and [`Solution::state`] have the
    /// shape of `z0`.
    ///
    /// # Panics
    ///
    /// Panics if `f` uses a tensor tracked by autodiff other than through its arguments, or returns
    /// a state of another shape.
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
        self.solve_from(map, x, Start::from(z0))
    }

    /// As [`solve_map`](Self::solve_map), also with a start for the backward solve.
    ///
    /// # Panics
    ///
    /// As [`solve`](Self::solve), and if the start of the backward solve does not have the shape of
    /// the packed state.
    pub fn solve_from<S, X, F>(&self, map: &F, x: X, start: Start<S>) -> Solution<S>
    where
        S: State,
        X: Input,
        F: FixedPointMap<S, X>,
    {
        let (z0, packing) = Packing::pack(start.state);
        let tracked = x.is_autodiff();
        let plain = x.plain();
        let attached = Attached {
            map,
            packing: &packing,
            x: &x,
            plain: &plain,
        };
        if let Some(adjoint) = &start.adjoint {
            assert!(
                adjoint.dims() == z0.dims(),
                "burn-deq: the start of the backward solve has shape {:?}, but the packed state \
                 has shape {:?}",
                adjoint.dims(),
                z0.dims()
            );
        }
        if let (Gradient::Unrolled { steps, damping }, true) = (&self.config.gradient, tracked) {
            return self.unrolled(&attached, z0, *steps, *damping);
        }

        let z0 = z0.without_autodiff();
        let independent = match self.config.freezing {
            Freezing::Off => false,
            Freezing::Declared => map.independent_samples(),
            Freezing::Assumed => true,
        };
        let adjoint_start = match &self.config.gradient {
            Gradient::Implicit(implicit) => implicit.start,
            _ => AdjointStart::default(),
        };
        let keeps_factors = tracked
            && adjoint_start == AdjointStart::BroydenFactors
            && matches!(self.config.forward.method, Method::Broyden(_));
        let inner = || Forward {
            map,
            x: plain.clone(),
            packing: &packing,
        };
        let fast = map.fast();
        let batching = match fast.filter(|_| independent && !keeps_factors) {
            Some(fast) if z0.dims()[0] > 1 => fast.batching(&packing.unpack(z0.clone()), &plain),
            _ => Batching::default(),
        };
        let singly = batching == Batching::Single;
        let freeze = independent && batching != Batching::Whole;
        let requests = Requests {
            freeze: freeze && !keeps_factors,
            trace: self.config.forward.trace,
            image: tracked && fast.is_some(),
            record: self.config.record.clone(),
            branches: packing.widths().to_vec(),
        };
        let clock = Clock::start();
        let whole = fast
            .filter(|_| independent && !keeps_factors && !requests.trace)
            .filter(|_| requests.record.is_empty())
            .and_then(|fast| fast.solve(&z0, &plain, &self.config.forward))
            .map(Outcome::of_map);
        let one_by_one = (singly && whole.is_none())
            .then(|| singly::forward::<S, F, X>(&inner(), &z0, &self.config.forward, &requests))
            .flatten();
        let (outcome, iteration) = match whole.or(one_by_one) {
            Some(mut outcome) => {
                outcome.report.elapsed = clock.elapsed();
                (outcome, None)
            }
            None => {
                let (outcome, iteration) = solver::solve(
                    solver::nonlinear(&self.config.forward.method, z0.clone()),
                    Operator::new(ForwardMap::<S, F, X> { inner: inner() }),
                    z0,
                    &self.config.forward.termination,
                    requests,
                );
                (outcome, Some(iteration))
            }
        };
        if tracked && outcome.report.evaluations == 0 {
            // With a step limit of 0, the map has not been evaluated and thus not checked yet.
            inner().evaluate::<S>(outcome.state.clone());
        }

        let adjoint = AdjointMonitor::default();
        let mut factors = iteration.filter(|_| keeps_factors);
        let mut attach = |at: Point, monitor: &AdjointMonitor, final_state: bool| -> S {
            if !tracked {
                return packing.unpack(at.z);
            }
            let given = start.adjoint.clone().filter(|_| final_state);
            let factors = factors.take_if(|_| final_state);
            let plan = |implicit: &Implicit| {
                let termination = &self.config.forward.termination;
                let structure = map.structure();
                let plan =
                    AdjointPlan::new(implicit, structure, termination, given, freeze, singly);
                (plan, start_from(factors))
            };
            attached.attach(at, &self.config.gradient, plan, monitor)
        };
        let intermediate = outcome
            .recorded
            .into_iter()
            .map(|z| {
                let adjoint = AdjointMonitor::default();
                let at = Point { z, value: None };
                Intermediate {
                    state: attach(at, &adjoint, false),
                    adjoint,
                }
            })
            .collect();
        // If no residual was finite, there is no value either.
        let seen = outcome.report.residual.iter().all(|r| r.is_finite());
        let at = Point {
            z: outcome.state,
            value: outcome.image.filter(|_| seen),
        };
        Solution {
            state: attach(at, &adjoint, true),
            forward: outcome.report,
            adjoint,
            intermediate,
            residual: outcome.residual,
        }
    }

    /// Steps on the tape from z0. The report describes the last step.
    fn unrolled<S, X, F>(
        &self,
        attached: &Attached<'_, F, S::Layout, X>,
        z0: Tensor<2>,
        steps: usize,
        damping: f64,
    ) -> Solution<S>
    where
        S: State,
        X: Input,
        F: FixedPointMap<S, X>,
    {
        let record = &self.config.record;
        let batch = z0.dims()[0];
        let mut z = z0;
        let mut intermediate = Vec::new();
        for step in 1..=steps {
            if record.get(intermediate.len()) == Some(&step) {
                intermediate.push(z.clone());
            }
            z = attached.step(z, damping);
        }
        while intermediate.len() < record.len() {
            intermediate.push(z.clone());
        }
        let unpack = |z: Tensor<2>| attached.packing.unpack(z);
        Solution {
            state: unpack(z),
            forward: Report::unchecked(batch, steps),
            adjoint: AdjointMonitor::default(),
            intermediate: intermediate
                .into_iter()
                .map(|z| Intermediate {
                    state: unpack(z),
                    adjoint: AdjointMonitor::default(),
                })
                .collect(),
            residual: None,
        }
    }
}
