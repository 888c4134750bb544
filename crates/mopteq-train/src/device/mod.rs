//! Choosing what to compute on, without ever panicking because a driver is missing.

mod choice;
#[cfg(feature = "gpu")]
mod compiling;
mod error;
mod hardware;
mod kernels;
#[cfg(feature = "remote")]
mod remote;
mod selected;
#[cfg(feature = "remote")]
mod token;

use std::path::Path;

use burn::prelude::*;

// Which of these are used depends on the features.
#[allow(unused_imports)]
use crate::crash;
#[allow(unused_imports)]
use choice::REMOTE;
pub use choice::{Backend, DeviceChoice};
pub use error::DeviceError;
use hardware::Maker;
pub(crate) use kernels::compiled_kernels;
pub use kernels::keep_kernels;
pub use selected::SelectedDevice;
#[allow(unused_imports)]
use selected::probed;
#[cfg(feature = "remote")]
pub use {remote::Worker, token::Token};

/// Finds the device for a choice and tries it with a small computation.
///
/// # Errors
///
/// When the choice is not built in or does not work here. `Auto` falls back to the CPU.
pub fn select(choice: DeviceChoice) -> Result<SelectedDevice, DeviceError> {
    select_with(choice, None)
}

/// The same with the file of the secret that workers ask for, in place of the default one.
///
/// # Errors
///
/// As [`select`].
pub fn select_with(
    choice: DeviceChoice,
    token_file: Option<&Path>,
) -> Result<SelectedDevice, DeviceError> {
    let asked = || "as asked for".to_owned();
    match choice {
        DeviceChoice::Auto => auto(),
        DeviceChoice::On(Backend::Cpu, _) => cpu(asked()),
        DeviceChoice::On(backend, index) => gpu(backend, index, asked()),
        DeviceChoice::Remote(address) => worker(&address, token_file, asked()),
    }
}

/// GPU features bring fused operations, which burn-remote 0.22.1 sends as graphs; a worker's
/// session ends when such a graph arrives.
#[cfg(all(feature = "remote", feature = "gpu"))]
fn worker(address: &str, _: Option<&Path>, _: String) -> Result<SelectedDevice, DeviceError> {
    Err(DeviceError::Worker {
        name: format!("{REMOTE}{address}"),
        reason: "a build with GPU features can be a worker, but cannot use one; build the program \
                 that trains with --features remote alone"
            .into(),
    })
}

#[cfg(all(feature = "remote", not(feature = "gpu")))]
fn worker(
    address: &str,
    token_file: Option<&Path>,
    reason: String,
) -> Result<SelectedDevice, DeviceError> {
    let file = token_file.map_or_else(Token::default_file, Path::to_path_buf);
    remote::connect(address, &Token::read(&file)?, reason)
}

#[cfg(not(feature = "remote"))]
fn worker(address: &str, _: Option<&Path>, _: String) -> Result<SelectedDevice, DeviceError> {
    Err(DeviceError::NotBuiltIn {
        name: format!("{REMOTE}{address}"),
        feature: "remote",
    })
}

/// CUDA or ROCm, then a GPU by way of a graphics driver, then the CPU. The reason says why the
/// earlier ones were not taken.
fn auto() -> Result<SelectedDevice, DeviceError> {
    let mut passed_over: Vec<String> = Vec::new();
    let makers = hardware::makers();
    let own = [
        (Backend::Cuda, Maker::Nvidia, cfg!(feature = "cuda")),
        (Backend::Rocm, Maker::Amd, cfg!(feature = "rocm")),
    ];
    for (backend, maker, built_in) in own {
        if built_in && makers.contains(&maker) {
            match gpu(backend, 0, format!("there is {}", maker.gpu())) {
                Ok(found) => return Ok(found),
                Err(error) => passed_over.push(reason(error, backend.name())),
            }
        }
    }
    let adapters = adapters();
    if let Some(real) = adapters.iter().find(|adapter| !adapter.software) {
        match gpu(GRAPHICS, 0, format!("there is a GPU ({})", real.name)) {
            Ok(found) => return Ok(found),
            Err(error) => passed_over.push(reason(error, GRAPHICS.name())),
        }
    } else if let Some(software) = adapters.first() {
        let name = &software.name;
        passed_over.push(format!(
            "{} has only a software rasteriser ({name})",
            GRAPHICS.name()
        ));
    } else if HAS_GRAPHICS {
        passed_over.push(format!("{} finds no GPU", GRAPHICS.name()));
    }
    passed_over.extend(makers.into_iter().filter_map(not_built_in));
    if passed_over.is_empty() {
        passed_over.push("there is no GPU".into());
    }
    cpu(passed_over.join("; "))
}

/// Whether this build can compute by way of a graphics driver.
const HAS_GRAPHICS: bool = cfg!(any(feature = "wgpu", feature = "vulkan", feature = "metal"));

/// The graphics backend of this build, for `auto`.
const GRAPHICS: Backend = if cfg!(feature = "wgpu") {
    Backend::Wgpu
} else if cfg!(feature = "metal") {
    Backend::Metal
} else {
    Backend::Vulkan
};

/// Names the command that uses a GPU for which this build has no backend.
fn not_built_in(maker: Maker) -> Option<String> {
    let built_in = match maker {
        Maker::Nvidia => cfg!(feature = "cuda"),
        Maker::Amd => HAS_GRAPHICS || cfg!(feature = "rocm"),
        Maker::Intel | Maker::Apple => HAS_GRAPHICS,
    };
    (!built_in).then(|| {
        format!(
            "there is {}; cargo run --release --features {} uses it",
            maker.gpu(),
            maker.feature()
        )
    })
}

fn reason(error: DeviceError, name: &str) -> String {
    match error {
        DeviceError::Unusable { reason, .. } => format!("{name} does not work: {reason}"),
        error => error.to_string(),
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
    return probed("cpu".into(), Device::cpu(), reason);
    #[cfg(not(any(feature = "flex", feature = "cpu")))]
    {
        drop(reason);
        Err(DeviceError::NotBuiltIn {
            name: Backend::Cpu.name().into(),
            feature: "flex",
        })
    }
}

/// wgpu's way to name a GPU: its first choice, or one by number.
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
fn graphics_device(index: usize) -> DeviceKind {
    match index {
        0 => DeviceKind::default(),
        index => DeviceKind::DiscreteGpu(index),
    }
}

// Which arms use the arguments depends on the features.
#[allow(unused_variables)]
fn gpu(backend: Backend, index: usize, reason: String) -> Result<SelectedDevice, DeviceError> {
    let name = DeviceChoice::On(backend, index).to_string();
    match backend {
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => on_adapter(name, Device::wgpu(graphics_device(index)), reason),
        #[cfg(feature = "vulkan")]
        Backend::Vulkan => on_adapter(name, Device::vulkan(graphics_device(index)), reason),
        #[cfg(feature = "metal")]
        Backend::Metal => on_adapter(name, Device::metal(graphics_device(index)), reason),
        #[cfg(feature = "cuda")]
        Backend::Cuda if !hardware::has_nvidia(index) => Err(DeviceError::Unusable {
            name,
            reason: format!("there is no NVIDIA GPU with the number {index}"),
        }),
        #[cfg(feature = "cuda")]
        Backend::Cuda => probed(name, Device::cuda(index), reason),
        #[cfg(feature = "rocm")]
        Backend::Rocm => probed(name, Device::rocm(index), reason),
        _ => Err(DeviceError::NotBuiltIn {
            name,
            feature: backend.name(),
        }),
    }
}

/// What wgpu can compute on.
struct Adapter {
    name: String,
    software: bool,
}

#[cfg(not(any(feature = "wgpu", feature = "vulkan", feature = "metal")))]
fn adapters() -> Vec<Adapter> {
    Vec::new()
}

/// Asks the graphics drivers, without opening a device.
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
fn adapters() -> Vec<Adapter> {
    use std::task::{Context, Poll, Waker};

    let find = || {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        // OpenGL is no way to compute here, and its drivers complain without a screen.
        descriptor.backends = wgpu::Backends::PRIMARY;
        let instance = wgpu::Instance::new(descriptor);
        let mut future = std::pin::pin!(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
        let mut context = Context::from_waker(Waker::noop());
        // Outside a browser, the answer is available at once.
        let found = loop {
            match future.as_mut().poll(&mut context) {
                Poll::Ready(found) => break found,
                Poll::Pending => std::thread::yield_now(),
            }
        };
        let adapter = |adapter: &wgpu::Adapter| {
            let info = adapter.get_info();
            Adapter {
                software: info.device_type == wgpu::DeviceType::Cpu,
                name: info.name,
            }
        };
        found.iter().map(adapter).collect()
    };
    crash::catch(find).unwrap_or_default()
}

/// A wgpu device. Without an adapter, there is no need to try it.
#[cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal"))]
fn on_adapter(name: String, device: Device, reason: String) -> Result<SelectedDevice, DeviceError> {
    let adapters = adapters();
    let real = adapters.iter().find(|adapter| !adapter.software);
    match real.or(adapters.first()) {
        None => Err(DeviceError::Unusable {
            name,
            reason: "no graphics driver offers a GPU".into(),
        }),
        Some(adapter) => {
            let kind = if adapter.software { ", software" } else { "" };
            let mut found = probed(name, device, reason)?;
            found.name = format!("{} ({}{kind})", found.name, adapter.name);
            Ok(found)
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for text in [
            "auto",
            "cpu",
            "wgpu",
            "vulkan",
            "metal",
            "cuda",
            "cuda:1",
            "rocm",
            "remote:gpu:7879",
            "remote:[::1]:80",
        ] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        let error = "cude".parse::<DeviceChoice>().unwrap_err();
        assert!(error.contains("did you mean cuda?"), "{error}");
        for wrong in [
            "remote:",
            "remote:gpu",
            "remote:gpu:",
            "remote::80",
            "remote:gpu:0",
        ] {
            let error = wrong.parse::<DeviceChoice>().unwrap_err();
            assert!(error.contains("host:port"), "{error}");
        }
        assert!(
            "cuda:x"
                .parse::<DeviceChoice>()
                .unwrap_err()
                .contains("cuda:0")
        );
    }

    #[test]
    fn the_cpu_works_and_a_missing_backend_names_its_feature() {
        let cpu = select(DeviceChoice::CPU).unwrap();
        assert!(probed("cpu".into(), cpu.device, String::new()).is_ok());
        if !cfg!(feature = "rocm") {
            let message = select(DeviceChoice::On(Backend::Rocm, 0))
                .unwrap_err()
                .to_string();
            assert!(message.contains("--features rocm"), "{message}");
        }
    }

    #[test]
    fn auto_says_why_it_took_what_it_took() {
        let found = select(DeviceChoice::Auto).unwrap();
        if found.name.starts_with("cpu") {
            let reason = &found.reason;
            assert!(
                reason.contains("GPU") || reason.contains("rasteriser"),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_gpu_without_its_backend_is_named_with_the_command_that_uses_it() {
        if !cfg!(feature = "cuda") {
            let reason = not_built_in(Maker::Nvidia).unwrap();
            let expected = "there is an NVIDIA GPU; cargo run --release --features cuda uses it";
            assert_eq!(reason, expected);
        }
        assert_eq!(not_built_in(Maker::Intel).is_none(), HAS_GRAPHICS);
    }
}
