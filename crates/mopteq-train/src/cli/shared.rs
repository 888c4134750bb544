//! What several commands have in common.

use std::path::PathBuf;

use clap::Args;

use crate::Error;
use crate::checkpoint::Which;
use crate::data::DataSource;
use crate::device::{DeviceChoice, SelectedDevice, select_with};
use crate::predict::Predictor;
use crate::run::RunFolder;
use crate::train::StopFlag;

/// Where runs are put unless told otherwise.
pub const RUNS: &str = "runs";

#[derive(Args)]
pub struct DeviceArgument {
    /// Device to compute on: auto, cpu, wgpu, vulkan, metal, cuda or rocm, with a number as in
    /// cuda:1 if there are several, or the device of a worker as in remote:10.0.0.2:7879.
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    #[command(flatten)]
    pub token: TokenArgument,
}

impl DeviceArgument {
    pub fn select(&self) -> Result<SelectedDevice, Error> {
        self.token.select(&self.device)
    }
}

/// The secret that workers ask for.
#[derive(Args)]
pub struct TokenArgument {
    /// File with the secret that workers ask for [default: mopteq/worker-token in the user's folder
    /// of settings].
    #[cfg(feature = "remote")]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArgument {
    /// The device for a choice.
    pub fn select(&self, choice: &DeviceChoice) -> Result<SelectedDevice, Error> {
        #[cfg(feature = "remote")]
        let file = self.token_file.as_deref();
        #[cfg(not(feature = "remote"))]
        let file = None;
        Ok(select_with(choice.clone(), file)?)
    }

    #[cfg(feature = "remote")]
    pub fn file(&self) -> PathBuf {
        let file = self.token_file.clone();
        file.unwrap_or_else(crate::device::Token::default_file)
    }
}

/// Where the data of an existing run are.
#[derive(Args)]
pub struct MovedData {
    /// Where the data of the run are now, if they have moved.
    #[arg(long, value_name = "PATH")]
    data: Option<String>,
}

impl MovedData {
    pub fn source(&self) -> Result<Option<DataSource>, Error> {
        let source = self.data.as_deref();
        Ok(source
            .map(|name| DataSource::from_name(name, None))
            .transpose()?)
    }
}

#[derive(Args)]
pub struct RunArguments {
    /// Folder of a trained run.
    #[arg(long, value_name = "FOLDER")]
    pub run: PathBuf,
    /// Which checkpoint: last, best (by validation accuracy), or the number of an epoch.
    #[arg(long, value_parser = which_parser, default_value = "last")]
    checkpoint: Which,
    /// Largest number of solver steps [default: that of the run].
    #[arg(long, value_name = "STEPS")]
    pub steps: Option<usize>,
    /// Exactly --steps plain steps z -> f(z) from 0 in place of the solver, as in an ONNX graph.
    #[arg(long, requires = "steps")]
    plain_steps: bool,
    /// Whether a picture's logits are averaged with those of its mirror image [default: as in the
    /// run].
    #[arg(long, value_name = "BOOL")]
    flip: Option<bool>,
    #[command(flatten)]
    device: DeviceArgument,
}

impl RunArguments {
    pub fn predictor(&self) -> Result<(RunFolder, Predictor), Error> {
        let run = RunFolder::open(&self.run)?;
        let device = self.device.select()?;
        let mut predictor = Predictor::load(&run, self.checkpoint, device, self.steps)?;
        if let Some(steps) = self.steps.filter(|_| self.plain_steps) {
            predictor = predictor.with_plain_steps(steps);
        }
        if let Some(flip) = self.flip {
            predictor = predictor.with_flip(flip);
        }
        Ok((run, predictor))
    }
}

/// A finite number from the command line. JSON has no NaN and no infinity, so such a setting would
/// be lost.
pub fn finite(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    match number.is_finite() {
        true => Ok(number),
        false => Err("expected a finite number".into()),
    }
}

pub fn which_parser(text: &str) -> Result<Which, &'static str> {
    match text {
        "last" => Ok(Which::Last),
        "best" => Ok(Which::Best),
        _ => text
            .parse()
            .map(Which::Epoch)
            .map_err(|_| "expected last, best or an epoch"),
    }
}

/// Ctrl-C and SIGTERM ask the program to finish and stop; a second one stops it at once. On a
/// system without signals, nothing can ask it.
pub fn stop_on_signals(stop: &StopFlag) {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag::{register, register_conditional_shutdown};
    for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
        // In this order: the first signal finds the flag unset and sets it.
        let _ = register_conditional_shutdown(signal, code, stop.shared());
        let _ = register(signal, stop.shared());
    }
}
