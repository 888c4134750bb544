//! Objectives whose step the kernels can fuse.

use std::sync::Arc;

use deq_kernels::step;

use super::{ActivationConfig, Formula, Pairs, Term};
use crate::constraint::{Constraint, Proximal};

/// The fused step of a sum of terms under a constraint; `None` if there is none.
pub(crate) fn step_formula(
    terms: &[Arc<dyn Term>],
    constraint: Option<&dyn Proximal>,
    step: f64,
) -> Option<step::StepFormula> {
    let prox = match constraint {
        None => None,
        Some(constraint) => Some(prox(constraint.config()?)),
    };
    let (mut quadratic, mut proximity, mut kernel) = (0.0, false, None);
    let mut couplings = Vec::new();
    for term in terms {
        let once = match term.formula()? {
            Formula::Quadratic { weight } => {
                quadratic += weight;
                true
            }
            Formula::Proximity => {
                quadratic += 1.0;
                !std::mem::replace(&mut proximity, true)
            }
            Formula::KernelEnergy => kernel.replace(step::Kernel::Energy).is_none(),
            Formula::Reconstruction => kernel.replace(step::Kernel::Reconstruction).is_none(),
            Formula::PatchReconstruction => {
                // Its injections enter like those of a proximity, so the two exclude each other.
                kernel.replace(step::Kernel::Gram).is_none()
                    && !std::mem::replace(&mut proximity, true)
            }
            Formula::ActivationPotential(a) => kernel
                .replace(step::Kernel::Potential(activation(a)))
                .is_none(),
            Formula::Coupling { strength, pairs } => {
                couplings.push(coupling(strength, pairs));
                true
            }
        };
        if !once {
            return None;
        }
    }
    let kernel = kernel?;
    // All injections have one shape: that of the state, or that of W z.
    if proximity && !matches!(kernel, step::Kernel::Energy | step::Kernel::Gram) {
        return None;
    }
    Some(step::StepFormula {
        quadratic,
        proximity,
        kernel,
        couplings,
        prox,
        step,
    })
}

fn activation(config: ActivationConfig) -> step::Activation {
    match config {
        ActivationConfig::Relu => step::Activation::Relu,
        ActivationConfig::LeakyRelu { slope } => step::Activation::LeakyRelu { slope },
        ActivationConfig::Softplus => step::Activation::Softplus,
        ActivationConfig::Tanh => step::Activation::Tanh,
    }
}

fn prox(constraint: Constraint) -> step::Prox {
    match constraint {
        Constraint::NonNegative => step::Prox::NonNegative,
        Constraint::Interval { low, high } => step::Prox::Interval { low, high },
        Constraint::L1 { weight } => step::Prox::L1 { weight },
        Constraint::Sparse { weight } => step::Prox::Sparse { weight },
    }
}

fn coupling(strength: f64, pairs: Pairs) -> step::Coupling {
    step::Coupling {
        strength,
        reach: match pairs {
            Pairs::All => usize::MAX,
            Pairs::Neighbours => 1,
        },
    }
}
