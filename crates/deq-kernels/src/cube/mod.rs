//! Fast forms for GPUs, written in CubeCL: one launch a step, for all branches and samples.
//!
//! They work on packed states `[batch, n]`, plain `f32` tensors on one of CubeCL's devices. Every
//! entry returns `None` where it does not apply, and the caller takes the portable form. There is
//! one body for every device; a cube's tile is as large as the device's shared memory allows.

mod calls;
mod convolution;
mod kernels;
mod launch;
mod norm;
mod plan;
mod step;
mod vectors;

use burn::backend::DispatchDevice;
use burn::tensor::{Device, Tensor};

pub(crate) use convolution::convolve;
pub(crate) use norm::bounded;
pub(crate) use step::{Prepared, Product, applies, attach, step};
pub(crate) use vectors::{combine, conjugate_step, most_points, products};

/// Bytes of shared memory that a cube takes at most: a processor should hold several cubes.
const SHARED: usize = 48 << 10;

fn flat<const D: usize, const E: usize>(
    tensors: &[Tensor<D>],
    shape: impl Fn(&Tensor<D>) -> [usize; E],
    dim: usize,
) -> Tensor<E> {
    let flat = tensors.iter().map(|t| t.clone().reshape(shape(t)));
    Tensor::cat(flat.collect(), dim)
}

fn elements(tensor: &Tensor<4>) -> [usize; 1] {
    [tensor.dims().iter().product()]
}

fn rows(tensor: &Tensor<4>) -> [usize; 2] {
    let [batch, a, b, c] = tensor.dims();
    [batch, a * b * c]
}

fn plain(tensors: &[Tensor<4>]) -> Vec<Tensor<4>> {
    let tensors = tensors.iter().cloned();
    tensors.map(Tensor::without_autodiff).collect()
}

/// What a cube of a device may have.
struct Limits {
    /// Elements of shared memory.
    shared: usize,
    units: usize,
    /// Buffers of a kernel.
    buffers: usize,
}

fn limits(device: &Device) -> Option<Limits> {
    match device.as_dispatch() {
        DispatchDevice::Cube(device) => {
            let client = device.client();
            let hardware = &client.properties().hardware;
            Some(Limits {
                shared: hardware.max_shared_memory_size.min(SHARED) / size_of::<f32>(),
                units: hardware.max_units_per_cube as usize,
                buffers: hardware.max_bindings as usize,
            })
        }
        #[allow(unreachable_patterns)]
        _ => None,
    }
}
