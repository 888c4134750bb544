//! The vectors that a solver remembers.

use burn::tensor::{Bool, Tensor};

use crate::input::Rows;

/// m slots for vectors `[batch, n]`. Slots are empty at first and count as zero.
///
/// On the device, it is one preallocated `[batch, m, n]` tensor, so that shapes never change and a
/// step makes one matrix product. On Burn's CPU backend, every slot has its own memory, allocated
/// when it is first used. Products and combinations run over the used slots only, in the cache.
pub(crate) enum Ring {
    Device(Tensor<3>),
    #[cfg(feature = "flex")]
    Host(super::host::HostRing),
}

impl Ring {
    /// A ring for vectors like this one.
    pub(crate) fn new(like: &Tensor<2>, slots: usize) -> Self {
        #[cfg(feature = "flex")]
        if let Some(ring) = super::host::HostRing::new(like, slots) {
            return Self::Host(ring);
        }
        let [batch, width] = like.dims();
        let options = (&like.device(), like.dtype());
        Self::Device(Tensor::zeros([batch, slots, width], options))
    }

    /// Puts x into a slot.
    pub(crate) fn store(&mut self, slot: usize, x: Tensor<2>) {
        match self {
            Self::Device(ring) => {
                let [batch, _, width] = ring.dims();
                let at = [0..batch, slot..slot + 1, 0..width];
                // Moved out of `self`, so that the assignment happens in place.
                let placeholder = Tensor::zeros([0, 0, 0], &x.device());
                let whole = std::mem::replace(ring, placeholder);
                *ring = whole.slice_assign(at, x.unsqueeze_dim::<3>(1));
            }
            #[cfg(feature = "flex")]
            Self::Host(ring) => ring.store(slot, x),
        }
    }

    /// Products of each x with all slots: `[batch, x * m]`, all slots of the first x first.
    pub(crate) fn products(&self, x: &[&Tensor<2>]) -> Tensor<2> {
        match self {
            Self::Device(ring) => {
                let [batch, slots, _] = ring.dims();
                let columns = match x {
                    // A GPU compiles a different kernel for a transposed operand.
                    [x] => (*x).clone().unsqueeze_dim::<3>(2),
                    all => {
                        let rows = all.iter().map(|x| (*x).clone().unsqueeze_dim::<3>(1));
                        Tensor::cat(rows.collect(), 1).swap_dims(1, 2)
                    }
                };
                let products = ring.clone().matmul(columns).swap_dims(1, 2);
                products.reshape([batch, x.len() * slots])
            }
            #[cfg(feature = "flex")]
            Self::Host(ring) => ring.products(x),
        }
    }

    /// The sum of the slots with these weights `[batch, m]`. A weight of zero skips a slot on the
    /// host; the device multiplies by it.
    pub(crate) fn combine(&self, weights: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Device(ring) => {
                let weights = weights.unsqueeze_dim::<3>(1);
                weights.matmul(ring.clone()).squeeze_dim(1)
            }
            #[cfg(feature = "flex")]
            Self::Host(ring) => ring.combine(weights),
        }
    }

    /// x minus the sum of the slots with these weights, as [`combine`](Self::combine).
    pub(crate) fn less(&self, x: Tensor<2>, weights: Tensor<2>) -> Tensor<2> {
        x - self.combine(weights)
    }

    /// Sets a slot to zero for the samples in `rows`, `[batch, 1]`. Multiplying by 0 is not enough,
    /// because the slot may hold NaN.
    pub(crate) fn clean(&mut self, slot: usize, rows: &Tensor<2, Bool>) {
        match self {
            Self::Device(ring) => {
                let [batch, _, width] = ring.dims();
                let hole = rows.clone().expand([batch, width]);
                let row: Tensor<2> = ring.clone().narrow(1, slot, 1).squeeze_dim(1);
                self.store(slot, row.mask_fill(hole, 0.0));
            }
            #[cfg(feature = "flex")]
            Self::Host(ring) => ring.clean(slot, rows),
        }
    }

    /// Keeps only these samples.
    pub(crate) fn keep(&mut self, rows: &Rows) {
        match self {
            Self::Device(ring) => *ring = rows.of(ring.clone()),
            #[cfg(feature = "flex")]
            Self::Host(ring) => ring.keep(rows),
        }
    }
}
