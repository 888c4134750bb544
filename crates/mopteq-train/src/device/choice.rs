//! What to compute on, as it is written on the command line.

use std::fmt;
use std::str::FromStr;

use crate::names::nearest;

/// What there is to compute on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
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

impl Backend {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Cpu,
        Self::Wgpu,
        Self::Vulkan,
        Self::Metal,
        Self::Cuda,
        Self::Rocm,
    ];

    /// The name on the command line, which is also that of the cargo feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
        }
    }
}

/// Prefix of the choice of a worker.
pub(super) const REMOTE: &str = "remote:";

/// What the user may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best one available: CUDA or ROCm, then a GPU by way of wgpu, then the CPU.
    Auto,
    /// This one, with the number of the GPU if there are several.
    On(Backend, usize),
    /// The device that a worker serves at this `host:port`.
    Remote(String),
}

impl DeviceChoice {
    /// The processor.
    pub const CPU: Self = Self::On(Backend::Cpu, 0);
    /// The first GPU by way of wgpu.
    pub const WGPU: Self = Self::On(Backend::Wgpu, 0);
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::On(backend, 0) => f.write_str(backend.name()),
            Self::On(backend, index) => write!(f, "{}:{index}", backend.name()),
            Self::Remote(address) => write!(f, "{REMOTE}{address}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Some(address) = text.strip_prefix(REMOTE) {
            let port = address
                .rsplit_once(':')
                .map(|(host, port)| (host, port.parse::<u16>()));
            return match port {
                Some((host, Ok(1..))) if !host.is_empty() => Ok(Self::Remote(address.into())),
                _ => Err(format!(
                    "'{address}' is no host:port; write it as remote:10.0.0.2:7879"
                )),
            };
        }
        let (name, index) = text.split_once(':').unwrap_or((text, "0"));
        let index = index
            .parse()
            .map_err(|_| format!("'{index}' is not the number of a device; write it as cuda:0"))?;
        let backend = Backend::ALL
            .into_iter()
            .find(|backend| backend.name() == name);
        if backend == Some(Backend::Cpu) && index > 0 {
            return Err(format!("there is no cpu:{index}, only one cpu"));
        }
        let names: Vec<&str> = ["auto"]
            .into_iter()
            .chain(Backend::ALL.map(Backend::name))
            .collect();
        backend
            .map(|backend| Self::On(backend, index))
            .ok_or_else(|| {
                let hint = nearest(name, &names).map(|near| format!("; did you mean {near}?"));
                format!(
                    "expected one of {}, {REMOTE}HOST:PORT{}",
                    names.join(", "),
                    hint.unwrap_or_default()
                )
            })
    }
}
