//! Choosing what to compute on, without ever panicking for want of a driver.

use std::fs;

use burn::prelude::*;

use crate::crash;

/// What the user may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best that is there: CUDA, else the CPU.
    Auto,
    /// The processor.
    Cpu,
    /// Any GPU, by way of the graphics API that fits it.
    Wgpu,
    /// A GPU by way of Vulkan.
    Vulkan,
    /// An Apple GPU.
    Metal,
    /// An NVIDIA GPU.
    Cuda,
    /// An AMD GPU.
    Rocm,
}

impl DeviceChoice {
    /// All choices.
    pub const ALL: [Self; 7] = [
        Self::Auto,
        Self::Cpu,
        Self::Wgpu,
        Self::Vulkan,
        Self::Metal,
        Self::Cuda,
        Self::Rocm,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
        }
    }

    /// The choice of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }
}

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

/// There is no such device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The program was built without it.
    #[error("--device {name}: not in this build; build with --features {feature}")]
    NotBuiltIn {
        /// The choice.
        name: &'static str,
        /// The cargo feature that brings it.
        feature: &'static str,
    },
    /// It is built in, but does not work here.
    #[error("--device {name}: {reason}; use --device cpu, or install the driver")]
    Unusable {
        /// The choice.
        name: &'static str,
        /// What is missing, or the first message of the driver.
        reason: String,
    },
}

/// Finds the device for a choice and tries it with a small computation.
///
/// # Errors
///
/// When the choice is not built in or does not work here. `Auto` falls back to the CPU.
pub fn select(choice: DeviceChoice) -> Result<SelectedDevice, DeviceError> {
    let asked = || "as asked for".to_owned();
    match choice {
        DeviceChoice::Auto => auto(),
        DeviceChoice::Cpu => cpu(asked()),
        _ => gpu(choice, asked()),
    }
}

fn auto() -> Result<SelectedDevice, DeviceError> {
    // wgpu is not looked for yet: a software rasteriser is no GPU, and telling one from the other
    // needs the adapter's name.
    if !cfg!(feature = "cuda") {
        return cpu("CUDA is not in this build".into());
    }
    let found = match nvidia_device() {
        true => gpu(DeviceChoice::Cuda, "there is an NVIDIA GPU".into()),
        false => return cpu("there is no NVIDIA GPU".into()),
    };
    match found {
        Err(DeviceError::Unusable { reason, .. }) => cpu(format!("CUDA does not work: {reason}")),
        found => found,
    }
}

fn cpu(reason: String) -> Result<SelectedDevice, DeviceError> {
    #[cfg(feature = "flex")]
    return Ok(SelectedDevice {
        device: Device::flex(),
        name: "cpu (flex)".into(),
        reason,
    });
    #[cfg(all(feature = "cpu", not(feature = "flex")))]
    return probed(DeviceChoice::Cpu, Device::cpu(), reason);
    #[cfg(not(any(feature = "flex", feature = "cpu")))]
    {
        drop(reason);
        Err(DeviceError::NotBuiltIn {
            name: DeviceChoice::Cpu.name(),
            feature: "flex",
        })
    }
}

// Which arms use `reason` depends on the features.
#[allow(unused_variables)]
fn gpu(choice: DeviceChoice, reason: String) -> Result<SelectedDevice, DeviceError> {
    match choice {
        #[cfg(feature = "wgpu")]
        DeviceChoice::Wgpu => probed(choice, Device::wgpu(DeviceKind::default()), reason),
        #[cfg(feature = "vulkan")]
        DeviceChoice::Vulkan => probed(choice, Device::vulkan(DeviceKind::default()), reason),
        #[cfg(feature = "metal")]
        DeviceChoice::Metal => probed(choice, Device::metal(DeviceKind::default()), reason),
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda if !nvidia_device() => Err(DeviceError::Unusable {
            name: choice.name(),
            reason: "there is no NVIDIA GPU".into(),
        }),
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda => probed(choice, Device::cuda(0), reason),
        #[cfg(feature = "rocm")]
        DeviceChoice::Rocm => probed(choice, Device::rocm(0), reason),
        _ => Err(DeviceError::NotBuiltIn {
            name: choice.name(),
            feature: choice.name(),
        }),
    }
}

/// Computes something small. Without a driver, Burn makes a device happily and panics in a
/// background thread at its first operation.
#[allow(dead_code)]
fn probed(
    choice: DeviceChoice,
    device: Device,
    reason: String,
) -> Result<SelectedDevice, DeviceError> {
    let name = choice.name();
    let sum = crash::catch(|| {
        Tensor::<1>::ones([4], &device)
            .sum()
            .try_into_scalar::<f32>()
    });
    match sum {
        Ok(Ok(4.0)) => Ok(SelectedDevice {
            device,
            name: name.into(),
            reason,
        }),
        Ok(Ok(wrong)) => {
            let reason = format!("it computes 1 + 1 + 1 + 1 = {wrong}");
            Err(DeviceError::Unusable { name, reason })
        }
        Ok(Err(error)) => Err(DeviceError::Unusable {
            name,
            reason: error.to_string(),
        }),
        Err(crash) => Err(DeviceError::Unusable {
            name,
            reason: crash.message,
        }),
    }
}

/// Whether this process can see an NVIDIA GPU. The driver's version in /proc is visible in a
/// container that was not given the GPU, so the device node is what counts.
fn nvidia_device() -> bool {
    if !cfg!(target_os = "linux") {
        // Elsewhere, let the probe find out.
        return true;
    }
    let is_gpu = |name: &str| {
        // /dev/dxg is the GPU under Windows' Linux subsystem.
        let number = name.strip_prefix("nvidia");
        name == "dxg"
            || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_str().is_some_and(is_gpu))
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for choice in DeviceChoice::ALL {
            assert_eq!(DeviceChoice::from_name(choice.name()), Some(choice));
        }
        assert_eq!(DeviceChoice::from_name("gpu"), None);
    }

    #[test]
    fn the_cpu_works_and_a_missing_backend_names_its_feature() {
        let cpu = select(DeviceChoice::Cpu).unwrap();
        assert!(probed(DeviceChoice::Cpu, cpu.device, String::new()).is_ok());
        if !cfg!(feature = "rocm") {
            let message = select(DeviceChoice::Rocm).unwrap_err().to_string();
            assert!(message.contains("--features rocm"), "{message}");
        }
    }
}
