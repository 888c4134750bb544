//! Replaces the fast forms in a build without them: nothing applies.

use burn::nn::BatchNorm;
use burn::tensor::Tensor;

use crate::step::{Finish, Inputs, SolveLimits, Solved, StepFormula};

type Made = Option<Vec<Tensor<4>>>;

pub(crate) fn convolve(_: &Tensor<4>, _: &Tensor<4>, _: Option<&Tensor<1>>) -> Option<Tensor<4>> {
    None
}

pub(crate) fn norm_above(_: &BatchNorm, _: &Tensor<4>, _: f32) -> Option<Tensor<4>> {
    None
}

pub(crate) fn mean_pool(_: &Tensor<4>, _: [usize; 2]) -> Option<Tensor<4>> {
    None
}

/// Nothing to prepare.
#[derive(Clone, Debug, Default)]
pub struct PreparedKernels;

pub(crate) fn applies(_: &StepFormula, _: &[Tensor<4>], _: Inputs<'_>) -> bool {
    false
}

pub(crate) fn step(_: &StepFormula, _: &[Tensor<4>], _: Inputs<'_>, _: Finish) -> Made {
    None
}

pub(crate) fn tracked_step(_: &StepFormula, _: &[Tensor<4>], _: Inputs<'_>, _: Made) -> Made {
    None
}

pub(crate) fn mask(_: &StepFormula, _: &[Tensor<4>]) -> Made {
    None
}

pub(crate) fn solve(
    _: &StepFormula,
    _: &Tensor<2>,
    _: Inputs<'_>,
    _: &SolveLimits,
) -> Option<Solved> {
    None
}

pub(crate) fn solve_adjoint(
    _: &StepFormula,
    _: &Tensor<2>,
    _: Inputs<'_>,
    _: &Tensor<2>,
    _: &SolveLimits,
) -> Option<Solved> {
    None
}

/// Never exists.
#[derive(Clone, Debug)]
pub(crate) enum Product {}

impl Product {
    pub(crate) fn new(
        _: &StepFormula,
        _: &[Tensor<4>],
        _: Inputs<'_>,
        _: Option<&[Tensor<4>]>,
    ) -> Option<Self> {
        None
    }

    pub(crate) fn apply(
        &self,
        _: &StepFormula,
        _: &[Tensor<4>],
        _: Inputs<'_>,
        _: [bool; 2],
    ) -> Made {
        match *self {}
    }
}
