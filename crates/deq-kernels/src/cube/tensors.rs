//! Tensors laid side by side, and the limits of a device.

use burn::backend::DispatchDevice;
use burn::tensor::{Device, Tensor};

/// Largest number of bytes of shared memory per cube, because a processor should hold several
/// cubes.
const SHARED: usize = 48 << 10;

pub(super) fn flat<const D: usize, const E: usize>(
    tensors: &[Tensor<D>],
    shape: impl Fn(&Tensor<D>) -> [usize; E],
    dim: usize,
) -> Tensor<E> {
    let flat = tensors.iter().map(|t| t.clone().reshape(shape(t)));
    Tensor::cat(flat.collect(), dim)
}

pub(super) fn elements(tensor: &Tensor<4>) -> [usize; 1] {
    [tensor.dims().iter().product()]
}

pub(super) fn rows(tensor: &Tensor<4>) -> [usize; 2] {
    let [batch, a, b, c] = tensor.dims();
    [batch, a * b * c]
}

pub(super) fn plain(tensors: &[Tensor<4>]) -> Vec<Tensor<4>> {
    let tensors = tensors.iter().cloned();
    tensors.map(Tensor::without_autodiff).collect()
}

/// The limits of a cube on a device.
pub(super) struct Limits {
    /// Elements of shared memory.
    pub(super) shared: usize,
    pub(super) units: usize,
    /// Buffers of a kernel.
    pub(super) buffers: usize,
}

pub(super) fn limits(device: &Device) -> Option<Limits> {
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
