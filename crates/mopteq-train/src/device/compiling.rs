//! Counts the compiled kernels by listening to CubeCL's log.

use std::sync::atomic::{AtomicUsize, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};

static COMPILED: AtomicUsize = AtomicUsize::new(0);

/// Kernels that this process has compiled so far.
pub(crate) fn compiled() -> usize {
    COMPILED.load(Ordering::Relaxed)
}

/// Starts to count. If there is a logger already, it stays, and nothing is counted.
pub(super) fn count() {
    if log::set_logger(&Counter).is_ok() {
        log::set_max_level(LevelFilter::Trace);
    }
}

struct Counter;

impl Log for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        metadata.level() >= Level::Debug
            && ["cubecl_cuda", "cubecl_hip", "cubecl_wgpu"]
                .iter()
                .any(|name| target.starts_with(name))
    }

    fn log(&self, record: &Record<'_>) {
        // What CubeCL logs before it compiles: "Compiling kernel", "Compiling NAME", or a whole
        // WGSL module, which can be told from other messages without formatting it.
        let compiles = self.enabled(record.metadata())
            && match (record.args().as_str(), record.level()) {
                (Some(text), _) => text.starts_with("Compiling"),
                (None, Level::Debug) => record.args().to_string().starts_with("Compiling"),
                (None, _) => record.target() == "cubecl_wgpu::backend::base",
            };
        if compiles {
            COMPILED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}
