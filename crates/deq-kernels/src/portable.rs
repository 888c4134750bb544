//! Replaces the CPU's fast forms in a build without them: no fast form applies.

use burn::nn::BatchNorm;
use burn::tensor::Tensor;

use crate::formula::{Finish, StepFormula};
use crate::inputs::Inputs;
use crate::solve::{SolveLimits, Solved};

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

pub(crate) fn repeat(_: &Tensor<4>, _: [usize; 2]) -> Option<Tensor<4>> {
    None
}

pub(crate) mod prepared {
    /// Nothing to prepare.
    #[derive(Clone, Debug, Default)]
    pub struct PreparedKernels;
}

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

/// The solvers' work on vectors.
pub(crate) mod vectors {
    use burn::tensor::Tensor;

    use crate::vectors::store::{ConjugateStep, History, HistoryShape, Ring};

    type Pair = [Tensor<2>; 2];

    pub(crate) fn inner(_: &Tensor<2>, _: &Tensor<2>) -> Option<Tensor<2>> {
        None
    }

    pub(crate) fn square_distance(_: &Tensor<2>, _: &Tensor<2>) -> Option<Tensor<2>> {
        None
    }

    pub(crate) fn join(_: &[Tensor<2>], _: usize) -> Option<Tensor<2>> {
        None
    }

    pub(crate) fn split(_: &Tensor<2>, _: &[usize]) -> Option<Vec<Tensor<2>>> {
        None
    }

    pub(crate) fn ring(_: &Tensor<2>, _: usize) -> Option<Box<dyn Ring>> {
        None
    }

    pub(crate) fn history(
        _: HistoryShape,
        _: &Tensor<2>,
        _: &Tensor<2>,
    ) -> Option<Box<dyn History>> {
        None
    }

    #[allow(clippy::result_large_err)]
    pub(crate) fn conjugate_step(
        _: [&Tensor<2>; 3],
        _: Option<&Tensor<2>>,
        moved: Pair,
    ) -> Result<ConjugateStep, Pair> {
        Err(moved)
    }
}
