//! The kernels, in CubeCL's language.

// A kernel's parameters are its buffers; comptime loops index several lists.
#![allow(clippy::too_many_arguments, clippy::needless_range_loop)]

pub(super) mod correlate;
mod elementwise;
pub(super) mod norm;
pub(super) mod step;
pub(super) mod vectors;

/// Output rows that a unit computes at once.
pub(super) const ROWS: usize = 4;
/// Output channels that a unit computes at once.
pub(super) const BLOCK: usize = 8;
/// Channels of W z that a unit of the kernel gradient handles.
pub(super) const GRADIENT_BLOCK: usize = 4;
/// Pixels that such a unit reads from shared memory at once.
pub(super) const GRADIENT_COLUMNS: usize = 4;
