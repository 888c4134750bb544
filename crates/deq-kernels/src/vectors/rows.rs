//! The rows of a batch.

use burn::tensor::kind::Basic;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// The samples of a batch that a solve keeps.
#[derive(Clone, Debug)]
pub struct Rows {
    indices: Vec<usize>,
    batch: usize,
    tensor: Tensor<1, Int>,
}

impl Rows {
    /// The samples `indices` of a batch of `batch`, for tensors on `device`.
    ///
    /// # Panics
    ///
    /// Panics if an index is not below `batch`.
    pub fn new(indices: Vec<usize>, batch: usize, device: &Device) -> Self {
        assert!(
            indices.iter().all(|i| *i < batch),
            "a row index is not below the batch size {batch}"
        );
        let data: Vec<i64> = indices.iter().map(|i| *i as i64).collect();
        let length = data.len();
        Self {
            tensor: Tensor::from_data(TensorData::new(data, [length]), device),
            indices,
            batch,
        }
    }

    /// The samples' positions in the batch.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// The size of the batch that the samples are taken from.
    pub fn batch(&self) -> usize {
        self.batch
    }

    fn consecutive(&self) -> bool {
        self.indices.windows(2).all(|pair| pair[1] == pair[0] + 1)
    }

    /// These samples of `x`, whose first dimension is the batch.
    pub fn of<const D: usize, K: Basic>(&self, x: Tensor<D, K>) -> Tensor<D, K> {
        match self.indices.first() {
            // A consecutive range is a view on some backends.
            Some(first) if self.consecutive() => x.narrow(0, *first, self.indices.len()),
            _ => x.select(0, self.tensor.clone()),
        }
    }
}

/// `[rows, 1]` on the device of `like`.
pub fn mask(rows: &[bool], like: &Tensor<2>) -> Tensor<2, Bool> {
    let data = TensorData::new(rows.to_vec(), [rows.len(), 1]);
    Tensor::from_data(data, &like.device())
}
