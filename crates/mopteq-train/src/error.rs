//! The error of the whole program, and the errors of parts that may fail for any of its reasons.

use std::path::PathBuf;

use mopteq::lipschitz::LipschitzError;

use crate::crash::Crash;
use crate::{config, data, device, report, run, serve, train};

/// Whatever can go wrong between the command line and the result.
///
/// Every message is one line that names the file or option and, if there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data could not be read.
    #[error(transparent)]
    Data(#[from] data::DataError),
    /// An option or a config file is wrong.
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    /// The run folder could not be used.
    #[error(transparent)]
    Run(#[from] run::RunError),
    /// The device is not available.
    #[error(transparent)]
    Device(#[from] device::DeviceError),
    /// Training did not reach its end.
    #[error(transparent)]
    Train(#[from] train::TrainError),
    /// The weights to start from could not be used.
    #[error(transparent)]
    Weights(#[from] train::WeightsError),
    /// A picture could not be classified.
    #[error(transparent)]
    Predict(#[from] PredictError),
    /// A run has no certificates.
    #[error(transparent)]
    Certify(#[from] CertifyError),
    /// A model could not be exported or imported.
    #[error(transparent)]
    Ship(#[from] ShipError),
    /// A server could not start or go on.
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
    /// The report could not be made.
    #[error(transparent)]
    Report(#[from] report::ReportError),
}

impl Error {
    /// The message as a single line, because messages of other libraries may contain line breaks.
    pub fn one_line(&self) -> String {
        self.to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// A picture could not be classified.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// Some pictures could not be read; the others were answered.
    #[error("{failed} of {total} pictures could not be read; the warnings above say which and why")]
    Some {
        /// Number of pictures that could not be read.
        failed: usize,
        /// Number of all pictures.
        total: usize,
    },
    /// A picture could not be read.
    #[error("{0}")]
    One(String),
    /// The model's numbers are not finite.
    #[error(
        "the model gives no finite numbers for {failed} of {total} pictures: its training diverged; \
         an earlier --checkpoint may be intact"
    )]
    NotFinite {
        /// Number of pictures without finite numbers.
        failed: usize,
        /// Number of all pictures.
        total: usize,
    },
    /// No file of the folder is a picture.
    #[error("{0}: no file in this folder is a picture that can be read")]
    Empty(PathBuf),
    /// The device failed.
    #[error("the prediction failed: {message}; {remedy}")]
    Crashed {
        /// The first thing that went wrong.
        message: String,
        /// What may help.
        remedy: &'static str,
    },
}

impl From<Crash> for PredictError {
    fn from(crash: Crash) -> Self {
        let known = train::remedy(&crash.message);
        let remedy = known.unwrap_or("if it works with --device cpu, the fault is the device's");
        let message = crash.message;
        Self::Crashed { message, remedy }
    }
}

/// A run without certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// Its network has no Lipschitz constant.
    #[error("{run}: {source}")]
    Constant {
        /// The run folder.
        run: String,
        /// Why.
        source: LipschitzError,
    },
}

/// A model could not be written or read. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The ending names no known format.
    #[error(
        "{0}: the name must end in .safetensors or .bpk (Burn's pack); --onnx FILE writes ONNX"
    )]
    Format(PathBuf),
    /// The ending is not that of ONNX.
    #[error("--onnx {0}: the name must end in .onnx")]
    OnnxName(PathBuf),
    /// A graph with this many steps cannot be written.
    #[error("--steps {steps}: a graph takes 1 to {most} steps; leave --steps out for a loop")]
    Steps {
        /// The number asked for.
        steps: usize,
        /// The largest number.
        most: usize,
    },
    /// The file could not be written.
    #[error("{file}: cannot be written ({reason})")]
    Write {
        /// The file.
        file: PathBuf,
        /// What the writer said.
        reason: String,
    },
    /// Something else would be overwritten.
    #[error("{file} exists, and {reason}; choose another name, or remove it")]
    Taken {
        /// The file.
        file: PathBuf,
        /// Why it is not overwritten.
        reason: &'static str,
    },
    /// The file could not be read, or does not fit the config.
    #[error("{file}: cannot be read ({reason})")]
    Read {
        /// The file.
        file: PathBuf,
        /// What the reader said.
        reason: String,
    },
}
