//! The program `mopteq`: train, evaluate and use equilibrium image classifiers.

use std::process::ExitCode;

/// Training constantly allocates and frees the same large blocks of memory. The system's allocator
/// gives them back to the kernel, which clears every page again: a tenth of a step on the CPU.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mopteq_train::program()
}
