//! `mopteq export` and `import`.

use std::path::PathBuf;

use clap::Args;

use crate::Error;
use crate::card::{self, Card, Exported};
use crate::onnx::{self, Iteration, OPSETS};
use crate::progress::{note, say};
use crate::ship;

use super::shared::{DeviceArgument, RunArguments};

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mopteq export --run runs/digits-1 digits.safetensors\n  \
    mopteq export --run runs/digits-1 --checkpoint best digits.bpk\n  \
    mopteq export --run runs/digits-1 --onnx digits.onnx            a loop that ends by its residual\n  \
    mopteq export --run runs/digits-1 --onnx digits.onnx --steps 8  eight plain steps")]
pub struct ExportArguments {
    #[command(flatten)]
    run: RunArguments,
    /// The file of the weights: .safetensors, or .bpk for Burn's own pack. Its config goes beside
    /// it, as .json, and a model card, as README.md.
    #[arg(required_unless_present = "onnx")]
    file: Option<PathBuf>,
    /// Also write the network as an ONNX graph. With --steps K, an equilibrium is K plain steps;
    /// without it, a loop that ends by the tolerance of the run.
    #[arg(long, value_name = "FILE")]
    onnx: Option<PathBuf>,
    /// The version of ONNX's operators, 21 to 28, for runtimes that do not read the current one.
    #[arg(
        long,
        value_name = "VERSION",
        requires = "onnx",
        default_value_t = OPSETS[1],
        value_parser = clap::value_parser!(i64).range(OPSETS[0]..=OPSETS[1])
    )]
    opset: i64,
}

#[derive(Args)]
#[command(after_help = "Example:\n  mopteq import digits.safetensors --out runs/imported")]
pub struct ImportArguments {
    /// An exported model, with its config beside it.
    file: PathBuf,
    /// The run folder to make; must be new or empty.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
}

pub fn export(arguments: &ExportArguments) -> Result<(), Error> {
    let (run, predictor) = arguments.run.predictor()?;
    if let Some(file) = &arguments.file {
        ship::export(&predictor, file)?;
        say(format_args!(
            "model in {}, its config in {}",
            file.display(),
            ship::config_path(file).display()
        ));
    }
    let mut solver = String::new();
    if let Some(file) = &arguments.onnx {
        let iteration = arguments
            .run
            .steps
            .map_or(Iteration::Loop, Iteration::Steps);
        solver = onnx::export(&predictor, file, iteration, arguments.opset)?;
        say(format_args!("ONNX graph in {}: {solver}", file.display()));
    }
    let exported = Exported {
        weights: arguments.file.as_deref(),
        onnx: arguments.onnx.as_deref().map(|file| (file, &*solver)),
    };
    match card::write(&predictor, &run, exported)? {
        Card::Written(path) => say(format_args!("model card in {}", path.display())),
        Card::Left(path, reason) => note(format_args!(
            "no model card: {} exists, and {reason}; export into another folder for one",
            path.display()
        )),
    }
    Ok(())
}

pub fn import(arguments: &ImportArguments) -> Result<(), Error> {
    let device = arguments.device.select()?;
    let run = ship::import(&arguments.file, &arguments.out, &device)?;
    say(format_args!("run folder {}", run.path().display()));
    Ok(())
}
