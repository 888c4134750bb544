//! `mopteq play` and `mopteq serve`.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::Error;
use crate::progress::{say, warn};
use crate::serve::{ServeSettings, Server, TimeLimits};
use crate::train::StopFlag;

use super::shared::{RunArguments, stop_on_signals};

/// What a page and a service have in common.
#[derive(Args)]
struct ServerArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Address to listen on. Other machines cannot reach the default; 0.0.0.0 is open to every
    /// machine that can reach this one.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    address: IpAddr,
    /// Port to listen on; 0 takes any that is free.
    #[arg(long, default_value_t = 7878)]
    port: u16,
    /// Another name by which clients reach this server, such as that of a proxy in front of it.
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Largest request, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    max_upload: u64,
    /// Largest number of pixels in a picture, in millions.
    #[arg(long, value_name = "MILLIONS", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1000))]
    max_pixels: u64,
    /// Time in seconds that a client has to send a request and to take its answer, and that the
    /// model has to compute it.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl ServerArguments {
    fn settings(&self) -> ServeSettings {
        ServeSettings {
            address: self.address,
            port: self.port,
            hosts: self.allow_host.clone(),
            most_bytes: self.max_upload << 20,
            most_pixels: self.max_pixels * 1_000_000,
            limits: TimeLimits::new(Duration::from_secs(self.timeout)),
            ..ServeSettings::default()
        }
    }

    fn run(
        &self,
        settings: &ServeSettings,
        what: &str,
        json: bool,
        stop: &StopFlag,
    ) -> Result<(), Error> {
        let (_, predictor) = self.run.predictor()?;
        let server = Server::bind(predictor, settings)?;
        stop_on_signals(stop);
        let address = server.address();
        if !address.ip().is_loopback() {
            warn(format_args!(
                "whoever reaches {address} can use this model: there is no password and no encryption"
            ));
        }
        if json {
            let (address, url) = (address.to_string(), server.url());
            say(json!({"event": "listening", "address": address, "url": url}));
        } else {
            say(format_args!("{what}{}", server.url()));
            say("stop     with Ctrl-C");
        }
        server.run(stop)
    }
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mopteq play --run runs/digits-1\n  \
    mopteq play --run runs/digits-1 --checkpoint best --port 0")]
pub struct PlayArguments {
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mopteq serve --run runs/digits-1\n  \
    curl --data-binary @five.png 'http://127.0.0.1:7878/v1/classify?top=3'\n  \
    curl --json '{\"pictures\": [\"<base64>\", \"<base64>\"]}' http://127.0.0.1:7878/v1/classify\n  \
    curl http://127.0.0.1:7878/metrics")]
pub struct ServeArguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Pictures that may wait for the model. Further requests get the status 429.
    #[arg(long, value_name = "PICTURES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queue: u32,
    /// Time in milliseconds that a picture waits for others, to be computed in one batch. A lone
    /// client does not wait.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    batch_wait: u64,
    /// Largest number of open connections. Further ones get the status 503.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
}

pub fn play(arguments: &PlayArguments, json: bool, stop: &StopFlag) -> Result<(), Error> {
    let settings = ServeSettings {
        page: true,
        ..arguments.server.settings()
    };
    arguments.server.run(&settings, "page     ", json, stop)
}

pub fn serve(arguments: &ServeArguments, json: bool, stop: &StopFlag) -> Result<(), Error> {
    let settings = ServeSettings {
        queue: arguments.queue as usize,
        batch_wait: Duration::from_millis(arguments.batch_wait),
        connections: arguments.connections as usize,
        ..arguments.server.settings()
    };
    arguments.server.run(&settings, "service  ", json, stop)
}
