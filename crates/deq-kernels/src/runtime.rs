//! Kernels that are compiled at run time: where they are stored, and how often they are launched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use burn::tensor::Device;
use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, TypeNameFormatLevel, type_name_format};
use cubecl::logging::{Duration, LaunchObservation, LaunchObserver, TimingMethod, TimingRequest};

/// Asks CubeCL to keep compiled kernels and tuning results in this folder, or nowhere. A
/// `cubecl.toml` that names its own folder takes precedence.
///
/// Call this before the first use of a GPU. Later calls have no effect.
pub fn keep_kernels(folder: Option<&Path>) {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    match folder {
        Some(folder) => {
            #[cfg(feature = "persistence")]
            {
                config.compilation.cache = true;
            }
            if matches!(config.environment.path, CacheConfig::Target) {
                config.environment.path = CacheConfig::Directory(folder.to_owned());
            }
        }
        None => {
            #[cfg(feature = "persistence")]
            {
                config.compilation.cache = false;
            }
            config.autotune.disable_cache = true;
        }
    }
    CubeClRuntimeConfig::try_set(config);
}

/// Uses a separate file for this model of device and this version of the program, and returns the
/// file. Tuning results do not record the GPU on which they were found.
pub fn separate_kernels(device: &Device, version: &str) -> Option<PathBuf> {
    let identity = device.as_dispatch().identity()?;
    cubecl::environment::activate(format!("{version}-{}", identity.name));
    cfg!(feature = "persistence").then(cubecl::environment::path)
}

/// How often a kernel was launched, and its time on the device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Launches {
    /// The kernel's name. Variants for other shapes share it.
    pub kernel: String,
    /// Launches.
    pub count: usize,
    /// Total seconds on the device over all launches; 0 if they were not timed.
    pub seconds: f64,
}

#[derive(Default)]
struct Observer {
    timed: bool,
    seen: Mutex<BTreeMap<&'static str, (usize, f64)>>,
}

impl Observer {
    fn add(&self, kernel: &'static str, count: usize, seconds: f64) {
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        let entry = seen.entry(kernel).or_default();
        entry.0 += count;
        entry.1 += seconds;
    }
}

impl LaunchObserver for Observer {
    fn launched(&self, kernel: &'static str) {
        self.add(kernel, 1, 0.0);
    }

    fn timing(&self) -> TimingRequest {
        match self.timed {
            true => TimingRequest::Resolved,
            false => TimingRequest::None,
        }
    }

    fn timed(&self, kernel: &'static str, duration: Duration, _: TimingMethod) {
        self.add(kernel, 0, duration.as_secs_f64());
    }
}

/// Records the launches of the whole process while `run` runs. Returns the kernels with the longest
/// time first; at equal times, those with the most launches come first. With `timed`, kernels run
/// one at a time. Synchronise the device at the end of `run`: work that is still queued is not
/// counted.
pub fn watch_launches<R>(timed: bool, run: impl FnOnce() -> R) -> (R, Vec<Launches>) {
    let observer = Arc::new(Observer {
        timed,
        ..Observer::default()
    });
    let observation = LaunchObservation::new(observer.clone());
    let result = run();
    drop(observation);
    let seen = observer.seen.lock().unwrap_or_else(|e| e.into_inner());
    let name = |kernel| type_name_format(kernel, TypeNameFormatLevel::Balanced);
    let launches = seen.iter().map(|(kernel, (count, seconds))| Launches {
        kernel: name(kernel),
        count: *count,
        seconds: *seconds,
    });
    let mut launches: Vec<Launches> = launches.collect();
    launches.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then(b.count.cmp(&a.count)));
    (result, launches)
}
