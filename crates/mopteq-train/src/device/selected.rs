//! A device that has been tried.

use burn::prelude::*;
use mopteq::NetworkConfig;

use super::error::DeviceError;
use crate::crash;

/// A device that has been seen to work.
#[derive(Clone, Debug)]
pub struct SelectedDevice {
    /// The device, without autodiff.
    pub device: Device,
    /// Its name, such as `cpu (flex)`.
    pub name: String,
    /// Why it was taken.
    pub reason: String,
}

impl SelectedDevice {
    /// Checks that a network can be trained here as its config says.
    ///
    /// # Errors
    ///
    /// When the device does not compute in its precision.
    pub fn can_train(&self, network: &NetworkConfig) -> Result<(), DeviceError> {
        match network.mopteqs() {
            Some(model) if !model.core.precision.is_supported(&self.device) => {
                Err(DeviceError::Precision {
                    precision: model.core.precision.name(),
                    device: self.name.clone(),
                })
            }
            _ => Ok(()),
        }
    }
}

/// Computes something small. Without a driver, Burn makes a device happily and panics in a
/// background thread at its first operation.
#[allow(dead_code)]
pub(super) fn probed(
    name: String,
    device: Device,
    reason: String,
) -> Result<SelectedDevice, DeviceError> {
    let sum = crash::catch(|| {
        Tensor::<1>::ones([4], &device)
            .sum()
            .try_into_scalar::<f32>()
    });
    let reason_not = match sum {
        Ok(Ok(4.0)) => {
            #[cfg(feature = "gpu")]
            deq_kernels::separate_kernels(&device, concat!("mopteq-", env!("CARGO_PKG_VERSION")));
            return Ok(SelectedDevice {
                device,
                name,
                reason,
            });
        }
        Ok(Ok(wrong)) => format!("it computes 1 + 1 + 1 + 1 = {wrong}"),
        Ok(Err(error)) => error.to_string(),
        Err(crash) => crash.message,
    };
    Err(DeviceError::Unusable {
        name,
        reason: reason_not,
    })
}
