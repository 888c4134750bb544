//! As much of HTTP/1.1 as the server needs: requests with a length, answers, time limits.

mod connection;
mod origin;
mod request;
mod response;

pub(super) use connection::{Handler, serve};
pub(super) use origin::Hosts;
pub(super) use request::{Head, Method};
pub(super) use response::Response;
