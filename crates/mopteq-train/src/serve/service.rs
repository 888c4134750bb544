//! Which answer each path gets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::batch::{Answered, BatchRequest};
use super::http::{Handler, Head, Hosts, Method, Response};
use super::metrics::{Metrics, Now};
use super::play::{self, Look, LookRequest};
use super::query::Query;
use super::queue::{Job, Queue, Refusal};
use super::room::{Gate, Room};
use super::settings::ServeSettings;
use crate::data::{PictureShape, Pixels, decode_within};
use crate::predict::Predictor;

/// The bodies in memory at once take at most this many times the largest body.
const BODIES: u64 = 8;
/// Bytes that the controls of a page take in a request beside the picture.
const CONTROLS: u64 = 4 << 10;

/// The paths of the server.
const ROUTES: [Route; 10] = [
    Route::new("/", Method::Get, true, Service::page),
    Route::new("/play/model", Method::Get, true, Service::play_model),
    Route::new("/play/example", Method::Get, true, Service::example),
    Route::new("/play/picture", Method::Post, true, Service::picture),
    Route::new("/play/look", Method::Post, true, Service::look),
    Route::new("/v1/classify", Method::Post, false, Service::classify),
    Route::new("/v1/model", Method::Get, false, Service::model),
    Route::new("/health", Method::Get, false, Service::health),
    Route::new("/metrics", Method::Get, false, Service::metrics),
    // What monitors of other services ask for.
    Route::new("/healthz", Method::Get, false, Service::health),
];

type Answering = fn(&Service, &Head, Vec<u8>) -> Result<Response, Response>;

struct Route {
    path: &'static str,
    method: Method,
    /// Whether it belongs to the page.
    page: bool,
    answer: Answering,
}

impl Route {
    const fn new(path: &'static str, method: Method, page: bool, answer: Answering) -> Self {
        Self {
            path,
            method,
            page,
            answer,
        }
    }

    /// The route of a path, among those that the server has.
    fn of(path: &str, page: bool) -> Option<&'static Self> {
        let mut routes = ROUTES.iter();
        routes.find(|route| route.path == path && (page || !route.page))
    }
}

/// The state that all connections share.
pub(super) struct Service {
    pub(super) queue: Queue,
    pub(super) metrics: Metrics,
    pub(super) stopping: AtomicBool,
    pub(super) connections: AtomicUsize,
    /// Whether the thread of the model is running.
    pub(super) computing: AtomicBool,
    /// Whether the last batch failed.
    pub(super) failing: AtomicBool,
    hosts: Hosts,
    room: Room,
    gate: Gate,
    pub(super) settings: ServeSettings,
    about: About,
}

/// What does not change while a server runs.
struct About {
    run: String,
    checkpoint: String,
    network: String,
    shape: PictureShape,
    model: Value,
    play: Value,
    examples: Vec<Vec<u8>>,
}

impl About {
    fn new(predictor: &Predictor, page: bool) -> Self {
        let config = predictor.config();
        let run = predictor.run().path().display().to_string();
        let examples = if page {
            play::examples(config)
        } else {
            Vec::new()
        };
        let (checkpoint, network) = (predictor.position().to_string(), config.model.name());
        let shape = config.shape;
        Self {
            model: json!({
                "run": run, "checkpoint": checkpoint, "network": network, "classes": config.classes,
                "channels": shape.channels, "height": shape.height, "width": shape.width,
                "device": predictor.device().name,
            }),
            play: play::describe(predictor, examples.len()),
            run,
            checkpoint,
            network: network.into(),
            shape,
            examples,
        }
    }
}

impl Service {
    pub(super) fn new(predictor: &Predictor, settings: &ServeSettings, hosts: Hosts) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            queue: Queue::new(settings.queue),
            metrics: Metrics::default(),
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            computing: AtomicBool::new(true),
            failing: AtomicBool::new(false),
            hosts,
            room: Room::new(BODIES * settings.most_bytes),
            gate: Gate::new(cores),
            settings: settings.clone(),
            about: About::new(predictor, settings.page),
        })
    }

    fn page(&self, _: &Head, _: Vec<u8>) -> Result<Response, Response> {
        Ok(play::page())
    }

    fn play_model(&self, _: &Head, _: Vec<u8>) -> Result<Response, Response> {
        let mut about = self.about.play.clone();
        about["run"] = json!(self.about.run);
        about["most_bytes"] = json!(self.settings.most_bytes);
        Ok(Response::json(200, &about))
    }

    fn model(&self, _: &Head, _: Vec<u8>) -> Result<Response, Response> {
        Ok(Response::json(200, &self.about.model))
    }

    fn example(&self, head: &Head, _: Vec<u8>) -> Result<Response, Response> {
        let query = Query::parse(&head.query, &["number"])?;
        let examples = &self.about.examples;
        let number = query.number("number")?.unwrap_or(0) % examples.len().max(1);
        match examples.get(number) {
            Some(values) => Ok(self.picture_answer(values)),
            None => Err(Response::error(404, "this model has no example pictures")),
        }
    }

    fn picture_answer(&self, values: &[u8]) -> Response {
        Response::json(200, &play::picture_json(values, self.about.shape))
    }

    /// What the model sees of a picture. If a user chose a file that is not a picture, this is not
    /// an error of the page, but browsers list every status from 400 on as one.
    fn picture(&self, head: &Head, body: Vec<u8>) -> Result<Response, Response> {
        let query = Query::parse(&head.query, &["invert"])?;
        match self.decode("picture", &body, query.flag("invert")?)? {
            Ok(values) => Ok(self.picture_answer(&values)),
            Err(message) => Ok(Response::json(200, &json!({ "refused": message }))),
        }
    }

    fn look(&self, _: &Head, body: Vec<u8>) -> Result<Response, Response> {
        let request = LookRequest::parse(&body, self.about.shape);
        let request = request.map_err(|message| Response::error(400, &message))?;
        let (reply, answer) = sync_channel(1);
        let expires = self.deadline();
        let look = Look {
            request,
            expires,
            reply,
        };
        self.queue
            .push_look(look)
            .map_err(|refusal| refused(refusal, &self.settings))?;
        let view = wait(&answer, expires)?.map_err(|message| Response::error(500, &message))?;
        Ok(Response::json(200, &view))
    }

    fn classify(&self, head: &Head, body: Vec<u8>) -> Result<Response, Response> {
        let kind = head.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case("application/json") {
            Query::parse(&head.query, &[])?;
            return self.classify_batch(body);
        }
        let query = Query::parse(&head.query, &["invert", "top"])?;
        let top = query.number("top")?;
        let values = self.decode("picture", &body, query.flag("invert")?)?;
        let values = values.map_err(|message| Response::error(422, &message))?;
        drop(body);
        let answer = self.ask(vec![values.into()])?.pop().flatten();
        match answer {
            Some(answer) => Ok(Response::json(200, &Answered::new(answer, top))),
            None => Err(Response::error(500, NOT_FINITE)),
        }
    }

    /// Classifies several pictures. One that cannot be read does not affect the others.
    fn classify_batch(&self, body: Vec<u8>) -> Result<Response, Response> {
        let request =
            BatchRequest::parse(&body).map_err(|message| Response::error(400, &message))?;
        drop(body);
        let count = request.pictures.len();
        if count > self.settings.queue {
            let most = self.settings.queue;
            let message = format!("{count} pictures in a request; {most} are allowed (--queue)");
            return Err(Response::error(413, &message));
        }
        let mut values: Vec<Result<Pixels, String>> = Vec::with_capacity(count);
        for (index, picture) in request.pictures.iter().enumerate() {
            let name = format!("picture {index}");
            let decoded = match STANDARD.decode(picture) {
                Ok(bytes) => self.decode(&name, &bytes, request.invert)?,
                Err(error) => Err(format!("{name}: no base64 ({error})")),
            };
            values.push(decoded.map(Pixels::from));
        }
        let readable: Vec<Pixels> = values.iter().flatten().cloned().collect();
        let answers = if readable.is_empty() {
            Vec::new()
        } else {
            self.ask(readable)?
        };
        let mut answers = answers.into_iter();
        let found = values.into_iter().map(|values| match values {
            Err(message) => json!({ "error": message }),
            Ok(_) => match answers.next().flatten() {
                Some(answer) => json!(Answered::new(answer, request.top)),
                None => json!({ "error": NOT_FINITE }),
            },
        });
        let found: Vec<Value> = found.collect();
        Ok(Response::json(200, &json!({ "pictures": found })))
    }

    /// The values of a picture, decoded as `predict` does. The outer error means that the server
    /// has too much to do.
    fn decode(
        &self,
        name: &str,
        bytes: &[u8],
        invert: bool,
    ) -> Result<Result<Vec<u8>, String>, Response> {
        let (shape, most) = (self.about.shape, self.settings.most_pixels);
        let decoded = self
            .gate
            .run(self.deadline(), || decode_within(name, bytes, shape, most));
        let Some(decoded) = decoded else {
            return Err(Response::busy("too many pictures are decoded at once"));
        };
        Ok(match decoded {
            Ok(mut values) => {
                if invert {
                    values.iter_mut().for_each(|value| *value = 255 - *value);
                }
                Ok(values)
            }
            Err(error) => {
                self.metrics.unreadable.fetch_add(1, Ordering::Relaxed);
                Err(error.to_string())
            }
        })
    }

    /// The model's answers.
    fn ask(&self, pictures: Vec<Pixels>) -> Result<Vec<Option<crate::predict::Answer>>, Response> {
        let (reply, answer) = sync_channel(1);
        let expires = self.deadline();
        let job = Job {
            pictures,
            expires,
            reply,
        };
        self.queue
            .push(job)
            .map_err(|refusal| refused(refusal, &self.settings))?;
        wait(&answer, expires)?.map_err(|message| Response::error(500, &message))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.settings.limits.answer
    }

    fn health(&self, _: &Head, _: Vec<u8>) -> Result<Response, Response> {
        let state = |status: &str| json!({ "status": status });
        if !self.computing.load(Ordering::Relaxed) {
            return Err(Response::json(
                503,
                &state("the model failed; restart the server"),
            ));
        }
        if self.failing.load(Ordering::Relaxed) {
            return Err(Response::json(503, &state("the last batch failed")));
        }
        match self.stopping.load(Ordering::Relaxed) {
            true => Err(Response::json(503, &state("stopping"))),
            false => Ok(Response::json(200, &state("ok"))),
        }
    }

    fn metrics(&self, _: &Head, _: Vec<u8>) -> Result<Response, Response> {
        let text = self.metrics.text(&Now {
            run: &self.about.run,
            checkpoint: &self.about.checkpoint,
            network: &self.about.network,
            connections: self.connections.load(Ordering::Relaxed),
            queue: self.queue.len(),
        });
        Ok(Response::new(
            200,
            "text/plain; version=0.0.4; charset=utf-8",
            text,
        ))
    }
}

/// The message for a picture for which the model gives NaN or infinity.
const NOT_FINITE: &str = "the model gives no finite numbers: its training diverged";

fn refused(refusal: Refusal, settings: &ServeSettings) -> Response {
    match refusal {
        Refusal::Full => {
            let most = settings.queue;
            Response::busy(&format!("{most} pictures wait already; ask again later"))
        }
        Refusal::Closed => Response::error(503, "the server stops").with("Retry-After", "10"),
    }
}

fn wait<T>(answer: &std::sync::mpsc::Receiver<T>, expires: Instant) -> Result<T, Response> {
    let left = expires.saturating_duration_since(Instant::now());
    answer.recv_timeout(left).map_err(|error| match error {
        RecvTimeoutError::Timeout => Response::error(504, "the model took too long"),
        RecvTimeoutError::Disconnected => Response::error(503, "the model gave no answer"),
    })
}

impl Handler for Service {
    fn accept(&self, head: &Head) -> Result<u64, Response> {
        self.hosts.check(head)?;
        let Some(route) = Route::of(&head.path, self.settings.page) else {
            return Err(Response::error(404, "there is nothing at this path"));
        };
        let fits = match head.method {
            Method::Head => route.method == Method::Get,
            method => route.method == method,
        };
        if !fits {
            let allowed = match route.method {
                Method::Post => "POST",
                _ => "GET, HEAD",
            };
            let message = format!("{} takes {allowed}", route.path);
            return Err(Response::error(405, &message).with("Allow", allowed));
        }
        Ok(match (route.method, route.path) {
            (Method::Post, "/play/look") => self.about.shape.len() as u64 * 2 + CONTROLS,
            (Method::Post, _) => self.settings.most_bytes,
            _ => 0,
        })
    }

    fn answer(&self, head: &Head, body: Vec<u8>) -> Response {
        let Some(route) = Route::of(&head.path, self.settings.page) else {
            return Response::error(404, "there is nothing at this path");
        };
        // A fault in one request does not affect the answers to others.
        let work = std::panic::AssertUnwindSafe(|| (route.answer)(self, head, body));
        match std::panic::catch_unwind(work) {
            Ok(Ok(answer) | Err(answer)) => answer,
            Err(_) => {
                self.metrics.faults.fetch_add(1, Ordering::Relaxed);
                Response::error(500, "a fault of the server")
            }
        }
    }

    fn answered(&self, head: Option<&Head>, response: &Response, began: Instant) {
        let route = head.and_then(|head| Route::of(&head.path, self.settings.page));
        let path = route.map_or("other", |route| route.path);
        self.metrics
            .request(path, response.status(), began.elapsed());
    }

    fn room(&self) -> &Room {
        &self.room
    }

    fn stops(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
