//! A trained model behind HTTP: a page to play with, and a JSON service for programs.
//!
//! A thread for each connection reads, decodes and answers; one thread computes. So a client that
//! is slow, sends garbage or hangs up holds its own connection and nothing else.

mod batch;
mod error;
mod http;
mod metrics;
mod model;
mod play;
mod query;
mod queue;
mod room;
mod service;
mod settings;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

pub use error::ServeError;
pub use settings::{ServeSettings, TimeLimits};

use crate::Error;
use crate::predict::Predictor;
use crate::train::StopFlag;
use http::Hosts;
use service::Service;

/// How often the server looks whether it is to stop.
const TICK: Duration = Duration::from_millis(20);
/// The answer to a connection beyond the limit.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Content-Length: 33\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
    {\"error\": \"too many connections\"}";

/// A server that is bound to its port.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    service: Arc<Service>,
    predictor: Predictor,
    settings: ServeSettings,
}

impl Server {
    /// Binds the port. Requests wait until [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// When the system does not let it listen there.
    pub fn bind(predictor: Predictor, settings: &ServeSettings) -> Result<Self, Error> {
        let wanted = SocketAddr::new(settings.address, settings.port);
        let listen = || {
            let listener = TcpListener::bind(wanted)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(|e| ServeError::listening(wanted, e))?;
        let hosts = Hosts::new(address, &settings.hosts);
        Ok(Self {
            service: Service::new(&predictor, settings, hosts),
            listener,
            address,
            predictor,
            settings: settings.clone(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An address for a browser on this machine.
    pub fn url(&self) -> String {
        format!("http://{}/", reachable(self.address))
    }

    /// Answers requests until `stop` is set. What began before then is finished.
    ///
    /// # Errors
    ///
    /// When the model's thread ends before that.
    pub fn run(self, stop: &StopFlag) -> Result<(), Error> {
        let Self {
            listener,
            address,
            service,
            predictor,
            settings,
        } = self;
        let model = {
            let service = service.clone();
            std::thread::spawn(move || {
                let _closed = Closed(&service);
                crate::crash::catch(|| service.compute(&predictor))
            })
        };
        let accepting = {
            let service = service.clone();
            std::thread::spawn(move || accept(&listener, &service, &settings))
        };
        while !stop.is_set() && !model.is_finished() {
            std::thread::sleep(TICK);
        }
        service.stopping.store(true, Relaxed);
        service.queue.hurry();
        // The thread that accepts sleeps until somebody comes.
        let _ = TcpStream::connect_timeout(&reachable(address), Duration::from_secs(1));
        let _ = accepting.join();
        let deadline = Instant::now() + service.patience();
        while service.connections.load(Relaxed) > 0 && Instant::now() < deadline {
            std::thread::sleep(TICK);
        }
        service.queue.close();
        match model.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(crash)) => Err(ServeError::Model(crash.message).into()),
            Err(_) => Err(ServeError::Model("its thread ended".into()).into()),
        }
    }
}

/// Closes the queue when the model's thread ends, however it does, so that nobody waits for it.
struct Closed<'a>(&'a Service);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.computing.store(false, Relaxed);
        self.0.queue.close();
    }
}

/// An address at which a connection reaches this server.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn accept(listener: &TcpListener, service: &Arc<Service>, settings: &ServeSettings) {
    while !service.stopping.load(Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            // Too many open files, say: others will be closed.
            std::thread::sleep(TICK);
            continue;
        };
        if service.stopping.load(Relaxed) {
            return;
        }
        let open = Open::new(service.clone());
        if service.connections.load(Relaxed) > settings.connections {
            turn_away(&stream, service);
            continue;
        }
        let limits = settings.limits;
        let spawned = std::thread::Builder::new().spawn(move || {
            // A fault ends only this connection.
            let work = || http::serve(stream, &*open.0, &limits);
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        });
        if spawned.is_err() {
            service.metrics.turned_away.fetch_add(1, Relaxed);
        }
    }
}

fn turn_away(mut stream: &TcpStream, service: &Service) {
    service.metrics.turned_away.fetch_add(1, Relaxed);
    // Never waits: the answer fits into the empty buffer of a new connection.
    let _ = stream.set_nonblocking(true);
    let _ = stream.write(FULL);
}

/// An open connection.
struct Open(Arc<Service>);

impl Open {
    fn new(service: Arc<Service>) -> Self {
        service.connections.fetch_add(1, Relaxed);
        Self(service)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}
