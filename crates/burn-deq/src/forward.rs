//! A map on packed states, off the tape.

use burn::tensor::Tensor;
use deq_kernels::grad_hook;
use deq_kernels::vectors::Rows;

use crate::input::Input;
use crate::iteration::PackedMap;
use crate::map::FixedPointMap;
use crate::state::{Packing, State};

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
    /// Panics if autodiff is enabled for the map's result. The backward solve runs while Burn holds
    /// the lock of the outer graph. A map that reaches into that graph would wait for the lock
    /// forever. This check catches it first.
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
    pub(crate) fn autodiff_vjp<S>(&self, z: Tensor<2>, u: Tensor<2>) -> Tensor<2>
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
        // backward() seeds with ones; the hook replaces them with u.
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
