//! Objectives whose step the kernels compute in one go.

use std::sync::Arc;

use deq_kernels::step;

use super::{ActivationConfig, Coupling, Pairs, Quadratic, Term};
use crate::constraint::{Constraint, Proximal};

/// Formulas that are evaluated together, instead of term by term, where the device allows.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Formula {
    /// That of [`Quadratic`].
    Quadratic(Quadratic),
    /// That of [`Proximity`](super::Proximity).
    Proximity,
    /// That of [`KernelEnergy`](super::KernelEnergy).
    KernelEnergy,
    /// That of [`ActivationPotential`](super::ActivationPotential) with an activation of this crate.
    ActivationPotential(ActivationConfig),
    /// That of [`Coupling`].
    Coupling(Coupling),
}

/// The step of a sum of terms under a constraint; `None` if it has no such form.
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
            Formula::Quadratic(q) => {
                quadratic += q.weight;
                true
            }
            Formula::Proximity => {
                quadratic += 1.0;
                !std::mem::replace(&mut proximity, true)
            }
            Formula::KernelEnergy => kernel.replace(step::Kernel::Energy).is_none(),
            Formula::ActivationPotential(a) => kernel
                .replace(step::Kernel::Potential(activation(a)))
                .is_none(),
            Formula::Coupling(c) => {
                couplings.push(coupling(c));
                true
            }
        };
        if !once {
            return None;
        }
    }
    let kernel = kernel?;
    // Injections have one shape: that of the state, or that of W z.
    if proximity && kernel != step::Kernel::Energy {
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
    }
}

fn coupling(coupling: Coupling) -> step::Coupling {
    step::Coupling {
        strength: coupling.strength,
        reach: match coupling.pairs {
            Pairs::All => usize::MAX,
            Pairs::Neighbours => 1,
        },
    }
}
