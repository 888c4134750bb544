//! Settings of a server.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Settings of a [`Server`](super::Server).
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// The address to listen on. Default: loopback, which other machines cannot reach.
    pub address: IpAddr,
    /// The port; 0 takes any that is free. Default: 7878
    pub port: u16,
    /// Further names by which clients reach the server.
    pub hosts: Vec<String>,
    /// Whether there is a page to play with. Default: no
    pub page: bool,
    /// Largest number of bytes in a request. Default: 16 MiB
    pub most_bytes: u64,
    /// Largest number of pixels in a picture. Default: 64 million
    pub most_pixels: u64,
    /// Pictures that may wait for the model; further requests get the status 429. Default: 256
    pub queue: usize,
    /// How long a picture waits for others to be answered in one batch. Default: 2 ms
    pub batch_wait: Duration,
    /// Largest number of open connections. Default: 256
    pub connections: usize,
    /// Time limits of a connection.
    pub limits: TimeLimits,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 7878,
            hosts: Vec::new(),
            page: false,
            most_bytes: 16 << 20,
            most_pixels: 64_000_000,
            queue: 256,
            batch_wait: Duration::from_millis(2),
            connections: 256,
            limits: TimeLimits::new(Duration::from_secs(30)),
        }
    }
}

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// Between two requests.
    pub idle: Duration,
    /// For the head of a request.
    pub head: Duration,
    /// For its body.
    pub body: Duration,
    /// For the model's answer.
    pub answer: Duration,
    /// For the client to take the answer.
    pub write: Duration,
}

impl TimeLimits {
    /// This limit on a body, an answer and its way back; a third of it for a head; twice as much
    /// between requests.
    pub fn new(limit: Duration) -> Self {
        Self {
            idle: 2 * limit,
            head: limit / 3,
            body: limit,
            answer: limit,
            write: limit,
        }
    }
}
