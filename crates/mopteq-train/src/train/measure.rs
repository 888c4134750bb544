//! What batches measured, read from the device one batch late. The training thread queues the next
//! batch before it reads, so the device does not wait for it.

use burn::prelude::*;
use burn::tensor::TensorReadError;

use crate::classifier::{ClassificationItem, SolverItem};
use crate::metrics::Sums;

/// A batch, or a device's part of one, whose numbers are still on the device.
pub(super) struct Pending {
    /// Epoch, from 1.
    pub(super) epoch: usize,
    /// Batch of the epoch, from 1.
    pub(super) batch: usize,
    pictures: usize,
    /// Mean cross entropy and number of correct pictures, `[2]`.
    numbers: Tensor<1>,
    solver: SolverItem,
}

impl Pending {
    pub(super) fn new(epoch: usize, batch: usize, item: ClassificationItem) -> Self {
        let (loss, logits) = (item.loss.without_autodiff(), item.logits.without_autodiff());
        let targets = item.targets.without_autodiff();
        let pictures = targets.dims()[0];
        let right = logits.argmax(1).squeeze_dim::<1>(1).equal(targets);
        let right = right.int().sum().float().cast(loss.dtype());
        Self {
            epoch,
            batch,
            pictures,
            numbers: Tensor::cat(vec![loss, right], 0),
            solver: item.solver,
        }
    }

    /// Number of its pictures.
    pub(super) fn pictures(&self) -> usize {
        self.pictures
    }

    /// Reads the numbers and adds them to the sums of the epoch. Returns the mean loss.
    pub(super) fn settle(self, sums: &mut Sums) -> Result<f64, TensorReadError> {
        let numbers: Vec<f64> = self.numbers.try_into_vec_as()?;
        let [loss, right] = [numbers[0], numbers[1]];
        sums.correct += right as usize;
        sums.pictures += self.pictures;
        sums.loss += loss * self.pictures as f64;
        sums.forward.add(self.solver.forward);
        sums.backward.add(self.solver.backward);
        sums.layers.add(&self.solver.layers);
        Ok(loss)
    }
}
