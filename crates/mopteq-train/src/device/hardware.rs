//! The GPUs that the operating system lists, found without a graphics library.
//!
//! A build without GPU support looks here, so that it can name the build that would use them.

use std::fs;
use std::path::Path;

/// Who made a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Maker {
    Nvidia,
    Amd,
    Intel,
    Apple,
}

impl Maker {
    /// The maker's name with the indefinite article before it.
    pub(super) fn gpu(self) -> &'static str {
        match self {
            Self::Nvidia => "an NVIDIA GPU",
            Self::Amd => "an AMD GPU",
            Self::Intel => "an Intel GPU",
            Self::Apple => "an Apple GPU",
        }
    }

    /// The cargo feature that uses its GPUs best.
    pub(super) fn feature(self) -> &'static str {
        match self {
            Self::Nvidia => "cuda",
            Self::Amd | Self::Intel => "wgpu",
            Self::Apple => "metal",
        }
    }

    /// The maker that has this number on the PCI bus. Virtual and server-management adapters have
    /// others; they compute nothing.
    fn of_pci_vendor(vendor: &str) -> Option<Self> {
        match vendor.trim() {
            "0x10de" => Some(Self::Nvidia),
            "0x1002" => Some(Self::Amd),
            "0x8086" => Some(Self::Intel),
            _ => None,
        }
    }
}

/// The makers of the GPUs in this machine that this process may use, each once, NVIDIA first.
pub(super) fn makers() -> Vec<Maker> {
    if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        return vec![Maker::Apple];
    }
    if cfg!(windows) {
        // NVIDIA's driver installs this library; it takes a graphics library to see the others.
        let library = Path::new(r"C:\Windows\System32\nvcuda.dll");
        return library
            .exists()
            .then_some(Maker::Nvidia)
            .into_iter()
            .collect();
    }
    makers_below(Path::new("/"))
}

/// The same on Linux, with another root folder in tests.
fn makers_below(root: &Path) -> Vec<Maker> {
    let mut found = Vec::new();
    if nvidia_devices(root) > 0 {
        found.push(Maker::Nvidia);
    }
    for entry in fs::read_dir(root.join("sys/class/drm"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        // A container sees all cards of the host here, but only its own among the device nodes.
        if name.to_string_lossy().starts_with("renderD")
            && root.join("dev/dri").join(&name).exists()
            && let Ok(vendor) = fs::read_to_string(entry.path().join("device/vendor"))
        {
            found.extend(Maker::of_pci_vendor(&vendor));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Whether this process can see the NVIDIA GPU of that number.
#[cfg(feature = "cuda")]
pub(super) fn has_nvidia(index: usize) -> bool {
    // Elsewhere the driver itself must tell.
    !cfg!(target_os = "linux") || index < nvidia_devices(Path::new("/"))
}

/// Number of NVIDIA's device nodes. A container sees /proc/driver/nvidia even if it was not given
/// the GPU, so only the nodes count.
fn nvidia_devices(root: &Path) -> usize {
    let is_gpu = |name: &str| {
        let number = name.strip_prefix("nvidia");
        // /dev/dxg is the GPU under Windows' Linux subsystem.
        name == "dxg"
            || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let entries = fs::read_dir(root.join("dev"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_gpu))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root folder with these device nodes and PCI vendors of render nodes.
    fn machine(nodes: &[&str], render: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let write = |path: String, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for node in nodes {
            write(format!("dev/{node}"), "");
        }
        for (name, vendor) in render {
            write(
                format!("sys/class/drm/{name}/device/vendor"),
                &format!("{vendor}\n"),
            );
        }
        root
    }

    #[test]
    fn gpus_are_found_by_their_device_nodes() {
        let found =
            |nodes: &[&str], render: &[(&str, &str)]| makers_below(machine(nodes, render).path());
        assert_eq!(found(&[], &[]), []);
        // A render node of NVIDIA's and its driver's node are one GPU.
        let nvidia = ["nvidia0", "nvidiactl", "nvidia-uvm", "dri/renderD128"];
        assert_eq!(found(&nvidia, &[("renderD128", "0x10de")]), [Maker::Nvidia]);
        assert_eq!(found(&["dxg"], &[]), [Maker::Nvidia]);
        let two = [("renderD128", "0x8086"), ("renderD129", "0x1002")];
        let nodes = ["dri/renderD128", "dri/renderD129"];
        assert_eq!(found(&nodes, &two), [Maker::Amd, Maker::Intel]);
    }

    #[test]
    fn what_cannot_be_used_is_no_gpu() {
        let found =
            |nodes: &[&str], render: &[(&str, &str)]| makers_below(machine(nodes, render).path());
        // A virtual adapter, the host's card in a container, a driver without its GPU.
        assert_eq!(found(&["dri/renderD128"], &[("renderD128", "0x1af4")]), []);
        assert_eq!(found(&[], &[("renderD128", "0x1002")]), []);
        assert_eq!(found(&["nvidiactl", "nvidia-caps"], &[]), []);
    }
}
