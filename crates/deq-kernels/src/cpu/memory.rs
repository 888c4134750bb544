//! Tensors in the host's memory, memory for scratch, and block sizes.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

use crate::switch::portable;

/// Elements of the longest vectors; rows of memory are multiples of them.
pub(super) const LANES: usize = 16;
/// Vectors of pixels in a block.
pub(super) const VECTORS: usize = 2;
/// Number of registers from which blocks have 8 output channels instead of 4.
pub(super) const WIDE: usize = 32;
/// Samples whose kernel gradients one task sums: a fixed number, so that the sum does not depend on
/// the number of threads.
pub(super) const SAMPLES_A_TASK: usize = 8;

/// A plain `f32` tensor on Flex, with its elements in row-major order.
#[derive(Clone, Debug)]
pub(super) struct Floats {
    tensor: FloatTensor<Flex>,
    pub(super) dims: [usize; 4],
}

impl Floats {
    pub(super) fn new(tensor: &Tensor<4>) -> Option<Self> {
        if portable() || tensor.is_autodiff() || tensor.dtype() != DType::F32 {
            return None;
        }
        let dims = tensor.dims();
        let tensor = tensor.clone().try_into_primitive::<Flex>().ok()?;
        let tensor = if tensor.is_contiguous() {
            tensor
        } else {
            tensor.to_contiguous()
        };
        Some(Self { tensor, dims })
    }

    pub(super) fn all(tensors: &[Tensor<4>]) -> Option<Vec<Self>> {
        tensors.iter().map(Self::new).collect()
    }

    pub(super) fn elements(&self) -> &[f32] {
        self.tensor
            .as_slice()
            .expect("the elements of a contiguous tensor of this type")
    }

    pub(super) fn sample(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// The elements of one sample.
    pub(super) fn of_sample(&self, i: usize) -> &[f32] {
        let size = self.sample();
        &self.elements()[i * size..(i + 1) * size]
    }

    /// The planes of one channel, one per sample.
    pub(super) fn planes(&self, channel: usize) -> impl Iterator<Item = &[f32]> {
        let [_, channels, height, width] = self.dims;
        let planes = self.elements().chunks_exact((height * width).max(1));
        planes.skip(channel).step_by(channels.max(1))
    }

    /// The sum of every channel over samples and pixels.
    pub(super) fn sum_of_channels(&self) -> Vec<f32> {
        let [_, channels, height, width] = self.dims;
        let mut sums = vec![0.0; channels];
        for sample in self.elements().chunks_exact(self.sample().max(1)) {
            let planes = sample.chunks_exact((height * width).max(1));
            for (sum, plane) in sums.iter_mut().zip(planes) {
                // Sums short lines first, because a long running sum is inaccurate in f32.
                *sum += plane.chunks(32).map(|c| c.iter().sum::<f32>()).sum::<f32>();
            }
        }
        sums
    }
}

pub(super) fn tensor(elements: Vec<f32>, dims: [usize; 4], like: &Tensor<4>) -> Tensor<4> {
    Tensor::from_data(
        TensorData::new(elements, dims),
        &like.device().without_autodiff(),
    )
}

/// Lends this thread's memory to a task. The memory is taken out meanwhile, because a waiting
/// thread may run another task.
pub(super) fn lend<T: Default, R>(
    memory: &'static std::thread::LocalKey<RefCell<T>>,
    task: impl FnOnce(&mut T) -> R,
) -> R {
    let mut lent = memory.take();
    let result = task(&mut lent);
    memory.set(lent);
    result
}

/// This number of elements of the memory, aligned to a cache line. The memory grows if necessary.
/// The elements keep their values.
pub(super) fn room(memory: &mut Vec<f32>, numbers: usize) -> &mut [f32] {
    const LINE: usize = 64;
    let most = LINE / size_of::<f32>();
    if memory.len() < numbers + most {
        memory.resize(numbers + most, 0.0);
    }
    // Alignment may be impossible; then the code is only slower.
    let start = memory.as_ptr().align_offset(LINE).min(most);
    &mut memory[start..start + numbers]
}

/// N vectors of `count` chunks of `size` numbers each. Tasks on all cores fill the chunks of one number,
/// which are zeros before, and return something. Clearing a chunk just before it is filled leaves it
/// in the cache; `vec![0.0; n]` clears everything on one core first.
pub(super) fn produce<T: Copy + Default + Send, const N: usize, R: Send>(
    count: usize,
    size: usize,
    fill: impl Fn(usize, [&mut [T]; N]) -> R + Sync,
) -> ([Vec<T>; N], Vec<R>) {
    let mut vectors: [Vec<T>; N] = std::array::from_fn(|_| Vec::with_capacity(count * size));
    let mut rests = vectors
        .each_mut()
        .map(|v| &mut v.spare_capacity_mut()[..count * size]);
    let chunk = |_| {
        rests.each_mut().map(|rest| {
            let (chunk, after) = std::mem::take(rest).split_at_mut(size);
            *rest = after;
            chunk
        })
    };
    let chunks: Vec<_> = (0..count).map(chunk).collect();
    let each = |(i, chunks): (usize, [&mut [MaybeUninit<T>]; N])| fill(i, chunks.map(cleared));
    let results = match count {
        0 | 1 => chunks.into_iter().enumerate().map(each).collect(),
        _ => chunks.into_par_iter().enumerate().map(each).collect(),
    };
    for vector in &mut vectors {
        // SAFETY: the chunks cover this capacity, and each was cleared.
        #[allow(unsafe_code)]
        unsafe {
            vector.set_len(count * size);
        }
    }
    (vectors, results)
}

fn cleared<T: Copy + Default>(numbers: &mut [MaybeUninit<T>]) -> &mut [T] {
    numbers.fill(MaybeUninit::new(T::default()));
    // SAFETY: all of them were just written.
    #[allow(unsafe_code)]
    unsafe {
        &mut *(std::ptr::from_mut(numbers) as *mut [T])
    }
}
