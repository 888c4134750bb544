//! `mopteq export` and `import`.

use std::path::PathBuf;

use clap::Args;

use mopteq_train::Error;
use mopteq_train::progress::say;
use mopteq_train::ship;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mopteq export --run runs/digits-1 digits.safetensors\n  \
    mopteq export --run runs/digits-1 --checkpoint best digits.bpk")]
pub struct ExportArguments {
    #[command(flatten)]
    run: super::RunArguments,
    /// The file: .safetensors, or .bpk for Burn's own pack. Its config goes beside it, as .json.
    file: PathBuf,
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
    device: super::DeviceArgument,
}

pub fn export(arguments: &ExportArguments) -> Result<(), Error> {
    let (_, predictor) = arguments.run.predictor()?;
    ship::export(&predictor, &arguments.file)?;
    say(format_args!(
        "model in {}, its config in {}",
        arguments.file.display(),
        ship::config_path(&arguments.file).display()
    ));
    Ok(())
}

pub fn import(arguments: &ImportArguments) -> Result<(), Error> {
    let device = arguments.device.select()?;
    let run = ship::import(&arguments.file, &arguments.out, &device)?;
    say(format_args!("run folder {}", run.path().display()));
    Ok(())
}
