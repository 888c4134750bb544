//! Parts of the map outside its objective: whole solves, steps in one launch, and the Jacobian.

use std::sync::Arc;

use burn::tensor::Tensor;
use burn_deq::fast::{PackedJacobian, PackedSolution};
use burn_deq::{Jacobian, Report, Status};
use deq_kernels::step::{Inputs, PackedProduct, Solved, StepFormula, StepProduct};

use crate::context::{Branches, Context, multiply};
use crate::terms::Hessian;

/// A whole solve with its report.
pub(super) fn solution(solved: Solved) -> PackedSolution {
    let mut report = Report::default();
    for sample in &solved.samples {
        let relative = match sample.image {
            0.0 if sample.residual == 0.0 => 0.0,
            image => sample.residual / image,
        };
        report.status.push(match sample.met {
            true => Status::Converged,
            false if sample.residual.is_finite() => Status::StepLimit,
            false => Status::NotFinite,
        });
        report.steps.push(sample.steps);
        report.residual.push(sample.residual);
        report.relative_residual.push(relative);
        // The solves run side by side on all cores, so only the longest one counts.
        report.evaluations = report.evaluations.max(sample.steps);
        report.sample_evaluations += sample.steps;
    }
    PackedSolution {
        state: solved.state,
        image: solved.image,
        report,
    }
}

/// The step with all gradients, if the device supports it for packed states.
pub(super) fn in_one_launch(
    formula: &StepFormula,
    z: &Branches,
    x: Inputs<'_>,
) -> Option<Branches> {
    if !formula.applies_packed(x) {
        return None;
    }
    let parts = z.iter().map(|z| z.clone().flatten::<2>(1, 3));
    let packed = Tensor::cat(parts.collect(), 1);
    let next = formula.attach_packed(&packed, x, None)?;
    let widths = z.iter().map(|z| z.dims()[1..].iter().product());
    let parts = next.split_with_sizes(widths.collect(), 1);
    let parts = parts.into_iter().zip(z);
    Some(parts.map(|(part, z)| part.reshape(z.dims())).collect())
}

/// J = D S for packed vectors.
pub(super) struct PackedDescent {
    pub(super) formula: Arc<StepFormula>,
    pub(super) product: PackedProduct,
    pub(super) x: Context,
}

impl PackedDescent {
    fn product(&self, u: &Tensor<2>, masked: [bool; 2]) -> Tensor<2> {
        let inputs = self.x.inputs();
        inputs
            .and_then(|inputs| self.product.apply(&self.formula, u, inputs, masked))
            .expect("a vector in the shape, the type and the place of the state")
    }
}

impl PackedJacobian for PackedDescent {
    fn vjp(&self, u: &Tensor<2>) -> Tensor<2> {
        self.product(u, [true, false])
    }

    fn jvp(&self, u: &Tensor<2>) -> Tensor<2> {
        self.product(u, [false, true])
    }

    fn mask(&self) -> Option<Tensor<2>> {
        self.product.mask().cloned()
    }
}

/// J = D S, where S = I - step H is symmetric and D is the 0/1 mask of the constraint, or J = S.
pub struct DescentJacobian {
    pub(super) operator: Operator,
    pub(super) mask: Option<Branches>,
}

/// S.
pub(super) enum Operator {
    Terms {
        hessian: Hessian,
        step: f64,
    },
    Step {
        formula: Arc<StepFormula>,
        product: StepProduct,
        x: Context,
    },
}

impl DescentJacobian {
    /// S u. Multiplies by D before and after as requested.
    fn product(&self, u: Branches, [before, after]: [bool; 2]) -> Branches {
        match &self.operator {
            Operator::Terms { hessian, step } => {
                let u = self.masked(u, before);
                let h = hessian(&u);
                let products = u.into_iter().zip(h).map(|(u, h)| u - h * *step);
                self.masked(products.collect(), after)
            }
            Operator::Step {
                formula,
                product,
                x,
            } => x
                .inputs()
                .and_then(|inputs| product.apply(formula, &u, inputs, [before, after]))
                .expect("a vector with the shape, type and device of the state"),
        }
    }

    fn masked(&self, u: Branches, wanted: bool) -> Branches {
        match &self.mask {
            Some(mask) if wanted => multiply(u, mask),
            _ => u,
        }
    }

    /// D S D u. Its eigenvalues are those of J.
    pub fn similar(&self, u: Branches) -> Branches {
        self.product(u, [true, true])
    }
}

impl Jacobian<Branches> for DescentJacobian {
    fn vjp(&self, u: Branches) -> Branches {
        self.product(u, [true, false])
    }

    fn jvp(&self, u: Branches) -> Option<Branches> {
        Some(self.product(u, [false, true]))
    }

    fn mask(&self) -> Option<Branches> {
        self.mask.clone()
    }
}
