//! Hidden objectives and the maps that descend them.
//!
//! The equilibrium of a MOptEq is a stationary point of G(z; g(x)), a sum of [`Term`]s. A term
//! provides its value, its gradient and its Hessian. The layer (the paper's Algorithm 2, T(z) = z -
//! dG/dz), its fixed point (Algorithm 1) and its exact backward pass follow from them. The
//! objective itself is a reconstruction: see the chapter "Fidelity" of the book.

mod descent;

use std::sync::Arc;

use burn::serde::{Deserialize, Serialize};
use burn::tensor::Tensor;
use burn_deq::fast::{Batching, FastMap, PackedJacobian, PackedSolution};
use burn_deq::{
    Check, FixedPointMap, Input, Jacobian, LinearMethod, LinearSolver, Method, Norm, Solver,
    Structure, Termination,
};
use deq_kernels::step::{Inputs, SolveLimits, StepFormula};

pub use self::descent::DescentJacobian;
use self::descent::{Operator, PackedDescent, in_one_launch, solution};
use crate::constraint::Proximal;
use crate::context::{Branches, Context};
use crate::error::ConfigError;
use crate::graph::{Builder, Combination, GraphError, Operands, Value};
use crate::terms::{Curvature, Hessian, Setting, Sum, Term, step_formula};

/// The step size of the map along -dG/dz.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Step {
    /// 2 / (lower + upper) of the guaranteed curvature, with a negative lower bound replaced by 0.
    /// This is the best fixed step. The default.
    #[default]
    Guaranteed,
    /// This step. With 1, the map is the paper's Algorithm 2.
    Fixed(f64),
}

/// A hidden objective: a sum of smooth terms, at most one constraint or other non-smooth term, and
/// the step that descends it.
///
/// As a map it is one step of Algorithm 1: z -> z - step dG/dz, or z -> prox(z - step dG/dz).
#[derive(Clone, Debug)]
pub struct HiddenObjective {
    smooth: Arc<Sum>,
    constraint: Option<Arc<dyn Proximal>>,
    step: f64,
    curvature: Curvature,
    /// The fused step, if the terms have one.
    formula: Option<Arc<StepFormula>>,
}

impl HiddenObjective {
    /// The objective `sum of terms + constraint`. `setting` determines what its terms can
    /// guarantee.
    ///
    /// # Errors
    ///
    /// Returns an error if `terms` is empty, if the step is not positive and finite, or if a
    /// guaranteed step is requested and the curvature of a term is not bounded.
    pub fn new(
        terms: Vec<Arc<dyn Term>>,
        constraint: Option<Arc<dyn Proximal>>,
        step: Step,
        setting: &Setting,
    ) -> Result<Self, ConfigError> {
        if terms.is_empty() {
            return Err(ConfigError::Zero { field: "terms" });
        }
        let unbounded = |t: &Arc<dyn Term>| t.curvature(setting).smoothness().is_none();
        let culprit = terms
            .iter()
            .find(|t| unbounded(t))
            .map(|t| t.name().to_owned());
        let smooth = Sum::new(terms);
        let curvature = smooth.curvature(setting);
        let step = match (step, culprit) {
            (Step::Fixed(step), _) => step,
            (Step::Guaranteed, None) => 2.0 / (curvature.lower.max(0.0) + curvature.upper),
            (Step::Guaranteed, Some(term)) => return Err(ConfigError::NoStep { term }),
        };
        if !(step.is_finite() && step > 0.0) {
            return Err(ConfigError::OutOfRange {
                field: "step",
                value: step,
                expected: "positive and finite",
            });
        }
        let formula = step_formula(smooth.terms(), constraint.as_deref(), step).map(Arc::new);
        Ok(Self {
            smooth: Arc::new(smooth),
            constraint,
            step,
            curvature,
            formula,
        })
    }

    /// The same objective, evaluated term by term on every device: the portable path.
    ///
    /// By default, objectives that consist of this crate's terms are evaluated as a whole if all
    /// tensors are `f32` on the CPU. The result is the same up to rounding.
    pub fn portable(self) -> Self {
        Self {
            formula: None,
            ..self
        }
    }

    /// The smooth terms.
    pub fn terms(&self) -> &[Arc<dyn Term>] {
        self.smooth.terms()
    }

    /// The constraint, if there is one.
    pub fn constraint(&self) -> Option<&Arc<dyn Proximal>> {
        self.constraint.as_ref()
    }

    /// The step.
    pub fn step(&self) -> f64 {
        self.step
    }

    /// Guaranteed bounds on the eigenvalues of the Hessian of the smooth terms.
    pub fn curvature(&self) -> Curvature {
        self.curvature
    }

    /// Whether the guarantees of the terms make the objective strongly convex, so that its
    /// stationary point is unique.
    pub fn is_strongly_convex(&self) -> bool {
        self.curvature.strong_convexity().is_some()
    }

    /// The guaranteed Lipschitz constant of the map, max |1 - step * curvature|, if it is below 1.
    /// The map is then a contraction, because a proximal map is non-expansive. `None` without a
    /// guarantee.
    pub fn contraction(&self) -> Option<f64> {
        let at = |eigenvalue: f64| (1.0 - self.step * eigenvalue).abs();
        let constant = at(self.curvature.lower).max(at(self.curvature.upper));
        (constant < 1.0).then_some(constant)
    }

    /// G(z; x) for every sample, `[batch]`. Infinite if a constraint is violated.
    pub fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        let smooth = self.smooth.value(z, x);
        match &self.constraint {
            Some(constraint) => smooth + constraint.value(z),
            None => smooth,
        }
    }

    /// dG/dz of the smooth part, in the shape of z.
    pub fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        self.smooth.gradient(z, x)
    }

    /// The Hessian of the smooth part at z; the arguments are plain tensors.
    pub fn hessian(&self, z: &Branches, x: &Context) -> Hessian {
        let smooth: Arc<dyn Term> = self.smooth.clone();
        crate::terms::hessian(&smooth, z, x)
    }

    /// z - step dG/dz of the smooth part. With step 1 this is Algorithm 2, T(z) = z - dG/dz.
    pub fn descend(&self, z: &Branches, x: &Context, step: f64) -> Branches {
        z.iter()
            .zip(self.gradient(z, x))
            .map(|(z, g)| z.clone() - if step == 1.0 { g } else { g * step })
            .collect()
    }

    /// The map as operations of a graph.
    ///
    /// # Errors
    ///
    /// Returns an error if a term or the constraint has no operations, such as a custom one.
    pub(crate) fn operations(
        &self,
        graph: &mut Builder,
        z: &[Value],
        x: &Operands,
    ) -> Result<Vec<Value>, GraphError> {
        let mut sums: Vec<Combination> = z.iter().map(|z| vec![(1.0, *z)]).collect();
        for term in self.terms() {
            let gradient = term.operations(graph, z, x);
            let gradient = gradient.ok_or_else(|| GraphError::Term(term.name().to_owned()))?;
            for (sum, part) in sums.iter_mut().zip(gradient) {
                let part = part.into_iter();
                sum.extend(part.map(|(factor, value)| (-self.step * factor, value)));
            }
        }
        let descended = sums.iter().map(|sum| graph.combine(sum));
        let descended: Vec<Value> = descended.collect();
        let Some(constraint) = &self.constraint else {
            return Ok(descended);
        };
        let prox = |v| {
            let value = constraint.operations(graph, v, self.step);
            value.ok_or_else(|| GraphError::Constraint(constraint.name().to_owned()))
        };
        descended.into_iter().map(prox).collect()
    }

    /// The Jacobian of the map at z; the arguments are plain tensors.
    pub fn linearise(&self, z: &Branches, x: &Context) -> DescentJacobian {
        if let Some(jacobian) = self.linearise_in_one_go(z, x, None) {
            return jacobian;
        }
        let mask = self
            .constraint
            .as_ref()
            .map(|c| c.mask(&self.descend(z, x, self.step), self.step));
        DescentJacobian {
            operator: Operator::Terms {
                hessian: self.hessian(z, x),
                step: self.step,
            },
            mask,
        }
    }

    fn linearise_in_one_go(
        &self,
        z: &Branches,
        x: &Context,
        value: Option<&Branches>,
    ) -> Option<DescentJacobian> {
        let (formula, inputs) = (self.formula.as_ref()?, x.inputs()?);
        let mask = match (&self.constraint, value) {
            (Some(_), Some(value)) => Some(formula.mask_of(value)?),
            (Some(_), None) => Some(formula.mask(z, inputs)?),
            (None, _) => None,
        };
        let product = formula.linearise(z, inputs, mask.as_deref())?;
        Some(DescentJacobian {
            operator: Operator::Step {
                formula: formula.clone(),
                product,
                x: x.clone(),
            },
            mask,
        })
    }
}

impl FixedPointMap<Branches, Context> for HiddenObjective {
    fn apply(&self, z: Branches, x: Context) -> Branches {
        if let (Some(formula), Some(inputs)) = (&self.formula, x.inputs()) {
            let next = if x.is_autodiff() {
                formula.tracked_step(&z, inputs, None)
            } else {
                formula.step(&z, inputs)
            };
            if let Some(next) = next.or_else(|| in_one_launch(formula, &z, inputs)) {
                return next;
            }
        }
        let t = self.descend(&z, &x, self.step);
        match &self.constraint {
            Some(constraint) => constraint.prox(t, self.step),
            None => t,
        }
    }

    fn jacobian(&self, z: Branches, x: Context) -> Option<Box<dyn Jacobian<Branches>>> {
        Some(Box::new(self.linearise(&z, &x)))
    }

    fn structure(&self) -> Structure {
        // With a constraint, this describes D J D: D (I - step H) D is symmetric, and I minus it is
        // step D H D + I - D.
        if self.is_strongly_convex() {
            Structure::SymmetricPositiveDefinite
        } else {
            Structure::Symmetric
        }
    }

    fn independent_samples(&self) -> bool {
        // No term mixes samples.
        true
    }

    fn fast(&self) -> Option<&dyn FastMap<Branches, Context>> {
        self.formula.as_ref().map(|_| self as _)
    }
}

impl HiddenObjective {
    /// The fused step and its inputs.
    fn formula<'a>(&'a self, x: &'a Context) -> Option<(&'a StepFormula, Inputs<'a>)> {
        Some((self.formula.as_deref()?, x.inputs()?))
    }
}

impl FastMap<Branches, Context> for HiddenObjective {
    fn attach(&self, z: &Branches, x: &Context, value: &Branches) -> Option<Branches> {
        let (formula, inputs) = self.formula(x).filter(|_| x.is_autodiff())?;
        formula.tracked_step(z, inputs, Some(value.clone()))
    }

    fn jacobian_of(
        &self,
        z: &Branches,
        x: &Context,
        value: &Branches,
    ) -> Option<Box<dyn Jacobian<Branches>>> {
        Some(Box::new(self.linearise_in_one_go(z, x, Some(value))?))
    }

    fn apply_packed(&self, z: &Tensor<2>, x: &Context) -> Option<Tensor<2>> {
        let (formula, inputs) = self.formula(x)?;
        formula.step_packed(z, inputs)
    }

    fn attach_packed(&self, z: &Tensor<2>, x: &Context, value: &Tensor<2>) -> Option<Tensor<2>> {
        let (formula, inputs) = self.formula(x).filter(|_| x.is_autodiff())?;
        formula.attach_packed(z, inputs, Some(value))
    }

    fn jacobian_packed(
        &self,
        z: &Tensor<2>,
        x: &Context,
        value: Option<&Tensor<2>>,
    ) -> Option<Box<dyn PackedJacobian>> {
        let (formula, inputs) = self.formula(x)?;
        Some(Box::new(PackedDescent {
            product: formula.linearise_packed(z, inputs, value)?,
            formula: self.formula.clone()?,
            x: x.clone(),
        }))
    }

    fn solve(&self, z0: &Tensor<2>, x: &Context, solver: &Solver) -> Option<PackedSolution> {
        let (momentum, restart) = match &solver.method {
            Method::Accelerated(config) => (config.momentum, config.restart),
            Method::Plain { damping: 1.0 } => (0.0, false),
            _ => return None,
        };
        let limits = self.limits(&solver.termination, x, momentum, restart)?;
        let (formula, inputs) = self.formula(x)?;
        formula.solve(z0, inputs, &limits).map(solution)
    }

    fn solve_adjoint(
        &self,
        value: &Tensor<2>,
        x: &Context,
        g: &Tensor<2>,
        solver: &LinearSolver,
    ) -> Option<PackedSolution> {
        if solver.method != LinearMethod::ConjugateGradients {
            return None;
        }
        let limits = self.limits(&solver.termination, x, 0.0, false)?;
        let (formula, inputs) = self.formula(x)?;
        formula
            .solve_adjoint(value, inputs, g, &limits)
            .map(solution)
    }

    fn batching(&self, z: &Branches, x: &Context) -> Batching {
        match self.formula(x) {
            Some((formula, inputs)) if formula.applies(z, inputs) => Batching::Single,
            Some((formula, inputs)) if formula.applies_packed(inputs) => Batching::Whole,
            _ => Batching::Shrinking,
        }
    }
}

impl HiddenObjective {
    /// The limits of a whole solve. `None` if such a solve does not support the rule, or if the map
    /// is not known to be a contraction, because a sample may then diverge.
    fn limits(
        &self,
        rule: &Termination,
        x: &Context,
        momentum: f64,
        restart: bool,
    ) -> Option<SolveLimits> {
        let together = rule.branches == burn_deq::Branches::Together || x.injection().len() == 1;
        let plain = rule.norm == Norm::L2 && matches!(rule.check, Check::Every(0 | 1));
        let safe = self.is_strongly_convex() && self.contraction().is_some();
        (together && plain && safe).then_some(SolveLimits {
            tolerance: [rule.relative, rule.absolute],
            max_steps: rule.max_steps,
            momentum,
            restart,
        })
    }
}
