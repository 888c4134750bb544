//! `serve` as a program meets it, and what it refuses.

use std::fs;
use std::io::Write;
use std::net::Shutdown;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{GrayImage, Luma};
use serde_json::{Value, json};

use crate::server::*;
use crate::support::*;

/// Pictures that differ.
fn pictures() -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let draw = |index: u32| {
        let at = |x: u32, y: u32| (x + index * 5) % 28 < 4 + index && (4..24).contains(&y);
        let picture = GrayImage::from_fn(28, 28, |x, y| Luma([if at(x, y) { 250 } else { 0 }]));
        let path = folder.path().join(format!("{index}.png"));
        picture.save(&path).unwrap();
        (format!("{index}.png"), fs::read(path).unwrap())
    };
    (0..7).map(draw).collect()
}

#[test]
fn a_batch_is_answered_as_predict_does() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in pictures() {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let run = trained().join("run").display().to_string();
    let arguments = [
        "predict", "--run", &run, "--device", "cpu", "--json", "--top", "10", ".",
    ];
    let text = succeed(folder.path(), &arguments);
    let expected: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["classes"].clone())
        .collect();
    let server = Running::start(trained(), "serve", &[]);
    let encoded: Vec<String> = pictures()
        .iter()
        .map(|(_, bytes)| STANDARD.encode(bytes))
        .collect();
    let answer = server.post_json("/v1/classify", &json!({ "pictures": encoded }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let found = answer.json()["pictures"].as_array().unwrap().clone();
    let classes: Vec<Value> = found
        .iter()
        .map(|picture| picture["classes"].clone())
        .collect();
    assert_eq!(classes, expected);
    for picture in &found {
        assert!(picture["steps"].as_u64().unwrap() > 1);
        assert!(picture["residual"].as_f64().unwrap() < 1e-3);
        assert_eq!(picture["converged"], true);
    }
    // Alone, a picture gets the same answer up to rounding, in any order of arrival.
    for ((_, bytes), classes) in pictures().iter().zip(&expected) {
        let answer = server.post("/v1/classify?top=2", bytes).json();
        assert_eq!(answer["classes"].as_array().unwrap().len(), 2);
        let probability = |classes: &Value| classes[0]["probability"].as_f64().unwrap();
        assert!((probability(&answer["classes"]) - probability(classes)).abs() < 1e-5);
    }
    let about = server.get("/v1/model").json();
    assert_eq!(
        (&about["classes"][3], &about["height"]),
        (&json!("3"), &json!(28))
    );
}

#[test]
fn one_bad_picture_costs_no_other_its_answer() {
    let server = Running::start(trained(), "serve", &[]);
    let error = server.post("/v1/classify", b"this is text").error(422);
    assert!(error.contains("not a picture that can be read"), "{error}");
    assert!(
        server
            .post("/v1/classify", b"")
            .error(422)
            .contains("not a picture")
    );
    let good = STANDARD.encode(one());
    let text = STANDARD.encode("this is text");
    let cut = STANDARD.encode(&one()[..60]);
    let body = json!({"pictures": [text, good, "*", cut, good], "top": 1});
    let found = server.post_json("/v1/classify", &body).json()["pictures"].clone();
    for (index, part) in [
        (0, "picture 0: not a picture"),
        (2, "base64"),
        (3, "picture 3"),
    ] {
        let error = found[index]["error"].as_str().unwrap();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(found[1]["classes"], found[4]["classes"]);
    assert_eq!(found[1]["classes"].as_array().unwrap().len(), 1);
    for (body, part) in [
        (json!({"pictures": []}), "at least one"),
        (json!({"pictuers": [good]}), "unknown field"),
        (json!([good]), "invalid type"),
        (json!({"pictures": vec![&text; 300]}), ""),
    ] {
        let answer = server.post_json("/v1/classify", &body);
        let status = if part.is_empty() { 413 } else { 400 };
        assert!(answer.error(status).contains(part), "{answer:?}");
    }
    assert_eq!(server.metric("mopteq_unreadable_pictures_total"), Some(4.0));
}

#[test]
fn only_its_own_paths_methods_hosts_and_pages_are_served() {
    let server = Running::start(trained(), "serve", &["--allow-host", "model.example"]);
    assert!(server.address.ip().is_loopback());
    for path in [
        "/",
        "/play/look",
        "/play/model",
        "/v1",
        "/..%2f",
        "/v1/classify/",
    ] {
        assert!(
            server.get(path).error(404).contains("nothing at this path"),
            "{path}"
        );
    }
    let answer = server.get("/v1/classify");
    assert!(answer.error(405).contains("takes POST") && answer.head.contains("Allow: POST"));
    assert_eq!(server.ask("DELETE", "/v1/model", "", b"").status, 405);
    assert_eq!(server.post("/v1/classify?tpo=1", &one()).status, 400);
    let with = |lines: &str| server.ask("POST", "/v1/classify", lines, &one());
    for host in ["evil.example", "127.0.0.1.evil.example", "[::2]"] {
        let error = with(&format!("Host: {host}\r\n")).error(421);
        assert!(
            error.contains(host) && error.contains("--allow-host"),
            "{error}"
        );
    }
    assert_eq!(with("Host: model.example:80\r\n").status, 200);
    assert_eq!(with("Host: localhost\r\n").status, 200);
    assert_eq!(with("Host: localhost\r\nHost: localhost\r\n").status, 400);
    let own = format!("Origin: http://{}\r\n", server.address);
    assert_eq!(with(&own).status, 200);
    for origin in [
        "null",
        "http://evil.example",
        "http://localhost",
        "https://127.0.0.1",
    ] {
        assert!(
            with(&format!("Origin: {origin}\r\n"))
                .error(403)
                .contains("another origin")
        );
    }
    assert_eq!(with("Sec-Fetch-Site: cross-site\r\n").status, 403);
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
}

#[test]
fn what_is_too_large_is_refused_by_its_head() {
    let server = Running::start(
        trained(),
        "serve",
        &["--max-upload", "1", "--max-pixels", "1"],
    );
    let large = vec![7; 3 << 20];
    let error = server.post("/v1/classify", &large).error(413);
    assert!(
        error.contains("3145728 bytes; 1048576 are allowed"),
        "{error}"
    );
    let wide = trained().join("wide.png");
    GrayImage::new(1001, 1000).save(&wide).unwrap();
    let error = server
        .post("/v1/classify", &fs::read(wide).unwrap())
        .error(422);
    assert!(error.contains("1001 x 1000 pixels"), "{error}");
    let lines = "Transfer-Encoding: chunked\r\n";
    assert_eq!(server.ask("POST", "/v1/classify", lines, b"").status, 411);
    let many = "X-Filler: 0123456789\r\n".repeat(2000);
    assert_eq!(server.ask("GET", "/health", &many, b"").status, 431);
    assert_eq!(server.post("/v1/classify", &one()).status, 200);
}

#[test]
fn a_full_queue_is_told_and_a_stop_finishes_what_was_begun() {
    let arguments = ["--queue", "1", "--batch-wait", "10000"];
    let mut server = Running::start(trained(), "serve", &arguments);
    // A second open connection makes the first picture wait for company.
    let _other = server.connect();
    let mut waiting = server.connect();
    let picture = one();
    let (address, length) = (server.address, picture.len());
    let head = format!(
        "POST /v1/classify HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n"
    );
    waiting
        .write_all(&[head.as_bytes(), &picture].concat())
        .unwrap();
    server.wait_for_metric("mopteq_queue_pictures", 1.0);
    let refused = server.post("/v1/classify", &picture);
    assert!(refused.error(429).contains("wait already"));
    assert!(refused.head.contains("Retry-After: "), "{}", refused.head);
    server.terminate();
    let answer = Answer::read(&mut waiting);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("Connection: close"), "{}", answer.head);
    assert!(server.wait().success());
}

#[test]
fn clients_that_misbehave_disturb_no_other() {
    let arguments = ["--timeout", "3", "--connections", "60"];
    let mut server = Running::start(trained(), "serve", &arguments);
    let mut slow = Vec::new();
    for start in ["", "P", "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"] {
        for _ in 0..10 {
            let mut stream = server.connect();
            stream.write_all(start.as_bytes()).unwrap();
            slow.push(stream);
        }
    }
    for garbage in [
        &b"\x16\x03\x01\x02\0\x01\0"[..],
        b"GET\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ] {
        let mut stream = server.connect();
        stream.write_all(garbage).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // An answer or an end, and the server goes on.
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
    }
    for _ in 0..20 {
        // Hangs up in the middle of its picture.
        let mut stream = server.connect();
        let head =
            "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nhalf";
        stream.write_all(head.as_bytes()).unwrap();
    }
    for _ in 0..5 {
        assert_eq!(server.post("/v1/classify", &one()).status, 200);
    }
    // Clients that began a request and did not end it are told so, in the end.
    let answer = Answer::read(&mut slow[29]);
    assert!(answer.error(408).contains("took too long"));
    // Two requests at once on one connection are answered in order.
    let mut both = server.connect();
    let first = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    both.write_all(first.repeat(2).as_bytes()).unwrap();
    assert_eq!(
        [
            Answer::read(&mut both).status,
            Answer::read(&mut both).status
        ],
        [200; 2]
    );
    assert_eq!(server.metric("mopteq_faults_total"), Some(0.0));
    drop(slow);
    server.terminate();
    assert!(server.wait().success());
}

#[test]
fn connections_beyond_the_limit_are_told() {
    let server = Running::start(trained(), "serve", &["--connections", "2"]);
    let _held = [server.connect(), server.connect()];
    let answer = server.get("/health");
    assert!(answer.error(503).contains("too many connections"));
}

#[test]
fn the_metrics_are_in_the_text_format_of_prometheus() {
    let server = Running::start(trained(), "serve", &[]);
    server.post("/v1/classify", &one());
    server.get("/nowhere");
    let answer = server.get("/metrics");
    assert!(
        answer
            .head
            .contains("Content-Type: text/plain; version=0.0.4")
    );
    let text = answer.text();
    let (mut kinds, mut samples) = (Vec::new(), 0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            kinds.push(name.to_owned());
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let name = name.split('{').next().unwrap();
        assert!(
            kinds.iter().any(|kind| name.starts_with(kind.as_str())),
            "{line}"
        );
        assert!(value.parse::<f64>().is_ok(), "{line}");
        samples += 1;
    }
    assert!(samples > 40, "{text}");
    for line in [
        "mopteq_requests_total{path=\"/v1/classify\",status=\"200\"} 1",
        "mopteq_requests_total{path=\"other\",status=\"404\"} 1",
        "mopteq_pictures_total 1",
        "mopteq_batch_pictures_count 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn what_keeps_a_server_from_starting_is_one_line() {
    let server = Running::start(trained(), "serve", &[]);
    let port = server.address.port().to_string();
    let start = |arguments: &[&str]| {
        let all = [&["play", "--device", "cpu"], arguments].concat();
        fail(trained(), &all)
    };
    let error = start(&["--run", "run", "--port", &port]);
    assert!(
        error.contains("in use") && error.contains("--port"),
        "{error}"
    );
    let error = start(&["--run", "run", "--port", "0", "--address", "192.0.2.1"]);
    assert!(
        error.contains("192.0.2.1") && error.contains("--address"),
        "{error}"
    );
    let error = start(&["--run", "nowhere"]);
    assert!(error.contains("nowhere: no such run folder"), "{error}");
    let empty = trained().join("empty");
    fs::create_dir_all(&empty).unwrap();
    fs::copy(trained().join("run/config.json"), empty.join("config.json")).unwrap();
    let error = start(&["--run", "empty"]);
    assert!(
        error.contains("no complete checkpoint") && error.contains("--resume"),
        "{error}"
    );
}
