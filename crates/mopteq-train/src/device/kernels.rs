//! Kernels that are compiled at run time, for GPUs: where they are kept, and how many there are.

#[cfg(feature = "gpu")]
use super::compiling;

/// Keeps compiled kernels and tuning results in the folder `kernels` of the cache folder, or
/// nowhere. A GPU's first start takes most of a minute, a later one a second. Call it before
/// [`select`](super::select). Without a GPU in the build, it does nothing.
pub fn keep_kernels(keep: bool) {
    #[cfg(feature = "gpu")]
    {
        compiling::count();
        let folder = keep.then(|| crate::data::cache_folder().join("kernels"));
        deq_kernels::keep_kernels(folder.as_deref());
    }
    #[cfg(not(feature = "gpu"))]
    let _ = keep;
}

/// Kernels that this process has compiled for GPUs so far.
pub fn compiled_kernels() -> usize {
    #[cfg(feature = "gpu")]
    return compiling::compiled();
    #[cfg(not(feature = "gpu"))]
    0
}
