//! The Jacobian of a map at a point.

use burn::tensor::Tensor;
use deq_kernels::vectors::Rows;

use crate::forward::Forward;
use crate::input::Input;
use crate::linearisation::{Jacobian, PackedJacobian};
use crate::map::FixedPointMap;
use crate::state::State;

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

    /// Widths of the branches of a packed state.
    pub(crate) fn widths(&self) -> &[usize] {
        self.forward.packing.widths()
    }

    /// The mask D of the Jacobian, if it has one.
    pub(crate) fn mask(&self) -> Option<Tensor<2>> {
        match self.jacobian.as_ref()? {
            ClosedForm::States(jacobian) => jacobian.mask().map(|d| self.forward.packing.repack(d)),
            ClosedForm::Packed(jacobian) => jacobian.mask(),
        }
    }

    /// Keeps only these samples. Returns whether the map can do so.
    pub(crate) fn keep(&mut self, rows: &Rows) -> bool {
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
