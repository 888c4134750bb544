//! The backward pass: puts a solved equilibrium back on the tape and passes gradients through it as
//! configured.

use burn::tensor::Tensor;
use deq_kernels::grad_hook;

use crate::config::{Gradient, Implicit, LinearMethod, LinearSolver, Method};
use crate::driver::{Clock, Iteration, Operator, PackedMap, Requests};
use crate::input::{Input, Rows};
use crate::linearisation::{Jacobian, PackedJacobian, Structure};
use crate::map::FixedPointMap;
use crate::report::{AdjointMonitor, Report};
use crate::singly;
use crate::solver;
use crate::state::{Packing, State};
use crate::termination::Termination;

/// The map on packed plain tensors.
pub(crate) struct Forward<'a, F, X, L> {
    pub(crate) map: &'a F,
    pub(crate) x: X,
    pub(crate) packing: &'a Packing<L>,
}

impl<F, X, L> Forward<'_, F, X, L> {
    /// f(z).
    ///
    /// # Panics
    ///
    /// Panics if the map brings autodiff in. The backward solve runs while Burn holds the lock of
    /// the outer graph. A map that reaches into that graph would wait for the lock forever. This
    /// check catches it first.
    pub(crate) fn evaluate<S>(&self, z: Tensor<2>) -> Tensor<2>
    where
        S: State<Layout = L>,
        X: Input,
        F: FixedPointMap<S, X>,
        L: PartialEq + std::fmt::Debug,
    {
        let fast = self.map.fast();
        if let Some(f) = fast.and_then(|fast| fast.apply_packed(&z, &self.x)) {
            return f;
        }
        let z = self.packing.unpack(z);
        let f = self.packing.repack(self.map.apply(z, self.x.clone()));
        assert!(
            !f.is_autodiff(),
            "burn-deq: the map captures a tensor or module that is tracked by autodiff; pass it as \
             an argument instead: the module through Equilibrium::solve, everything else through x \
             (or call .without_autodiff() on a constant)"
        );
        f
    }

    /// J'u at z on a separate tape. Burn keeps no graph between two backward passes, so every
    /// product evaluates the map again.
    fn autodiff_vjp<S>(&self, z: Tensor<2>, u: Tensor<2>) -> Tensor<2>
    where
        S: State<Layout = L>,
        X: Input,
        F: FixedPointMap<S, X>,
        L: PartialEq + std::fmt::Debug,
    {
        let z = z.autodiff().require_grad();
        let state = self.packing.unpack(z.clone());
        let f = self.packing.repack(self.map.apply(state, self.x.clone()));
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
}

/// A [`Forward`] with the type of its state.
pub(crate) struct ForwardMap<'a, S: State, F, X> {
    pub(crate) inner: Forward<'a, F, X, S::Layout>,
}

impl<S: State, F: FixedPointMap<S, X>, X: Input> PackedMap for ForwardMap<'_, S, F, X> {
    fn apply(&self, z: Tensor<2>) -> Tensor<2> {
        self.inner.evaluate::<S>(z)
    }

    fn linear(&self, _p: Tensor<2>) -> Tensor<2> {
        unreachable!("linear methods do not solve nonlinear maps")
    }

    fn keep(&mut self, rows: &Rows) -> bool {
        match self.inner.x.select(rows) {
            Some(x) => self.inner.x = x,
            None => return false,
        }
        true
    }
}

/// J' at a point, in closed form or by autodiff.
pub(crate) struct Linearised<'a, S: State, F, X> {
    forward: Forward<'a, F, X, S::Layout>,
    z: Tensor<2>,
    /// f(z), if known.
    value: Option<Tensor<2>>,
    jacobian: Option<ClosedForm<S>>,
}

/// A Jacobian that the map knows.
enum ClosedForm<S> {
    States(Box<dyn Jacobian<S>>),
    Packed(Box<dyn PackedJacobian>),
}

impl<'a, S: State, F: FixedPointMap<S, X>, X: Input> Linearised<'a, S, F, X> {
    /// The Jacobian at the packed plain z. `value` is f(z), if known.
    pub(crate) fn new(
        forward: Forward<'a, F, X, S::Layout>,
        z: Tensor<2>,
        value: Option<Tensor<2>>,
    ) -> Self {
        let mut this = Self {
            forward,
            z,
            value,
            jacobian: None,
        };
        this.jacobian = this.closed_form();
        this
    }

    fn closed_form(&self) -> Option<ClosedForm<S>> {
        let Forward { map, x, packing } = &self.forward;
        let fast = map.fast();
        let packed = fast.and_then(|f| f.jacobian_packed(&self.z, x, self.value.as_ref()));
        if let Some(jacobian) = packed {
            return Some(ClosedForm::Packed(jacobian));
        }
        let z: S = packing.unpack(self.z.clone());
        let known = fast.zip(self.value.clone());
        let known = known.and_then(|(fast, value)| fast.jacobian_of(&z, x, &packing.unpack(value)));
        known
            .or_else(|| map.jacobian(z, x.clone()))
            .map(ClosedForm::States)
    }

    /// J'u.
    pub(crate) fn vjp(&self, u: Tensor<2>) -> Tensor<2> {
        let packing = self.forward.packing;
        match &self.jacobian {
            Some(ClosedForm::States(jacobian)) => packing.repack(jacobian.vjp(packing.unpack(u))),
            Some(ClosedForm::Packed(jacobian)) => jacobian.vjp(&u),
            None => self.forward.autodiff_vjp::<S>(self.z.clone(), u),
        }
    }

    /// Whether the map provides J' in closed form.
    pub(crate) fn is_closed_form(&self) -> bool {
        self.jacobian.is_some()
    }

    /// J'u, always by autodiff.
    pub(crate) fn vjp_by_autodiff(&self, u: Tensor<2>) -> Tensor<2> {
        self.forward.autodiff_vjp::<S>(self.z.clone(), u)
    }

    /// J u, if the map provides it in closed form.
    pub(crate) fn jvp(&self, u: Tensor<2>) -> Option<Tensor<2>> {
        let packing = self.forward.packing;
        match self.jacobian.as_ref()? {
            ClosedForm::States(jacobian) => {
                jacobian.jvp(packing.unpack(u)).map(|v| packing.repack(v))
            }
            ClosedForm::Packed(jacobian) => Some(jacobian.jvp(&u)),
        }
    }

    /// The mask D of the Jacobian, if it has one.
    pub(crate) fn mask(&self) -> Option<Tensor<2>> {
        match self.jacobian.as_ref()? {
            ClosedForm::States(jacobian) => jacobian.mask().map(|d| self.forward.packing.repack(d)),
            ClosedForm::Packed(jacobian) => jacobian.mask(),
        }
    }

    fn keep(&mut self, rows: &Rows) -> bool {
        let Some(x) = self.forward.x.select(rows) else {
            return false;
        };
        self.forward.x = x;
        self.z = rows.of(self.z.clone());
        self.value = self.value.take().map(|f| rows.of(f));
        if self.jacobian.is_some() {
            self.jacobian = self.closed_form();
        }
        true
    }
}

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
    /// Where to start instead of g.
    pub(crate) start: Option<Tensor<2>>,
    pub(crate) freeze: bool,
    /// Whether to solve each sample by itself.
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
    fn solve_at<S: State, F: FixedPointMap<S, X>, X: Input>(
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
            if let Some((u, mut report)) = singly::adjoint::<S, F, X>(self, &forward, of) {
                report.elapsed = begin.elapsed();
                return (u, report);
            }
        }
        self.solve(Linearised::<S, F, X>::new(forward, z, value), g)
    }

    /// Solves u = J'u + g, the transposed system of the implicit function theorem:
    /// dL/dx = (df/dx)' (I - J')^-1 dL/dz*.
    pub(crate) fn solve<S: State, F: FixedPointMap<S, X>, X: Input>(
        &self,
        mut linearised: Linearised<'_, S, F, X>,
        g: Tensor<2>,
    ) -> (Tensor<2>, Report) {
        let krylov = !matches!(self.solver.method, LinearMethod::FixedPoint(_));
        // J = D A with A symmetric: J' = A D is not symmetric, but D J' D is. With v = D u, the
        // system u = A D u + g becomes v = D A D v + D g, and u = A v + g, the value at the best
        // iterate.
        let mask = if krylov { linearised.mask() } else { None };
        // Without a better start, Krylov methods start at zero, where the residual is g. Their
        // result is optimal there for the number of products, so they make better use of a product
        // than a start at g would.
        let cold = krylov && self.start.is_none() && self.solver.termination.max_steps > 0;
        let start = match &self.start {
            Some(start) => start.clone(),
            None if cold => g.zeros_like(),
            None => g.clone(),
        };
        let residual = cold.then(|| g.clone());
        let requests = Requests {
            freeze: self.freeze,
            trace: self.solver.trace,
            image: mask.is_some(),
            branches: linearised.forward.packing.widths().to_vec(),
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

/// A solved equilibrium on its way back to the tape.
pub(crate) struct Attached<'m, F, L, X> {
    pub(crate) map: &'m F,
    pub(crate) packing: &'m Packing<L>,
    /// The input on the tape (`x`) and off it (`plain`).
    pub(crate) x: &'m X,
    pub(crate) plain: &'m X,
}

/// Computes the start of the backward solve from g.
pub(crate) type StartFrom = Box<dyn FnOnce(&Tensor<2>) -> Option<Tensor<2>> + Send>;

impl<F, L, X> Attached<'_, F, L, X>
where
    L: Clone + std::fmt::Debug + PartialEq + Send + 'static,
    X: Input,
{
    /// z* with the configured gradient.
    pub(crate) fn attach<S: State<Layout = L>>(
        &self,
        at: Point,
        gradient: &Gradient,
        plan: impl FnOnce(&Implicit) -> (AdjointPlan, StartFrom),
        monitor: &AdjointMonitor,
    ) -> S
    where
        F: FixedPointMap<S, X>,
    {
        match gradient {
            Gradient::Implicit(implicit) => {
                let (mut plan, start) = plan(implicit);
                self.hooked(at, monitor, move |forward, at, g| {
                    if plan.start.is_none() {
                        plan.start = start(&g);
                    }
                    plan.solve_at::<S, F, X>(forward, at, g)
                })
            }
            Gradient::Neumann { terms } => {
                let terms = *terms;
                self.hooked(at, monitor, move |forward, at, g| {
                    let linearised = Linearised::<S, F, X>::new(forward, at.z, at.value);
                    neumann(&linearised, g, terms)
                })
            }
            Gradient::Phantom { steps, damping } => self.unroll(at.z, *steps, *damping),
            Gradient::OneStep => self.unroll(at.z, 1, 1.0),
            Gradient::Unrolled { .. } => {
                unreachable!("an unrolled equilibrium never leaves the tape")
            }
        }
    }

    /// One application of the map on the tape, whose backward pass first replaces g by u.
    fn hooked<S: State<Layout = L>>(
        &self,
        at: Point,
        monitor: &AdjointMonitor,
        solve: impl FnOnce(Forward<'_, F, X, L>, Point, Tensor<2>) -> (Tensor<2>, Report)
        + Send
        + 'static,
    ) -> S
    where
        F: FixedPointMap<S, X>,
    {
        let (map, x, packing) = (self.map.clone(), self.plain.clone(), self.packing.clone());
        let monitor = monitor.clone();
        let (z, value) = (at.z.clone(), at.value.clone());
        let backward = move |g| {
            let forward = Forward {
                map: &map,
                x,
                packing: &packing,
            };
            let (u, report) = solve(forward, at, g);
            monitor.deliver(report, u.clone());
            u
        };
        let known = self.map.fast().zip(value);
        let packed = known.as_ref();
        if let Some(f) = packed.and_then(|(fast, value)| fast.attach_packed(&z, self.x, value)) {
            return self.packing.unpack(grad_hook(f, backward));
        }
        let state: S = self.packing.unpack(z);
        let attached = known
            .and_then(|(fast, value)| fast.attach(&state, self.x, &self.packing.unpack(value)));
        let f = attached.unwrap_or_else(|| self.map.apply(state, self.x.clone()));
        self.packing.hook(f, backward)
    }

    /// Damped steps from z, on the tape.
    pub(crate) fn unroll<S: State<Layout = L>>(
        &self,
        mut z: Tensor<2>,
        steps: usize,
        damping: f64,
    ) -> S
    where
        F: FixedPointMap<S, X>,
    {
        for _ in 0..steps {
            z = self.step(z, damping);
        }
        self.packing.unpack(z)
    }

    /// z + damping (f(z) - z), on the tape.
    pub(crate) fn step<S: State<Layout = L>>(&self, z: Tensor<2>, damping: f64) -> Tensor<2>
    where
        F: FixedPointMap<S, X>,
    {
        let state = self.packing.unpack(z.clone());
        let f = self.packing.repack(self.map.apply(state, self.x.clone()));
        if damping == 1.0 {
            f
        } else {
            f * damping + z * (1.0 - damping)
        }
    }
}

/// g + J'g + ... + J'^k g.
fn neumann<S: State, F: FixedPointMap<S, X>, X: Input>(
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

/// The start from a forward solve: -B'g, where B is its inverse Jacobian, if it has one.
pub(crate) fn start_from(iteration: Option<Box<dyn Iteration>>) -> StartFrom {
    Box::new(move |g| iteration?.inverse_transposed(g.clone()).map(Tensor::neg))
}
