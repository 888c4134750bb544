//! Starting a server, and asking it as a program would.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::*;

/// A folder with a trained `run` and the picture `one.png`, made once for all tests.
pub fn trained() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let made = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        train(
            folder.path(),
            &["--preset", "paper", "--epochs", "2", "--out", "run"],
        );
        bar().save(folder.path().join("one.png")).unwrap();
        folder
    });
    made.path()
}

pub fn one() -> Vec<u8> {
    fs::read(trained().join("one.png")).unwrap()
}

/// A server that is stopped with the test.
pub struct Running {
    child: Child,
    pub address: SocketAddr,
}

impl Running {
    /// `play` or `serve` of a run on a free port.
    pub fn start(folder: &Path, command: &str, arguments: &[&str]) -> Self {
        let common = ["--run", "run", "--device", "cpu", "--port", "0", "--json"];
        let mut program = program(folder);
        program.arg(command).args(common).args(arguments);
        let mut child = program.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let address = said["address"].as_str().unwrap().parse().unwrap();
        Self { child, address }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", b"")
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.ask("POST", path, "", body)
    }

    pub fn post_json(&self, path: &str, body: &Value) -> Answer {
        let lines = "Content-Type: application/json\r\n";
        self.ask("POST", path, lines, body.to_string().as_bytes())
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, lines: &str, body: &[u8]) -> Answer {
        let host = format!("Host: {}\r\n", self.address);
        let host = if lines.contains("Host:") { "" } else { &host };
        let length = body.len();
        let mut stream = self.connect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}Content-Length: {length}\r\nConnection: close\r\n{lines}\r\n"
        );
        // A server that refuses a body need not read it.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body);
        Answer::read(&mut stream)
    }

    /// The value of a line of the metrics.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// Waits until a line of the metrics has a value.
    pub fn wait_for_metric(&mut self, name: &str, value: f64) {
        let start = std::time::Instant::now();
        while self.metric(name) != Some(value) {
            assert!(start.elapsed() < PATIENCE, "{name} never was {value}");
            assert!(self.child.try_wait().unwrap().is_none(), "ended too early");
        }
    }

    /// Asks it to stop.
    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads one answer.
    pub fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
            bytes.push(byte[0]);
        }
        let head = String::from_utf8(bytes).unwrap();
        let status = head
            .get(9..12)
            .unwrap_or_else(|| panic!("no answer: {head:?}"));
        let status = status.parse().unwrap();
        let mut headers = head.lines().filter_map(|line| line.split_once(':'));
        let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let mut body = vec![0; length.unwrap().1.trim().parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        Self { status, head, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The message of a refusal with this status.
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        self.json()["error"].as_str().unwrap().to_owned()
    }
}
