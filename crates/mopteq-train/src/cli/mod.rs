//! The command line: what may be asked for, and what is answered.

mod bench;
mod certify;
mod data;
mod model;
pub mod program;
mod runs;
mod serve;
mod settings;
mod shared;
mod ship;
mod train;
#[cfg(feature = "remote")]
mod worker;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::Error;
use crate::device::keep_kernels;
use crate::progress::say;
use crate::train::StopFlag;

/// Train, evaluate and use equilibrium image classifiers. Without a command: train.
#[derive(Parser)]
#[command(
    name = "mopteq",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        mopteq                                       train on the embedded digits\n  \
        mopteq train --epochs 3 --out runs/short     a shorter training\n  \
        mopteq train --data cifar10                  train on CIFAR-10\n  \
        mopteq train --data photos/ --size 64        your own pictures, a folder a class\n  \
        mopteq train --resume runs/digits-1          go on after an interruption\n  \
        mopteq eval --run runs/digits-1              accuracy, calibration, solver cost\n  \
        mopteq predict --run runs/digits-1 five.png  classify a picture\n  \
        mopteq certify --run runs/digits-1 five.png  how far it may change\n  \
        mopteq play --run runs/digits-1              draw one and watch its equilibrium\n  \
        mopteq runs                                  compare runs"
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: train::TrainArguments,
    /// Answer in JSON, for machines.
    #[arg(long, global = true)]
    json: bool,
    /// Compile and tune a GPU's kernels at every start, instead of keeping them in the user's cache
    /// folder.
    #[arg(long, global = true)]
    no_kernel_cache: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model, or resume an interrupted training.
    #[command(after_help = "Examples:\n  \
        mopteq train --epochs 3 --out runs/short\n  \
        mopteq train --data cifar10 --data-path ~/cifar --epochs 2 --limit 2000 --test-limit 500\n  \
        mopteq train --data photos/ --config options.toml --set model.core.channels=48\n  \
        mopteq train --from runs/digits-1 --data photos/ --epochs 10\n  \
        mopteq train --resume runs/digits-1 --device cuda")]
    Train(Box<train::TrainArguments>),
    /// Measure a trained model on the test part of its data.
    Eval(model::EvalArguments),
    /// Classify picture files, or folders of them.
    Predict(model::PredictArguments),
    /// Look inside: how one picture's equilibrium is found, and what it looks like.
    Inspect(model::InspectArguments),
    /// Say how far a picture may change before its class can: certified radii.
    Certify(certify::CertifyArguments),
    /// Open a local page: draw or drop a picture, and watch its equilibrium being found.
    Play(serve::PlayArguments),
    /// Answer other programs: pictures in, classes out, as JSON over HTTP.
    Serve(serve::ServeArguments),
    /// Write the report of a run again.
    Report(model::ReportArguments),
    /// List and compare runs.
    Runs(runs::RunsArguments),
    /// List, get, check and show data sets.
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Write a trained model to a file that other programs can read.
    Export(ship::ExportArguments),
    /// Make a run folder from an exported model.
    Import(ship::ImportArguments),
    /// Measure how fast batches are prepared and trained on.
    Bench(Box<bench::BenchArguments>),
    /// Compile and tune a GPU's kernels before a training.
    Warm(Box<bench::WarmArguments>),
    /// Let trainings on other machines use a device of this machine.
    #[cfg(feature = "remote")]
    Worker(worker::WorkerArguments),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  \
        mopteq completions bash > ~/.local/share/bash-completion/completions/mopteq")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the man page.
    #[command(after_help = "Example:\n  mopteq man > ~/.local/share/man/man1/mopteq.1")]
    Man,
}

/// Reads the command line, or ends the program with a message about what is wrong with it.
pub fn parse() -> Arguments {
    Arguments::try_parse().unwrap_or_else(|mut error| {
        train::explain(&mut error);
        error.exit()
    })
}

/// Runs the requested command.
pub fn run(arguments: Arguments, stop: &StopFlag) -> Result<(), Error> {
    let json = arguments.json;
    keep_kernels(!arguments.no_kernel_cache);
    match arguments.command {
        None => train::run(&arguments.train, json, stop),
        Some(Command::Train(arguments)) => train::run(&arguments, json, stop),
        Some(Command::Eval(arguments)) => model::eval(&arguments, json),
        Some(Command::Predict(arguments)) => model::predict(&arguments, json),
        Some(Command::Inspect(arguments)) => model::inspect(&arguments, json),
        Some(Command::Certify(arguments)) => certify::run(&arguments, json),
        Some(Command::Play(arguments)) => serve::play(&arguments, json, stop),
        Some(Command::Serve(arguments)) => serve::serve(&arguments, json, stop),
        Some(Command::Report(arguments)) => model::report(&arguments),
        Some(Command::Runs(arguments)) => runs::run(&arguments, json),
        Some(Command::Data(command)) => data::run(&command, json),
        Some(Command::Export(arguments)) => ship::export(&arguments),
        Some(Command::Import(arguments)) => ship::import(&arguments),
        Some(Command::Bench(arguments)) => bench::run(&arguments, json),
        Some(Command::Warm(arguments)) => bench::warm(&arguments, json),
        #[cfg(feature = "remote")]
        Some(Command::Worker(arguments)) => worker::run(&arguments, json),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "mopteq", &mut script);
            say(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
        Some(Command::Man) => {
            let mut page = Vec::new();
            // Writing into memory cannot fail.
            let _ = clap_mangen::Man::new(Arguments::command()).render(&mut page);
            say(String::from_utf8_lossy(&page).trim_end());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
