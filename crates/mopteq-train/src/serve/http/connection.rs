//! The life of one connection.

use std::net::TcpStream;
use std::time::Duration;

use super::request::{Fault, Reader};
use super::{Head, Method, Response};
use crate::serve::room::Room;
use crate::serve::settings::TimeLimits;

/// What answers requests.
pub(crate) trait Handler {
    /// Checks whether the request is one that is answered, before its body is read. Returns how
    /// many bytes the body may have.
    fn accept(&self, head: &Head) -> Result<u64, Response>;

    /// The answer to a request with its body.
    fn answer(&self, head: &Head, body: Vec<u8>) -> Response;

    /// Is told about every answer, with the time from the whole head to the answer.
    fn answered(&self, head: Option<&Head>, response: &Response, began: std::time::Instant);

    /// The memory for bodies.
    fn room(&self) -> &Room;

    /// Whether the server is to stop: no connection takes another request then.
    fn stops(&self) -> bool;
}

/// Serves a connection until either side ends it.
pub(crate) fn serve(stream: TcpStream, handler: &impl Handler, limits: &TimeLimits) {
    // An answer is written at once, so there is nothing to wait for.
    let _ = stream.set_nodelay(true);
    let mut reader = Reader::new(stream);
    while let Some(true) = exchange(&mut reader, handler, limits) {}
}

/// Handles one request and its answer. Returns whether there may be another; `None` if the client
/// is gone.
fn exchange(reader: &mut Reader, handler: &impl Handler, limits: &TimeLimits) -> Option<bool> {
    let head = match reader.head(limits.idle, limits.head, || handler.stops()) {
        Ok(head) => head,
        Err(fault) => return refuse(reader, handler, None, fault, limits.write),
    };
    let began = std::time::Instant::now();
    let most = match handler.accept(&head) {
        Ok(most) => most,
        Err(answer) if head.length == 0 => {
            return finish(reader, handler, &head, &answer, began, limits);
        }
        Err(answer) => {
            return refuse(
                reader,
                handler,
                Some(&head),
                Fault::Answer(answer),
                limits.write,
            );
        }
    };
    if head.length > most {
        let message = format!("the body has {} bytes; {most} are allowed", head.length);
        let answer = Fault::Answer(Response::error(413, &message));
        return refuse(reader, handler, Some(&head), answer, limits.write);
    }
    let mut hold = handler.room().hold();
    let body = match reader.body(&head, limits.body, &mut hold) {
        Ok(body) => body,
        Err(fault) => return refuse(reader, handler, Some(&head), fault, limits.write),
    };
    let answer = handler.answer(&head, body);
    finish(reader, handler, &head, &answer, began, limits)
}

/// Writes the answer to a request that was read completely.
fn finish(
    reader: &mut Reader,
    handler: &impl Handler,
    head: &Head,
    answer: &Response,
    began: std::time::Instant,
    limits: &TimeLimits,
) -> Option<bool> {
    handler.answered(Some(head), answer, began);
    let keep = head.keep && !handler.stops();
    let head_only = head.method == Method::Head;
    let written = answer.write(&reader.stream, keep, head_only, limits.write);
    written.ok().map(|()| keep)
}

/// Answers a request that was not read to its end. Nobody knows then where the next one begins.
fn refuse(
    reader: &mut Reader,
    handler: &impl Handler,
    head: Option<&Head>,
    fault: Fault,
    limit: Duration,
) -> Option<bool> {
    let Fault::Answer(answer) = fault else {
        return None;
    };
    handler.answered(head, &answer, std::time::Instant::now());
    let head_only = head.is_some_and(|head| head.method == Method::Head);
    if answer
        .write(&reader.stream, false, head_only, limit)
        .is_ok()
    {
        reader.linger();
    }
    None
}
