//! Replaces the GPUs' fast forms in a build without them: no fast form applies.

use burn::tensor::Tensor;

use crate::formula::{Finish, StepFormula};
use crate::inputs::Inputs;
use crate::vectors::store::ConjugateStep;

pub(crate) mod prepared {
    /// Nothing to prepare.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Prepared;

    impl Prepared {
        pub(crate) fn with_other_injections(&self) -> Self {
            Self
        }
    }
}

pub(crate) fn applies(_: &StepFormula, _: Inputs<'_>) -> bool {
    false
}

type Made = Option<Tensor<2>>;

pub(crate) fn step(_: &StepFormula, _: &Tensor<2>, _: Inputs<'_>, _: Finish) -> Made {
    None
}

pub(crate) fn attach(_: &StepFormula, _: &Tensor<2>, _: Inputs<'_>, _: Option<&Tensor<2>>) -> Made {
    None
}

/// Never exists.
#[derive(Clone, Debug)]
pub(crate) enum Product {}

impl Product {
    pub(crate) fn new(_: &StepFormula, _: &Tensor<2>, _: Inputs<'_>, _: Made) -> Option<Self> {
        None
    }

    pub(crate) fn mask(&self) -> Option<&Tensor<2>> {
        match *self {}
    }

    pub(crate) fn apply(
        &self,
        _: &StepFormula,
        _: &Tensor<2>,
        _: Inputs<'_>,
        _: [bool; 2],
    ) -> Made {
        match *self {}
    }
}

pub(crate) fn bounded(
    _: &[Tensor<4>],
    _: &[Tensor<4>],
    _: &[f64],
    _: bool,
) -> Option<(Vec<Tensor<4>>, Vec<Tensor<4>>)> {
    None
}

pub(crate) fn convolve(_: &Tensor<4>, _: &Tensor<4>, _: Option<&Tensor<1>>) -> Option<Tensor<4>> {
    None
}

pub(crate) fn most_points(_: &Tensor<2>) -> usize {
    0
}

pub(crate) fn products(_: &[[Tensor<2>; 2]], _: &[usize], _: usize) -> Made {
    None
}

pub(crate) fn combine(_: &Tensor<2>, _: &[Tensor<2>]) -> Made {
    None
}

pub(crate) fn conjugate_step(
    _: [&Tensor<2>; 4],
    _: &Tensor<2>,
    _: Option<&Tensor<2>>,
) -> Option<ConjugateStep> {
    None
}
