//! The program `mopteq`: train, evaluate and use equilibrium image classifiers.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use mopteq_train::Error;
use mopteq_train::train::{StopFlag, TrainError};

/// What shells report of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    unpack_state_on_the_cpu();
    mopteq_train::crash::install_hook();
    let arguments = cli::Arguments::parse();
    let stop = StopFlag::default();
    let message = match mopteq_train::crash::catch(|| cli::run(arguments, &stop)) {
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

/// On resume Burn unpacks the optimiser's state on its default device, which is a GPU backend
/// when one is built in, and panics where there is no driver for it. From the CPU, the state goes
/// to the device of its parameters at the first step.
fn unpack_state_on_the_cpu() {
    #[cfg(feature = "flex")]
    #[allow(unsafe_code)]
    // SAFETY: the process has no other thread yet that could read the environment.
    unsafe {
        std::env::set_var("BURN_DEVICE", "flex");
    }
}
