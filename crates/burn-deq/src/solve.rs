//! The two parts of a solve off the tape: the plan and the forward solve.

use burn::tensor::Tensor;

use crate::config::{AdjointStart, Freezing, Gradient, Implicit, Method};
use crate::fast::Batching;
use crate::forward::{Forward, ForwardMap};
use crate::input::Input;
use crate::iteration::{Iteration, Operator, Outcome, Requests};
use crate::map::FixedPointMap;
use crate::report::Clock;
use crate::settings::EquilibriumConfig;
use crate::singly;
use crate::solution::Start;
use crate::solver;
use crate::state::{Packing, State};

/// The decisions made before a solve.
pub(crate) struct Plan<'m, F, X, L> {
    pub(crate) config: &'m EquilibriumConfig,
    pub(crate) map: &'m F,
    /// The input on the tape (`x`) and off it (`plain`).
    pub(crate) x: &'m X,
    pub(crate) plain: X,
    pub(crate) packing: Packing<L>,
    /// Where the forward solve starts.
    pub(crate) z0: Tensor<2>,
    /// Where the backward solve starts, if given.
    pub(crate) adjoint: Option<Tensor<2>>,
    /// Whether the result has gradients.
    pub(crate) tracked: bool,
    /// Whether samples may be solved independently.
    pub(crate) independent: bool,
    /// Whether finished samples leave the batch.
    pub(crate) freeze: bool,
    /// Whether every sample is solved separately.
    pub(crate) singly: bool,
    /// Whether the backward solve starts from the factors of the forward one.
    keeps_factors: bool,
}

impl<F, X: Input, L> Plan<'_, F, X, L> {
    /// The map off the tape.
    pub(crate) fn forward(&self) -> Forward<'_, F, X, L> {
        Forward {
            map: self.map,
            x: self.plain.clone(),
            packing: &self.packing,
        }
    }
}

/// The result of a forward solve.
pub(crate) struct Found {
    pub(crate) outcome: Outcome,
    /// The solver in its last state, if the backward solve needs it.
    pub(crate) factors: Option<Box<dyn Iteration>>,
}

/// Decides how to solve.
///
/// # Panics
///
/// Panics if the start of the backward solve does not have the shape of the packed state.
pub(crate) fn plan<'m, S: State, F: FixedPointMap<S, X>, X: Input>(
    config: &'m EquilibriumConfig,
    map: &'m F,
    x: &'m X,
    start: Start<S>,
) -> Plan<'m, F, X, S::Layout> {
    // Keeps the unpacked state, because unpacking z0 would copy it. If it is on the tape, z0 is
    // unpacked later, off the tape.
    let state = map.fast().map(|_| start.state.clone());
    let (z0, packing) = Packing::pack(start.state);
    if let Some(adjoint) = &start.adjoint {
        assert!(
            adjoint.dims() == z0.dims(),
            "burn-deq: the start of the backward solve has shape {:?}, but the packed state has \
             shape {:?}",
            adjoint.dims(),
            z0.dims()
        );
    }
    let (tracked, plain) = (x.is_autodiff(), x.plain());
    let state = state.filter(|_| !z0.is_autodiff());
    // Steps on the tape pass gradients to their start, too.
    let z0 = match (&config.gradient, tracked) {
        (Gradient::Unrolled { .. }, true) => z0,
        _ => z0.without_autodiff(),
    };
    let independent = match config.freezing {
        Freezing::Off => false,
        Freezing::Declared => map.independent_samples(),
        Freezing::Assumed => true,
    };
    let from_factors = matches!(
        &config.gradient,
        Gradient::Implicit(Implicit { start, .. }) if *start == AdjointStart::BroydenFactors
    );
    let broyden = matches!(
        config.forward.method,
        Method::Broyden(_) | Method::Custom(_)
    );
    let keeps_factors = tracked && from_factors && broyden;
    let batching = match map.fast() {
        Some(fast) if independent && !keeps_factors && z0.dims()[0] > 1 => {
            let state = state.unwrap_or_else(|| packing.unpack(z0.clone()));
            fast.batching(&state, &plain)
        }
        _ => Batching::default(),
    };
    Plan {
        config,
        map,
        x,
        plain,
        packing,
        z0,
        adjoint: start.adjoint,
        tracked,
        independent,
        freeze: independent && batching != Batching::Whole,
        singly: batching == Batching::Single,
        keeps_factors,
    }
}

/// Solves z = f(z, x) off the tape.
pub(crate) fn forward<S: State, F: FixedPointMap<S, X>, X: Input>(
    plan: &Plan<'_, F, X, S::Layout>,
) -> Found {
    let (method, rule) = (
        &plan.config.forward.method,
        &plan.config.forward.termination,
    );
    let requests = Requests {
        freeze: plan.freeze && !plan.keeps_factors,
        trace: plan.config.forward.trace,
        image: plan.tracked && plan.map.fast().is_some(),
        record: plan.config.record.clone(),
        branches: plan.packing.widths().to_vec(),
    };
    let clock = Clock::start();
    let solve = |inner: Forward<'_, F, X, S::Layout>, z0: Tensor<2>| {
        let operator = Operator::new(ForwardMap::<S, F, X> { inner });
        let iteration = solver::nonlinear(method, z0.clone());
        solver::solve(iteration, operator, z0, rule, requests.clone())
    };
    let alone = !requests.trace && requests.record.is_empty() && plan.independent;
    let fast = plan.map.fast().filter(|_| alone && !plan.keeps_factors);
    let whole = fast.and_then(|f| f.solve(&plan.z0, &plan.plain, &plan.config.forward));
    let each = (plan.singly && whole.is_none()).then(|| {
        let one = |inner: Forward<'_, F, X, S::Layout>, [z0]: [Option<Tensor<2>>; 1]| {
            solve(inner, singly::given(z0)).0
        };
        singly::each(&plan.forward(), [Some(&plan.z0)], one)
    });
    let each = each.flatten();
    let joined = |each| singly::joined(each, requests.record.len());
    let (outcome, iteration) = match whole.map(Outcome::of_map).or_else(|| each.map(joined)) {
        Some(mut outcome) => {
            outcome.report.elapsed = clock.elapsed();
            (outcome, None)
        }
        None => {
            let (outcome, iteration) = solve(plan.forward(), plan.z0.clone());
            (outcome, Some(iteration))
        }
    };
    if plan.tracked && outcome.report.evaluations == 0 {
        // With a step limit of 0, the map has not been evaluated yet, and therefore not checked.
        plan.forward().evaluate::<S>(outcome.state.clone());
    }
    Found {
        outcome,
        factors: iteration.filter(|_| plan.keeps_factors),
    }
}
