//! Downloads from a server of the test's own, on the loopback interface.
#![cfg(feature = "download")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::*;

/// How the server answers, and what it was asked.
#[derive(Clone, Default)]
struct Server {
    body: Vec<u8>,
    /// Bytes after which each of the first connections breaks off.
    cuts: Arc<Mutex<Vec<usize>>>,
    ranges: Arc<Mutex<Vec<Option<usize>>>>,
    /// A page that is sent in place of the body.
    page: Option<&'static str>,
    /// Whether it ignores ranges and sends the whole body.
    whole: bool,
}

impl Server {
    fn start(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/file.tar.gz", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                self.answer(stream);
            }
        });
        address
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut range = None;
        for line in BufReader::new(stream.try_clone().unwrap()).lines() {
            let line = line.unwrap_or_default().to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(start) = line.strip_prefix("range: bytes=") {
                range = start.trim_end_matches('-').parse().ok();
            }
        }
        self.ranges.lock().unwrap().push(range);
        if let Some(page) = self.page {
            let _ = stream.write_all(page.as_bytes());
            return;
        }
        let total = self.body.len();
        let start = range.filter(|_| !self.whole).unwrap_or(0);
        if start >= total {
            let _ = stream
                .write_all(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let head = match start {
            0 => "HTTP/1.1 200 OK\r\n".to_owned(),
            _ => format!(
                "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}\r\n",
                total - 1
            ),
        };
        let length = total - start;
        let head =
            format!("{head}Content-Length: {length}\r\nContent-Type: application/gzip\r\n\r\n");
        let cut = {
            let mut cuts = self.cuts.lock().unwrap();
            if cuts.is_empty() {
                total
            } else {
                cuts.remove(0)
            }
        };
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&self.body[start..cut.clamp(start, total)]);
    }
}

fn body() -> Vec<u8> {
    (0..300_000_u32)
        .map(|i| (i.wrapping_mul(i) % 253) as u8)
        .collect()
}

/// The checksum of [`body`], from another program.
const MD5: &str = "5983633280b3adacc7155aeed6693b44";

fn get(url: &str, md5: &str) -> Vec<String> {
    ["data", "get", "cifar10", "--url", url, "--md5", md5]
        .map(str::to_owned)
        .to_vec()
}

fn arguments(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

const FILE: &str = "cache/cifar-10-binary.tar.gz";

#[test]
fn a_download_goes_on_after_every_cut() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server {
        body: body(),
        cuts: Arc::new(Mutex::new(vec![100_000, 250_000])),
        ..Server::default()
    };
    let ranges = server.ranges.clone();
    let url = server.start();
    succeed(folder.path(), &arguments(&get(&url, MD5)));
    assert!(fs::read(folder.path().join(FILE)).unwrap() == body());
    assert_eq!(
        *ranges.lock().unwrap(),
        [None, Some(100_000), Some(250_000)]
    );
    // A file that is there and right is not downloaded again.
    succeed(folder.path(), &arguments(&get(&url, MD5)));
    assert_eq!(ranges.lock().unwrap().len(), 3);
}

#[test]
fn the_next_call_goes_on_where_the_last_one_gave_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server {
        body: body(),
        cuts: Arc::new(Mutex::new(vec![50_000, 50_000, 50_000, 60_000])),
        ..Server::default()
    };
    let ranges = server.ranges.clone();
    let url = server.start();
    let error = fail(folder.path(), &arguments(&get(&url, MD5)));
    assert!(
        error.contains("60000 of 300000 bytes") && error.contains("60000 bytes are kept"),
        "{error}"
    );
    assert!(!folder.path().join(FILE).exists());
    succeed(folder.path(), &arguments(&get(&url, MD5)));
    assert!(fs::read(folder.path().join(FILE)).unwrap() == body());
    assert_eq!(ranges.lock().unwrap().last(), Some(&Some(60_000)));
}

#[test]
fn a_server_without_ranges_starts_anew() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server {
        body: body(),
        cuts: Arc::new(Mutex::new(vec![100_000])),
        whole: true,
        ..Server::default()
    };
    let url = server.start();
    succeed(folder.path(), &arguments(&get(&url, MD5)));
    assert!(fs::read(folder.path().join(FILE)).unwrap() == body());
}

#[test]
fn a_wrong_checksum_and_wrong_answers_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let server = Server {
        body: body(),
        ..Server::default()
    };
    let error = fail(path, &arguments(&get(&server.start(), &"0".repeat(32))));
    assert!(
        error.contains("wrong checksum") && error.contains(MD5),
        "{error}"
    );
    assert_eq!(files(path.join("cache")), Vec::<String>::new());

    for (page, said) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>",
            "HTML",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: application/gzip\r\nContent-Length: 16\r\n\r\n<!DOCTYPE html>\n",
            "HTML",
        ),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "503"),
        ("no HTTP at all\r\n\r\n", "127.0.0.1"),
    ] {
        let server = Server {
            page: Some(page),
            ..Server::default()
        };
        let error = fail(path, &arguments(&get(&server.start(), MD5)));
        assert!(error.contains(said), "{page}: {error}");
        assert!(!path.join(FILE).exists());
    }
    // Nobody listens there.
    let error = fail(path, &arguments(&get("http://127.0.0.1:9/file", MD5)));
    assert!(error.contains("127.0.0.1:9"), "{error}");
}
