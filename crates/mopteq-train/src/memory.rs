//! The allocator of the program.

/// Lets mimalloc, if it is the allocator, keep freed memory instead of giving it back to the
/// system after a second. A training step constantly frees and allocates the same large blocks, and
/// the kernel clears every page before it hands it out again. The peak stays the same. Call it in
/// the first lines of `main`.
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    // From `mi_option_t` in mimalloc.h; the crate does not name it.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const NEVER: std::ffi::c_long = -1;
    // SAFETY: sets a number that the allocator reads.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) };
}
