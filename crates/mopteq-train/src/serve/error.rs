//! Why a server cannot run.

use std::io;
use std::net::SocketAddr;

/// A server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another program listens there.
    #[error("{0} is in use by another program; name another --port, or 0 for any that is free")]
    InUse(SocketAddr),
    /// The machine has no such address.
    #[error("{0} is no address of this machine; name one by --address, such as 127.0.0.1")]
    NoAddress(std::net::IpAddr),
    /// The system does not allow it.
    #[error("the system does not let this user listen at port {0}; name one above 1023 by --port")]
    Forbidden(u16),
    /// Anything else that the system refuses.
    #[error("cannot listen at {address} ({source}); try another --address or --port")]
    Io {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The model's thread ended.
    #[error("the model failed: {0}; if it works with --device cpu, the fault is the device's")]
    Model(String),
}

impl ServeError {
    /// What the system said when it was asked to listen.
    pub(super) fn listening(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(address),
            io::ErrorKind::AddrNotAvailable => Self::NoAddress(address.ip()),
            io::ErrorKind::PermissionDenied => Self::Forbidden(address.port()),
            _ => Self::Io { address, source },
        }
    }
}
