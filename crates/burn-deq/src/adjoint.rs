//! The adjoint system of the implicit function theorem, u = J'u + g, and how it is solved.

use burn::tensor::Tensor;
use deq_kernels::vectors::{Rows, join};

use crate::config::{Implicit, LinearMethod, LinearSolver, Method};
use crate::forward::Forward;
use crate::input::Input;
use crate::iteration::{Operator, PackedMap, Requests};
use crate::linearisation::Structure;
use crate::linearised::Linearised;
use crate::map::FixedPointMap;
use crate::report::{Clock, Report};
use crate::singly;
use crate::solver;
use crate::state::State;
use crate::termination::Termination;

/// u -> J'u + g.
struct AdjointSystem<'s, 'a, S: State, F, X> {
    linearised: &'s mut Linearised<'a, S, F, X>,
    g: Tensor<2>,
}

impl<S: State, F: FixedPointMap<S, X>, X: Input> PackedMap for AdjointSystem<'_, '_, S, F, X> {
    fn apply(&self, u: Tensor<2>) -> Tensor<2> {
        self.linear(u) + self.g.clone()
    }

    fn linear(&self, u: Tensor<2>) -> Tensor<2> {
        self.linearised.vjp(u)
    }

    fn keep(&mut self, rows: &Rows) -> bool {
        if !self.linearised.keep(rows) {
            return false;
        }
        self.g = rows.of(self.g.clone());
        true
    }
}

/// How the adjoint system is solved.
#[derive(Clone)]
pub(crate) struct AdjointPlan {
    pub(crate) solver: LinearSolver,
    /// The start, if it is not g.
    pub(crate) start: Option<Tensor<2>>,
    pub(crate) freeze: bool,
    /// Whether to solve each sample separately.
    pub(crate) singly: bool,
}

impl AdjointPlan {
    /// The plan that follows from the configuration and the map's structure.
    pub(crate) fn new(
        implicit: &Implicit,
        structure: Structure,
        forward: &Termination,
        start: Option<Tensor<2>>,
        freeze: bool,
        singly: bool,
    ) -> Self {
        let solver = implicit.solver.clone().unwrap_or_else(|| LinearSolver {
            method: match structure {
                Structure::SymmetricPositiveDefinite => LinearMethod::ConjugateGradients,
                Structure::Symmetric => LinearMethod::Minres,
                Structure::General => LinearMethod::FixedPoint(Method::default()),
            },
            termination: forward.clone(),
            trace: false,
        });
        Self {
            solver,
            start,
            freeze,
            singly,
        }
    }

    /// Solves the adjoint system at a point.
    pub(crate) fn solve_at<S: State, F: FixedPointMap<S, X>, X: Input>(
        &self,
        forward: Forward<'_, F, X, S::Layout>,
        Point { z, value }: Point,
        g: Tensor<2>,
    ) -> (Tensor<2>, Report) {
        let begin = Clock::start();
        if self.start.is_none()
            && self.freeze
            && !self.solver.trace
            && let (Some(fast), Some(value)) = (forward.map.fast(), &value)
            && let Some(solved) = fast.solve_adjoint(value, &forward.x, &g, &self.solver)
        {
            let mut report = solved.report;
            report.elapsed = begin.elapsed();
            return (solved.state, report);
        }
        if self.singly {
            let of = [Some(&z), Some(&g), self.start.as_ref(), value.as_ref()];
            let each = singly::each(&forward, of, |forward, [z, g, start, value]| {
                let (z, g) = (singly::given(z), singly::given(g));
                self.solve(Linearised::<S, F, X>::new(forward, z, value), start, g)
            });
            if let Some(each) = each {
                let (solutions, reports): (Vec<_>, Vec<_>) = each.into_iter().unzip();
                let mut report = singly::merged(reports.into_iter());
                report.elapsed = begin.elapsed();
                return (join(solutions, 0), report);
            }
        }
        let linearised = Linearised::<S, F, X>::new(forward, z, value);
        self.solve(linearised, self.start.clone(), g)
    }

    /// Solves u = J'u + g, the transposed system of the implicit function theorem:
    /// dL/dx = (df/dx)' (I - J')^-1 dL/dz*. `start` replaces g.
    fn solve<S: State, F: FixedPointMap<S, X>, X: Input>(
        &self,
        mut linearised: Linearised<'_, S, F, X>,
        start: Option<Tensor<2>>,
        g: Tensor<2>,
    ) -> (Tensor<2>, Report) {
        let krylov = !matches!(self.solver.method, LinearMethod::FixedPoint(_));
        // J = D A with A symmetric: J' = A D is not symmetric, but D J' D is. With v = D u, the
        // system u = A D u + g becomes v = D A D v + D g, and u = A v + g, the value at the best
        // iterate.
        let mask = if krylov { linearised.mask() } else { None };
        // Without a better start, Krylov methods start at zero, where the residual is g. From
        // there, their result is optimal for the number of products. A start at g would make worse
        // use of a product.
        let cold = krylov && start.is_none() && self.solver.termination.max_steps > 0;
        let start = start.unwrap_or_else(|| if cold { g.zeros_like() } else { g.clone() });
        let residual = cold.then(|| g.clone());
        let requests = Requests {
            freeze: self.freeze,
            trace: self.solver.trace,
            image: mask.is_some(),
            branches: linearised.widths().to_vec(),
            ..Requests::default()
        };
        let system = AdjointSystem {
            g,
            linearised: &mut linearised,
        };
        let (outcome, _) = solver::solve(
            solver::linear(&self.solver.method, start.clone(), residual, mask),
            Operator::new(system),
            start,
            &self.solver.termination,
            requests,
        );
        (outcome.image.unwrap_or(outcome.state), outcome.report)
    }
}

/// A point at which the map is differentiated.
pub(crate) struct Point {
    pub(crate) z: Tensor<2>,
    /// f(z), if known.
    pub(crate) value: Option<Tensor<2>>,
}

/// g + J'g + ... + J'^k g.
pub(crate) fn neumann<S: State, F: FixedPointMap<S, X>, X: Input>(
    linearised: &Linearised<'_, S, F, X>,
    g: Tensor<2>,
    terms: usize,
) -> (Tensor<2>, Report) {
    let batch = g.dims()[0];
    let (mut u, mut term) = (g.clone(), g);
    for _ in 0..terms {
        term = linearised.vjp(term);
        u = u + term.clone();
    }
    let report = Report::unchecked(batch, terms);
    (u, report)
}
