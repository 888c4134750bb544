//! Why a device cannot be used.

use std::net::SocketAddr;
use std::path::PathBuf;

/// There is no such device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The program was built without it.
    #[error("--device {name}: not in this build; build with --features {feature}")]
    NotBuiltIn {
        /// The choice.
        name: String,
        /// The cargo feature that brings it.
        feature: &'static str,
    },
    /// It does not compute in the precision that was asked for.
    #[error(
        "--precision {precision}: {device} does not compute in it; use --precision f32, or another \
         --device"
    )]
    Precision {
        /// The precision.
        precision: &'static str,
        /// Name of the device.
        device: String,
    },
    /// The secret of the workers is missing or unusable.
    #[error("--token-file {file}: {reason}")]
    Token {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A worker cannot be used, or cannot serve.
    #[error("{name}: {reason}")]
    Worker {
        /// The choice, or the worker's address.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A worker is the first of several devices.
    #[error(
        "--devices {name},...: the first of several devices must be of this machine, such as cpu"
    )]
    RemoteFirst {
        /// The choice.
        name: String,
    },
    /// A worker was asked to pass on the device of another.
    #[error("--device {name}: a worker serves a device of its own machine")]
    RemoteWorker {
        /// The choice.
        name: String,
    },
    /// A worker cannot listen at its address.
    #[error("{address}: {reason}; choose another --port or --address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// It is built in, but does not work here.
    #[error("--device {name}: {reason}; use --device cpu, or install the driver")]
    Unusable {
        /// The choice.
        name: String,
        /// What is missing, or the first message of the driver.
        reason: String,
    },
}
