//! The equilibrium layer.

use burn::module::Module;

use crate::attach::{attach, unrolled};
use crate::config::Gradient;
use crate::input::{Input, WithModule};
use crate::map::{FixedPointMap, ModuleMap};
use crate::settings::EquilibriumConfig;
use crate::solution::{Solution, Start};
use crate::solve::{forward, plan};
use crate::state::State;

impl EquilibriumConfig {
    /// Creates the layer.
    pub fn init(&self) -> Equilibrium {
        let mut config = self.clone();
        config.record.sort_unstable();
        config.record.dedup();
        // There is no iterate before the first evaluation.
        config.record.retain(|step| *step > 0);
        Equilibrium { config }
    }
}

/// An equilibrium layer: its output is the fixed point z* = f(z*, x) of a map.
///
/// Memory does not depend on the number of solver steps, and gradients are exact up to the
/// tolerance of the backward solve.
///
/// # Example
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::prelude::*;
/// use burn_deq::EquilibriumConfig;
///
/// # let device = Device::flex();
/// let cell: Linear = LinearConfig::new(4, 4).init(&device);
/// let deq = EquilibriumConfig::new().init();
///
/// let x = Tensor::<2>::ones([2, 4], &device);
/// let z0 = x.zeros_like();
/// let out = deq.solve(
///     &cell,
///     |cell: &Linear, z: Tensor<2>, x: Tensor<2>| (cell.forward(z) * 0.3 + x).tanh(),
///     x,
///     z0,
/// );
/// assert!(out.forward.all_converged());
/// assert_eq!(out.state.dims(), [2, 4]);
/// ```
#[derive(Clone, Debug)]
pub struct Equilibrium {
    config: EquilibriumConfig,
}

impl Equilibrium {
    /// Solves z = f(module, z, x) from `z0`, with gradients for the module and for x.
    ///
    /// The module is an argument of `f`, so the layer can pass a copy without autodiff. The
    /// gradient with respect to `z0` is zero, because the fixed point does not depend on it (except
    /// for [`Gradient::Unrolled`]).
    ///
    /// Keep `BatchNorm` and `Dropout` out of `f`. Both behave differently with and without
    /// autodiff, so the solver would find an equilibrium other than the one that is differentiated
    /// ([`check_declarations`](crate::check_declarations) finds this). Sample masks outside
    /// ([`dropout_mask`](crate::dropout_mask)) and pass them in `x`; use `GroupNorm` inside.
    ///
    /// # Shapes
    ///
    /// Every tensor of `z0` is `[batch, ...]`. The result of `f` and [`Solution::state`] have the
    /// shape of `z0`.
    ///
    /// # Panics
    ///
    /// Panics if `f` uses a tensor tracked by autodiff other than through its arguments, or returns
    /// a state of another shape.
    pub fn solve<M, S, X, F>(&self, module: &M, f: F, x: X, z0: S) -> Solution<S>
    where
        M: Module + 'static,
        S: State,
        X: Input,
        F: Fn(&M, S, X) -> S + Clone + Send + 'static,
    {
        let input = WithModule {
            module: module.clone(),
            input: x,
        };
        self.solve_map(&ModuleMap(f), input, z0)
    }

    /// Like [`solve`](Self::solve), for an f that returns something in addition to the next state:
    /// attention maps, a reconstruction, a penalty.
    ///
    /// The solves ignore this output. It is evaluated once, at [`Solution::state`] and on the tape,
    /// which takes one more evaluation of f. Its gradients pass to the module, to x, and through
    /// the fixed point.
    ///
    /// # Shapes
    ///
    /// As [`solve`](Self::solve). The output is whatever f returns.
    ///
    /// # Panics
    ///
    /// As [`solve`](Self::solve).
    pub fn solve_with_output<M, S, X, A, F>(
        &self,
        module: &M,
        f: F,
        x: X,
        z0: S,
    ) -> (Solution<S>, A)
    where
        M: Module + 'static,
        S: State,
        X: Input,
        F: Fn(&M, S, X) -> (S, A) + Clone + Send + 'static,
    {
        let inner = f.clone();
        let state = move |module: &M, z: S, x: X| inner(module, z, x).0;
        let solution = self.solve(module, state, x.clone(), z0);
        let (_, output) = f(module, solution.state.clone(), x);
        (solution, output)
    }

    /// Solves z = f(z, x) from `z0` for a [`FixedPointMap`], with gradients for x.
    ///
    /// # Panics
    ///
    /// As [`solve`](Self::solve).
    pub fn solve_map<S, X, F>(&self, map: &F, x: X, z0: S) -> Solution<S>
    where
        S: State,
        X: Input,
        F: FixedPointMap<S, X>,
    {
        self.solve_from(map, x, Start::from(z0))
    }

    /// Like [`solve_map`](Self::solve_map), with an additional start for the backward solve.
    ///
    /// # Panics
    ///
    /// As [`solve`](Self::solve), and if the start of the backward solve does not have the shape of
    /// the packed state.
    pub fn solve_from<S, X, F>(&self, map: &F, x: X, start: Start<S>) -> Solution<S>
    where
        S: State,
        X: Input,
        F: FixedPointMap<S, X>,
    {
        let plan = plan(&self.config, map, &x, start);
        if let (Gradient::Unrolled { steps, damping }, true) = (&self.config.gradient, plan.tracked)
        {
            return unrolled(&plan, *steps, *damping);
        }
        let found = forward(&plan);
        attach(&plan, found)
    }
}
