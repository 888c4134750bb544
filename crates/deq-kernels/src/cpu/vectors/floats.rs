//! Tensors whose elements the host reads and writes in place.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData};

use super::real::Real;
use crate::switch::portable;

/// Elements read or written above which samples are spread over the cores.
const WORTH_SPREADING: usize = 1 << 21;

/// Whether to spread samples over the cores; `elements` is their total. For little work, waking
/// other threads and moving the data into their caches takes longer.
pub(super) fn worth_spreading(samples: usize, elements: usize) -> bool {
    samples > 1 && elements >= WORTH_SPREADING && rayon::current_num_threads() > 1
}

/// The tensor with its elements in row-major order. A tensor already in this order is not copied.
fn contiguous(x: FloatTensor<Flex>) -> FloatTensor<Flex> {
    if x.is_contiguous() {
        x
    } else {
        x.to_contiguous()
    }
}

/// A tensor whose elements the host can read in place.
pub(super) struct Floats(FloatTensor<Flex>);

impl Floats {
    pub(super) fn new(x: &Tensor<2>) -> Option<Self> {
        if portable() || x.is_autodiff() || !matches!(x.dtype(), DType::F32 | DType::F64) {
            return None;
        }
        let x = x.clone().try_into_primitive::<Flex>().ok()?;
        Some(Self(contiguous(x)))
    }

    pub(super) fn expected(x: &Tensor<2>) -> Self {
        Self::new(x).expect("the host has read such tensors before")
    }

    pub(super) fn elements<T: Real>(&self) -> &[T] {
        self.0
            .as_slice()
            .expect("the elements of a contiguous tensor of this type")
    }
}

/// The elements of a tensor that [`Floats`] can read, in its own memory if that is not shared.
pub(super) fn owned<T: Real>(x: Tensor<2>) -> Vec<T> {
    let Ok(x) = x.try_into_primitive::<Flex>() else {
        unreachable!("the host can read the tensor")
    };
    let x = contiguous(x);
    if x.is_unique() {
        let data = x.into_data().try_into_vec();
        return data.expect("elements of this type");
    }
    Floats(x).elements().to_vec()
}

/// `[batch, columns]` on the device of `like`.
pub(super) fn tensor<T: Real>(elements: Vec<T>, columns: usize, like: &Tensor<2>) -> Tensor<2> {
    let data = TensorData::new(elements, [like.dims()[0], columns]);
    Tensor::from_data(data, (&like.device(), T::dtype()))
}
