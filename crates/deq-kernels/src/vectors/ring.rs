//! A ring on the device: the portable form.

use burn::tensor::{Bool, Tensor};

use super::rows::Rows;
use super::store::Ring;

/// A ring for vectors like this one.
pub(super) fn ring(like: &Tensor<2>, slots: usize) -> Box<dyn Ring> {
    Box::new(DeviceRing::new(like, slots))
}

/// One preallocated `[batch, m, n]` tensor, so that shapes never change and a step takes one matrix
/// product.
pub(super) struct DeviceRing(Tensor<3>);

impl DeviceRing {
    pub(super) fn new(like: &Tensor<2>, slots: usize) -> Self {
        let [batch, width] = like.dims();
        let options = (&like.device(), like.dtype());
        Self(Tensor::zeros([batch, slots, width], options))
    }

    /// Sets a slot to zero for the samples in `rows`, `[batch, 1]`. Multiplying by 0 is not enough,
    /// because the slot may hold NaN.
    pub(super) fn clean(&mut self, slot: usize, rows: &Tensor<2, Bool>) {
        let [batch, _, width] = self.0.dims();
        let hole = rows.clone().expand([batch, width]);
        let row: Tensor<2> = self.0.clone().narrow(1, slot, 1).squeeze_dim(1);
        self.store(slot, row.mask_fill(hole, 0.0));
    }
}

impl Ring for DeviceRing {
    fn store(&mut self, slot: usize, x: Tensor<2>) {
        let [batch, _, width] = self.0.dims();
        let at = [0..batch, slot..slot + 1, 0..width];
        // Moved out of `self`, so that the assignment happens in place.
        let placeholder = Tensor::zeros([0, 0, 0], &x.device());
        let whole = std::mem::replace(&mut self.0, placeholder);
        self.0 = whole.slice_assign(at, x.unsqueeze_dim::<3>(1));
    }

    fn products(&self, x: &[&Tensor<2>]) -> Tensor<2> {
        let [batch, slots, _] = self.0.dims();
        let columns = match x {
            // A GPU compiles a different kernel for a transposed operand.
            [x] => (*x).clone().unsqueeze_dim::<3>(2),
            all => {
                let rows = all.iter().map(|x| (*x).clone().unsqueeze_dim::<3>(1));
                Tensor::cat(rows.collect(), 1).swap_dims(1, 2)
            }
        };
        let products = self.0.clone().matmul(columns).swap_dims(1, 2);
        products.reshape([batch, x.len() * slots])
    }

    fn combine(&self, weights: Tensor<2>) -> Tensor<2> {
        let weights = weights.unsqueeze_dim::<3>(1);
        weights.matmul(self.0.clone()).squeeze_dim(1)
    }

    fn keep(&mut self, rows: &Rows) {
        self.0 = rows.of(self.0.clone());
    }
}
