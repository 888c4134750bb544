//! Fast forms for Burn's CPU backend: plain `f32` tensors on Flex.
//!
//! Every entry returns `None` where it does not apply, and the caller takes the portable form. The
//! instruction set is chosen at run time by pulp: AVX-512, AVX2, NEON or none.

mod batch_norm;
mod convolution;
mod direct;
mod elementwise;
mod kernel;
mod pooling;
mod pullback;
mod sample;
mod step;
mod winograd;
mod winograd_gradient;

use std::cell::RefCell;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData};

pub(crate) use batch_norm::norm_relu;
pub(crate) use convolution::convolve;
pub(crate) use pooling::mean_pool;
pub(crate) use step::{PreparedKernels, Product, applies, mask, step, tracked_step};

/// Samples whose kernel gradients are added up by one task: a fixed number, so that the sum does
/// not depend on the number of threads.
const SAMPLES_A_TASK: usize = 8;

/// A plain `f32` tensor on Flex, with its elements in row-major order.
#[derive(Clone, Debug)]
struct Floats {
    tensor: FloatTensor<Flex>,
    dims: [usize; 4],
}

impl Floats {
    fn new(tensor: &Tensor<4>) -> Option<Self> {
        if tensor.is_autodiff() || tensor.dtype() != DType::F32 {
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

    fn all(tensors: &[Tensor<4>]) -> Option<Vec<Self>> {
        tensors.iter().map(Self::new).collect()
    }

    fn elements(&self) -> &[f32] {
        self.tensor
            .as_slice()
            .expect("the elements of a contiguous tensor of this type")
    }

    fn sample(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// The plane of a channel of every sample.
    fn planes(&self, channel: usize) -> impl Iterator<Item = &[f32]> {
        let [_, channels, height, width] = self.dims;
        let planes = self.elements().chunks_exact((height * width).max(1));
        planes.skip(channel).step_by(channels.max(1))
    }

    /// The sum over samples and pixels.
    fn sum_of_channels(&self) -> Vec<f32> {
        let [_, channels, height, width] = self.dims;
        let mut sums = vec![0.0; channels];
        for sample in self.elements().chunks_exact(self.sample().max(1)) {
            let planes = sample.chunks_exact((height * width).max(1));
            for (sum, plane) in sums.iter_mut().zip(planes) {
                // In short lines: a sum of many numbers one by one is not accurate in f32.
                *sum += plane.chunks(32).map(|c| c.iter().sum::<f32>()).sum::<f32>();
            }
        }
        sums
    }
}

fn tensor(elements: Vec<f32>, dims: [usize; 4], like: &Tensor<4>) -> Tensor<4> {
    Tensor::from_data(
        TensorData::new(elements, dims),
        &like.device().without_autodiff(),
    )
}

/// Lends a task this thread's memory. The memory is taken out meanwhile, because a thread that waits
/// may be given another task.
fn lend<T: Default, R>(
    memory: &'static std::thread::LocalKey<RefCell<T>>,
    task: impl FnOnce(&mut T) -> R,
) -> R {
    let mut lent = memory.take();
    let result = task(&mut lent);
    memory.set(lent);
    result
}

/// So many numbers of this memory, from the start of a line of the cache on. The memory grows if need
/// be; what stands there is left.
fn room(memory: &mut Vec<f32>, numbers: usize) -> &mut [f32] {
    const LINE: usize = 64;
    let most = LINE / size_of::<f32>();
    if memory.len() < numbers + most {
        memory.resize(numbers + most, 0.0);
    }
    // It need not be possible: then it is only slower.
    let start = memory.as_ptr().align_offset(LINE).min(most);
    &mut memory[start..start + numbers]
}
