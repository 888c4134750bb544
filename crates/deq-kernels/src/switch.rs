//! The choice between the fast forms and the portable ones, by the program or by the environment.

use std::cell::Cell;
use std::sync::LazyLock;

/// Whether the environment asks for the portable forms everywhere.
static ASKED: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("DEQ_KERNELS_PORTABLE").is_some_and(|v| v != "0"));

/// Whether the processor's tile unit may be used. The environment variable `DEQ_KERNELS_TILES=0`
/// forbids it; the program then sums as on a machine without one.
#[cfg(feature = "flex")]
pub(crate) fn tiles() -> bool {
    std::env::var_os("DEQ_KERNELS_TILES").is_none_or(|v| v != "0")
}

thread_local! {
    static HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the CPU's fast forms decline.
#[cfg_attr(not(feature = "flex"), allow(dead_code))]
pub(crate) fn portable() -> bool {
    HERE.get() || *ASKED
}

/// Runs `run` with the portable forms where the CPU would have faster ones, on this thread and in
/// the tasks of [`side_by_side`]. Tests compare the two. The environment variable
/// `DEQ_KERNELS_PORTABLE=1` does the same for a whole program.
///
/// The history of a solve cannot change its form midway, so run a solve as a whole.
pub fn portably<R>(run: impl FnOnce() -> R) -> R {
    within(true, run)
}

/// Runs with the switch in this position, then restores it, even after a panic.
fn within<R>(position: bool, run: impl FnOnce() -> R) -> R {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            HERE.set(self.0);
        }
    }
    let _back = Back(HERE.replace(position));
    run()
}

/// Runs tasks on all cores if the CPU backend is built in, otherwise one after the other.
pub fn side_by_side<T: Send, R: Send>(tasks: Vec<T>, run: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
    #[cfg(feature = "flex")]
    {
        use rayon::prelude::*;
        let position = HERE.get();
        let task = |task| within(position, || run(task));
        tasks.into_par_iter().map(task).collect()
    }
    #[cfg(not(feature = "flex"))]
    tasks.into_iter().map(run).collect()
}
