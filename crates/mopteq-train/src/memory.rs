//! The allocator of the program.

/// Lets mimalloc, where it is the allocator, keep freed memory instead of giving it back to the
/// system after a second: a training step frees and takes the same large blocks all the time, and
/// the kernel clears every page that it hands out anew. The peak stays what it was. For the first
/// lines of `main`.
#[allow(unsafe_code)]
pub fn keep_freed_memory() {
    // Of `mi_option_t` in mimalloc.h; the crate does not name it.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    const NEVER: std::ffi::c_long = -1;
    // SAFETY: sets a number that the allocator reads.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) };
}
