//! The error of the whole program.

use crate::{config, data, device, predict, report, run, serve, ship, train};

/// Whatever can go wrong between the command line and the result.
///
/// Every message is one line that names the file or option and, where there is one, the remedy.
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
    /// The device is not there.
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
    Predict(#[from] predict::PredictError),
    /// A model could not be exported or imported.
    #[error(transparent)]
    Ship(#[from] ship::ShipError),
    /// A server could not start or go on.
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
    /// The report could not be made.
    #[error(transparent)]
    Report(#[from] report::ReportError),
}

impl Error {
    /// The message as a single line, for messages of other libraries may contain line breaks.
    pub fn one_line(&self) -> String {
        self.to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }
}
