//! Reading a request within time limits.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Response;
use crate::serve::room::Hold;

/// Largest number of bytes in a head.
const LONGEST_HEAD: usize = 16 << 10;
const MOST_HEADERS: usize = 64;
/// How often a wait looks whether the server stops.
const TICK: Duration = Duration::from_millis(100);
/// Bytes that are read at once.
const BLOCK: usize = 16 << 10;

/// The methods that are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    Post,
    /// Any other.
    Other,
}

/// A request without its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// What comes before the question mark.
    pub(crate) path: String,
    /// What comes after it.
    pub(crate) query: String,
    headers: Vec<(String, String)>,
    /// Whether the connection can take another request.
    pub(super) keep: bool,
    /// Bytes of the body.
    pub(super) length: u64,
}

impl Head {
    /// The header of this name, in lower case, if there is exactly one.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }

    /// The headers of this name, in lower case.
    pub(crate) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.headers.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_str())
    }

    /// A head from its bytes; `None` if it is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Response> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Response::error(431, "the request has too many headers"));
            }
            Err(error) => {
                let message = format!("not a request of HTTP/1.1 ({error})");
                return Err(Response::error(400, &message));
            }
        };
        let method = match request.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            Some("POST") => Method::Post,
            _ => Method::Other,
        };
        let target = request.path.unwrap_or_default();
        // The absolute form that proxies send.
        let target = match target.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let text = |header: &httparse::Header<'_>| {
            let value = String::from_utf8_lossy(header.value).trim().to_owned();
            (header.name.to_ascii_lowercase(), value)
        };
        let mut head = Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            headers: request.headers.iter().map(text).collect(),
            keep: false,
            length: 0,
        };
        let says = |wanted: &str| {
            let mut parts = head.headers("connection").flat_map(|v| v.split(','));
            parts.any(|part| part.trim().eq_ignore_ascii_case(wanted))
        };
        head.keep = match request.version {
            Some(1) => !says("close"),
            _ => says("keep-alive") && !says("close"),
        };
        head.length = head.body_length()?;
        Ok(Some((head, length)))
    }

    /// Behind a shared proxy, two readings of where a body ends would let one client slip requests
    /// into the answers of another. So there must be only one reading.
    fn body_length(&self) -> Result<u64, Response> {
        if self.headers("transfer-encoding").next().is_some() {
            let message = "the body needs a Content-Length; a chunked one is not taken";
            return Err(Response::error(411, message));
        }
        let mut lengths = self.headers("content-length");
        let Some(first) = lengths.next() else {
            return Ok(0);
        };
        let digits = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
        match first.parse() {
            Ok(length) if digits && lengths.all(|other| other == first) => Ok(length),
            _ => Err(Response::error(400, "the Content-Length is not a number")),
        }
    }
}

/// What ended the reading of a request.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection is closed, broken, or no longer wanted: nobody waits for an answer.
    Gone,
    /// This is the answer, and the connection ends with it.
    Answer(Response),
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// A connection with what was read ahead.
pub(super) struct Reader {
    pub(super) stream: TcpStream,
    ahead: Vec<u8>,
}

impl Reader {
    pub(super) fn new(stream: TcpStream) -> Self {
        let ahead = Vec::new();
        Self { stream, ahead }
    }

    /// The next request without its body. Waits up to `idle` for its first byte, unless `stops`,
    /// and from then on up to `limit` for the rest of it.
    pub(super) fn head(
        &mut self,
        idle: Duration,
        limit: Duration,
        stops: impl Fn() -> bool,
    ) -> Result<Head, Fault> {
        let waited = Instant::now();
        while self.ahead.is_empty() {
            if stops() || waited.elapsed() >= idle {
                return Err(Fault::Gone);
            }
            match self.more(TICK.min(idle)) {
                Ok(0) => return Err(Fault::Gone),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(_) => return Err(Fault::Gone),
            }
        }
        let deadline = Instant::now() + limit;
        loop {
            // A client may send empty lines between two requests.
            let empty = self.ahead.iter().take_while(|b| b"\r\n".contains(b));
            let empty = empty.count();
            self.ahead.drain(..empty);
            if let Some((head, length)) = Head::parse(&self.ahead).map_err(Fault::Answer)? {
                self.ahead.drain(..length);
                return Ok(head);
            }
            if self.ahead.len() >= LONGEST_HEAD {
                let message = format!("the head of the request is over {LONGEST_HEAD} bytes");
                return Err(Fault::Answer(Response::error(431, &message)));
            }
            self.more_until(deadline, "the head of the request")?;
        }
    }

    /// The body of a request, complete within `limit`. `hold` counts its bytes as they come.
    pub(super) fn body(
        &mut self,
        head: &Head,
        limit: Duration,
        hold: &mut Hold<'_>,
    ) -> Result<Vec<u8>, Fault> {
        let deadline = Instant::now() + limit;
        let length = usize::try_from(head.length).map_err(|_| Fault::Gone)?;
        let expected = head.header("expect");
        if expected.is_some_and(|what| !what.eq_ignore_ascii_case("100-continue")) {
            return Err(Fault::Answer(Response::error(417, "unknown expectation")));
        }
        if expected.is_some() && self.ahead.is_empty() && length > 0 {
            self.stream.set_write_timeout(Some(limit))?;
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        while self.ahead.len() < length {
            if !hold.grow_to(self.ahead.len() as u64) {
                return Err(Fault::Answer(Response::busy("too many uploads at once")));
            }
            self.more_until(deadline, "the body of the request")?;
        }
        let rest = self.ahead.split_off(length);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    /// Reads on for two seconds after a refusal. If the connection were closed at once, the system
    /// would discard the answer before the client has read it.
    pub(super) fn linger(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        self.ahead = Vec::new();
        while self.more_until(deadline, "").is_ok() {
            self.ahead.clear();
        }
    }

    fn more_until(&mut self, deadline: Instant, what: &str) -> Result<(), Fault> {
        let left = deadline.saturating_duration_since(Instant::now());
        let late = || Fault::Answer(Response::error(408, &format!("{what} took too long")));
        if left.is_zero() {
            return Err(late());
        }
        match self.more(left) {
            Ok(0) => Err(Fault::Gone),
            Ok(_) => Ok(()),
            Err(error) if is_timeout(&error) => Err(late()),
            Err(_) => Err(Fault::Gone),
        }
    }

    /// Reads once.
    fn more(&mut self, limit: Duration) -> io::Result<usize> {
        // A time limit of zero is an error.
        let limit = limit.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(limit))?;
        let mut block = [0; BLOCK];
        let count = self.stream.read(&mut block)?;
        self.ahead.extend_from_slice(&block[..count]);
        Ok(count)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Result<Head, u16> {
        let parsed = Head::parse(text.as_bytes()).map_err(|answer| answer.status())?;
        Ok(parsed.expect("a whole head").0)
    }

    #[test]
    fn a_head_is_read() {
        let found =
            head("POST /v1/classify?top=1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 12\r\n\r\n");
        let found = found.unwrap();
        assert_eq!(found.method, Method::Post);
        assert_eq!((&*found.path, &*found.query), ("/v1/classify", "top=1"));
        assert_eq!((found.header("host"), found.length), (Some("a:1"), 12));
        assert!(found.keep);
        let old = head("GET http://a/b HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!((&*old.path, old.keep), ("/b", false));
        let twice =
            head("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: Close\r\n\r\n").unwrap();
        assert_eq!((twice.header("host"), twice.keep), (None, false));
    }

    #[test]
    fn the_end_of_a_body_is_never_in_doubt() {
        let with = |lines: &str| head(&format!("POST / HTTP/1.1\r\n{lines}\r\n")).map(|h| h.length);
        assert_eq!(with("Content-Length: 3\r\nContent-Length: 3\r\n"), Ok(3));
        assert_eq!(with("Content-Length: 3\r\nContent-Length: 4\r\n"), Err(400));
        assert_eq!(with("Content-Length: +3\r\n"), Err(400));
        assert_eq!(with("Content-Length: 99999999999999999999\r\n"), Err(400));
        assert_eq!(
            with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            Err(411)
        );
        assert_eq!(with("Transfer-Encoding: chunked\r\n"), Err(411));
        assert_eq!(with("Content-Length : 3\r\n"), Err(400));
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Head::parse(&bytes);
            let line = [b"POST /x HTTP/1.1\r\n", &bytes[..], b"\r\n\r\n"].concat();
            let _ = Head::parse(&line);
        }
    }
}
