//! The program as a whole.

use std::process::ExitCode;

use super::{parse, run};
use crate::Error;
use crate::train::{StopFlag, TrainError};

/// The exit code that shells report for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// The program `mopteq`, from its command line to its exit code. The process must not have any
/// other thread yet.
pub fn program() -> ExitCode {
    crate::memory::keep_freed_memory();
    prepare_environment();
    crate::crash::install_hook();
    let arguments = parse();
    let stop = StopFlag::default();
    let message = match crate::crash::catch(|| run(arguments, &stop)) {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error @ Error::Train(TrainError::Interrupted { .. }))) => {
            eprintln!("{}", error.one_line());
            return ExitCode::from(INTERRUPTED);
        }
        Ok(Err(error)) => error.one_line(),
        Err(crash) => {
            format!(
                "internal error, please report it: {}",
                crash.message.replace('\n', " ")
            )
        }
    };
    eprintln!("error: {message}");
    ExitCode::FAILURE
}

/// Sets environment variables that keep the libraries below from doing harm.
///
/// - On resume, Burn unpacks the optimiser's state on its default device. This is a GPU backend if
///   one is built in, and it panics without a driver. From the CPU, the state moves to the device
///   of its parameters at the first step.
/// - Burn's server logs to standard output, where it mixes with what a worker prints.
/// - Mesa's layer that orders GPUs asks the desktop, and complains on standard error if there is
///   none. Here GPUs are chosen by name or number.
#[allow(unsafe_code)]
fn prepare_environment() {
    let variables = [
        ("BURN_DEVICE", "flex", cfg!(feature = "flex")),
        (
            "RUST_LOG",
            "off",
            cfg!(feature = "remote") && std::env::var_os("RUST_LOG").is_none(),
        ),
        (
            "NODEVICE_SELECT",
            "1",
            std::env::var_os("XDG_RUNTIME_DIR").is_none(),
        ),
    ];
    for (name, value, wanted) in variables {
        if wanted {
            // SAFETY: the process has no other thread yet that could read the environment.
            unsafe { std::env::set_var(name, value) };
        }
    }
}
