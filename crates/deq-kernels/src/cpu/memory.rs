//! Tensors in the host's memory, scratch memory, and block sizes.

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
/// Smallest number of registers for which blocks have 8 output channels instead of 4.
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
        // Sums short lines first, because a long running sum is inaccurate in f32.
        let line = |line: &[f32]| line.iter().sum::<f32>();
        let plane = |plane: &[f32]| plane.chunks(32).map(line).sum::<f32>();
        let channels = (0..self.dims[1]).into_par_iter();
        channels.map(|c| self.planes(c).map(plane).sum()).collect()
    }
}

pub(super) fn tensor(elements: Vec<f32>, dims: [usize; 4], like: &Tensor<4>) -> Tensor<4> {
    Tensor::from_data(
        TensorData::new(elements, dims),
        &like.device().without_autodiff(),
    )
}

/// Lends this thread's memory to a task. The memory is taken out for that time, because a waiting
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

/// `numbers` elements of the memory, aligned to a cache line. The memory grows if necessary. The
/// elements keep their values.
pub(super) fn room<T: Copy + Default>(memory: &mut Vec<T>, numbers: usize) -> &mut [T] {
    const LINE: usize = 64;
    let most = LINE / size_of::<T>();
    if memory.len() < numbers + most {
        memory.resize(numbers + most, T::default());
    }
    // Alignment may be impossible; the code is then only slower.
    let start = memory.as_ptr().align_offset(LINE).min(most);
    &mut memory[start..start + numbers]
}

/// N vectors of `count` chunks of `size` numbers each. For each index, a task writes the chunks
/// with this index and returns a result. The tasks run on all cores.
///
/// # Panics
///
/// Panics if a task leaves a chunk unfinished.
pub(super) fn produce<T: Copy + Default + Send, const N: usize, R: Send>(
    count: usize,
    size: usize,
    write: impl Fn(usize, [&mut Chunk<'_, T>; N]) -> R + Sync,
) -> ([Vec<T>; N], Vec<R>) {
    let mut vectors: [Vec<T>; N] = std::array::from_fn(|_| Vec::with_capacity(count * size));
    let mut rests = vectors
        .each_mut()
        .map(|v| &mut v.spare_capacity_mut()[..count * size]);
    let chunk = |_| {
        rests.each_mut().map(|rest| {
            let (chunk, after) = std::mem::take(rest).split_at_mut(size);
            *rest = after;
            Chunk(chunk)
        })
    };
    let chunks: Vec<_> = (0..count).map(chunk).collect();
    let each = |(i, mut chunks): (usize, [Chunk<'_, T>; N])| {
        let result = write(i, chunks.each_mut());
        assert!(chunks.iter().all(|chunk| chunk.0.is_empty()), "unfinished");
        result
    };
    let results = match count {
        0 | 1 => chunks.into_iter().enumerate().map(each).collect(),
        _ => chunks.into_par_iter().enumerate().map(each).collect(),
    };
    for vector in &mut vectors {
        // SAFETY: the chunks cover this capacity, and every number of each was written.
        #[allow(unsafe_code)]
        unsafe {
            vector.set_len(count * size);
        }
    }
    (vectors, results)
}

/// Numbers that are still to be written, from the first to the last.
pub(super) struct Chunk<'a, T>(&'a mut [MaybeUninit<T>]);

impl<'a, T: Copy + Default> Chunk<'a, T> {
    /// Writes the next numbers.
    pub(super) fn extend(&mut self, numbers: &[T]) {
        self.next(numbers.len()).write_copy_of_slice(numbers);
    }

    /// The next numbers, as zeros. Call this just before filling them, so that they stay in the
    /// cache.
    pub(super) fn zeros(&mut self, count: usize) -> &'a mut [T] {
        let numbers = self.next(count);
        numbers.fill(MaybeUninit::new(T::default()));
        // SAFETY: all of them were just written.
        #[allow(unsafe_code)]
        unsafe {
            numbers.assume_init_mut()
        }
    }

    fn next(&mut self, count: usize) -> &'a mut [MaybeUninit<T>] {
        let (next, after) = std::mem::take(&mut self.0).split_at_mut(count);
        self.0 = after;
        next
    }
}
