//! Workers: devices of other machines, here of other processes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use burn::remote::{ConnectError, RemoteHost};
use burn::tensor::Device;

use crate::support::*;

/// A worker on a free port, which ends with the test.
struct Worker {
    child: Child,
    address: String,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    fn start(folder: &Path, token: &str) -> Self {
        let arguments = [
            "worker",
            "--device",
            "cpu",
            "--port",
            "0",
            "--json",
            "--token-file",
            token,
        ];
        let mut child = program(folder)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["event"], "listening", "{line}");
        let address = event["address"].as_str().unwrap().to_owned();
        Self { child, address }
    }

    fn choice(&self) -> String {
        format!("remote:{}", self.address)
    }
}

/// A short training with two devices.
fn short<'a>(devices: &'a str, out: &'a str) -> Vec<&'a str> {
    vec![
        "train",
        "--devices",
        devices,
        "--token-file",
        "token",
        "--preset",
        "paper",
        "--perturbation",
        "0",
        "--limit",
        "60",
        "--batch-size",
        "20",
        "--test-limit",
        "20",
        "--epochs",
        "2",
        "--out",
        out,
    ]
}

fn losses(run: &Path) -> Vec<f64> {
    let history = read_json(&run.join("metrics.json"));
    let epochs = history["epochs"].as_array().unwrap();
    let names = ["train_loss", "valid_loss"];
    let losses = |row: &serde_json::Value| names.map(|name| row["values"][name].as_f64().unwrap());
    epochs.iter().flat_map(losses).collect()
}

#[test]
fn workers_train_with_the_losses_of_local_devices_and_may_die() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let first = Worker::start(path, "token");
    let mut second = Worker::start(path, "token");
    let devices = format!("cpu,{},{}", first.choice(), second.choice());

    succeed(path, &short("cpu,cpu,cpu", "local"));
    succeed(path, &short(&devices, "remote"));
    let (local, remote) = (losses(&path.join("local")), losses(&path.join("remote")));
    assert_eq!(local.len(), 4);
    for (local, remote) in local.iter().zip(&remote) {
        assert!(
            (local - remote).abs() <= 1e-4 * local.abs(),
            "{local} {remote}"
        );
    }

    // One of them dies in the middle of a training.
    let devices = format!("cpu,{}", second.choice());
    let mut endless = short(&devices, "broken");
    endless.extend(["--checkpoint-minutes", "1e-9"]);
    let at = endless.iter().position(|word| *word == "--epochs").unwrap() + 1;
    endless[at] = "500";
    let mut child = program(path)
        .args(&endless)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&mut child, || {
        path.join("broken/checkpoint/epoch-0001").exists()
    });
    second.child.kill().unwrap();
    let error = failed(&child.wait_with_output().unwrap(), &[]);
    assert!(
        error.contains("worker broke") && error.contains("--resume"),
        "{error}"
    );
    let resumed = ["train", "--resume", "broken", "--device", "cpu", "--json"];
    let mut child = program(path)
        .args(resumed)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let before = fs::metadata(path.join("broken/metrics.csv")).unwrap().len();
    wait_for(&mut child, || {
        fs::metadata(path.join("broken/metrics.csv")).unwrap().len() > before
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn workers_refuse_strangers_and_other_versions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let worker = Worker::start(path, "token");
    fs::write(path.join("other"), "0123456789\n").unwrap();
    let devices = worker.choice();
    let arguments = |token| ["train", "--device", &devices, "--token-file", token];
    let error = fail(path, &arguments("other"));
    assert!(
        error.contains("it refuses") && error.contains("--token-file"),
        "{error}"
    );
    let error = fail(path, &arguments("missing"));
    assert!(
        error.contains("missing") && error.contains("copy it"),
        "{error}"
    );
    assert!(!path.join("runs").exists());

    // The same secret from another version of the program, and without a token.
    let secret = fs::read_to_string(path.join("token")).unwrap();
    let host = RemoteHost::websocket(&format!("ws://{}", worker.address));
    let own = format!("mopteq {}\n{}", env!("CARGO_PKG_VERSION"), secret.trim());
    let other = own.replacen(env!("CARGO_PKG_VERSION"), "0.0.1", 1);
    for credential in [other, String::new()] {
        let host = host.clone().with_credential(credential);
        let refused = Device::remote_options(&host).init();
        assert!(
            matches!(refused, Err(ConnectError::Unauthorized)),
            "{refused:?}"
        );
    }
    assert!(
        Device::remote_options(&host.with_credential(own))
            .init()
            .is_ok()
    );

    // Two workers would talk to each other.
    let two = format!("{devices},{devices}");
    let error = fail(path, &["train", "--devices", &two, "--token-file", "token"]);
    assert!(error.contains("first of several devices"), "{error}");

    // A port that is taken, one where nobody listens, a worker of a worker.
    let port = worker.address.rsplit(':').next().unwrap();
    let error = fail(
        path,
        &[
            "worker",
            "--device",
            "cpu",
            "--port",
            port,
            "--token-file",
            "token",
        ],
    );
    assert!(error.contains("--port"), "{error}");
    let error = fail(
        path,
        &["worker", "--device", &devices, "--token-file", "token"],
    );
    assert!(error.contains("its own machine"), "{error}");
    drop(worker);
    let error = fail(path, &arguments("token"));
    assert!(error.contains("mopteq worker"), "{error}");
}
