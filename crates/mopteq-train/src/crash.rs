//! Panics of the libraries underneath, turned into errors.
//!
//! Burn panics where a device is lost or a background thread fails, often on several threads at
//! once. The first panic says what happened; the others are its echo.

use std::backtrace::Backtrace;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The record of a panic.
#[derive(Clone, Debug)]
pub struct Crash {
    /// The message of the first panic.
    pub message: String,
    /// Its place in the source and the stack there; empty if they are unknown.
    pub backtrace: String,
}

/// The first panic since the last [`catch`] began.
static FIRST: Mutex<Option<Crash>> = Mutex::new(None);

fn first() -> MutexGuard<'static, Option<Crash>> {
    FIRST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on panics print nothing: the first one is kept for [`catch`] to report.
pub fn install_hook() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let place = info
            .location()
            .map(|place| format!("at {place}\n"))
            .unwrap_or_default();
        first().get_or_insert_with(|| Crash {
            message: text(info.payload()),
            backtrace: format!("{place}{}", Backtrace::force_capture()),
        });
    }));
}

/// Runs `work`, and reports a panic as an error: the first one on any thread, if the hook is
/// installed, or else the one that arrived here.
///
/// # Errors
///
/// When `work` panics.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Crash> {
    first().take();
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let here = Crash {
            message: text(&*payload),
            backtrace: String::new(),
        };
        first().take().unwrap_or(here)
    })
}

fn text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("unknown cause").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        assert_eq!(catch(|| 3).unwrap(), 3);
        let crash = catch(|| -> () { panic!("number {}", 4) }).unwrap_err();
        assert!(crash.message.starts_with("number 4"));
    }
}
