//! Devices of other machines, by Burn's own remote backend: a worker serves its device, and a
//! training sends it operations on tensors. The tape and the solvers stay with the training.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use burn::prelude::Device;
use burn::remote::{ConnectError, RemoteHost};
use burn::server::{AuthorizationRequest, RemoteServer, WebSocketTransport};

use super::error::DeviceError;
use super::selected::{SelectedDevice, probed};
use super::token::Token;
use crate::progress::{note, warn};

/// How long a worker may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to the worker at `host:port`.
///
/// # Errors
///
/// When nothing answers there, or the worker refuses.
#[cfg_attr(feature = "gpu", allow(dead_code))]
pub(super) fn connect(
    address: &str,
    token: &Token,
    reason: String,
) -> Result<SelectedDevice, DeviceError> {
    let name = format!("remote:{address}");
    let failed = |reason: String| DeviceError::Worker {
        name: name.clone(),
        reason,
    };
    reach(address).map_err(|reason| {
        failed(format!(
            "no worker answers there ({reason}); start one with mopteq worker"
        ))
    })?;
    let url = format!("ws://{address}");
    let host = RemoteHost::websocket(&url).with_credential(token.credential());
    let device = Device::remote_options(&host).init();
    let device = device.map_err(|error| match error {
        ConnectError::Unauthorized => failed(
            "it refuses: its token is another (--token-file), or it is another version of this \
             program; its output says which"
                .into(),
        ),
        error => failed(error.to_string()),
    })?;
    probed(name, device, reason)
}

/// Checks whether anything listens at an address. Burn would try for 16 s if nobody listens, and as
/// long as the system does if nothing answers.
fn reach(address: &str) -> Result<(), String> {
    let places = address.to_socket_addrs().map_err(|e| e.to_string())?;
    let mut reason = "the name has no address".to_owned();
    for place in places {
        match TcpStream::connect_timeout(&place, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

/// A device that trainings on other machines can use.
pub struct Worker {
    server: RemoteServer,
    listener: TcpListener,
}

impl Worker {
    /// Binds an address for a device.
    ///
    /// # Errors
    ///
    /// When the address is taken or not this machine's.
    pub fn bind(
        device: &SelectedDevice,
        address: IpAddr,
        port: u16,
        token: Token,
    ) -> Result<Self, DeviceError> {
        let address = SocketAddr::new(address, port);
        let listener = TcpListener::bind(address).map_err(|source| DeviceError::Listen {
            address,
            reason: source.to_string(),
        })?;
        let authorize = move |request: AuthorizationRequest<'_>| {
            let checked = token.check(request.credential.as_bytes());
            match &checked {
                Ok(()) => note(format_args!("session  {}", request.client)),
                Err(why) => warn(format_args!("{} is refused: {why}", request.client)),
            }
            checked
        };
        let server = RemoteServer::new([device.device.clone()]).with_authorizer(authorize);
        Ok(Self { server, listener })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until Ctrl-C or SIGTERM.
    ///
    /// # Errors
    ///
    /// When the server cannot start.
    pub fn run(self) -> Result<(), DeviceError> {
        let address = self.address();
        let transport = WebSocketTransport::from_listener(self.listener);
        self.server
            .serve(transport)
            .map_err(|error| DeviceError::Worker {
                name: address.map_or("worker".into(), |address| address.to_string()),
                reason: error.to_string(),
            })
    }
}
