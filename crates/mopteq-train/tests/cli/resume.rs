//! Kills, signals and a second process: nothing that was saved is lost, and a run that goes on is
//! the run that was never interrupted.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::*;

/// Saves after every batch, so that every kill falls near a save.
const OFTEN: [&str; 2] = ["--checkpoint-minutes", "1e-9"];

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

#[test]
fn killed_at_random_moments_it_ends_with_the_same_parameters_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let options = [
        "--epochs",
        "6",
        "--seed",
        "3",
        "--workers",
        "2",
        "--ema",
        "0.9",
        // Each picture is tested twice, but trained on once: the noise is drawn once.
        "--perturbation",
        "0.1",
        "--set",
        "test_flip=true",
    ];
    let started = Instant::now();
    train(path, &[&options[..], &["--out", "whole"]].concat());
    // Three kills that together come before the end, however fast the machine is.
    let longest = started.elapsed().as_millis() as u64 / 4;

    let killed = path.join("killed");
    let mut child = start(path, &[&options[..], &OFTEN, &["--out", "killed"]].concat());
    wait_for(&mut child, || killed.join("run.lock").exists());
    let mut moments = Vec::new();
    for kill in 0..3 {
        let moment = longest / 4 + random(longest * 3 / 4);
        moments.push(moment);
        std::thread::sleep(Duration::from_millis(moment));
        // On Unix this is SIGKILL: no destructor runs.
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            !killed.join("summary.json").exists(),
            "{moments:?}: ended before a kill"
        );
        if kill < 2 {
            let arguments = ["train", "--resume", "killed", "--device", "cpu"];
            child = program(path)
                .args(arguments)
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
        }
    }
    // What a kill in the middle of a write leaves.
    fs::create_dir_all(killed.join("checkpoint/.unfinished-x")).unwrap();
    fs::write(killed.join("checkpoint/.unfinished-x/model.bpk"), "half").unwrap();

    let text = succeed(path, &["train", "--resume", "killed", "--device", "cpu"]);
    assert!(text.contains("resume  after epoch"), "{moments:?}: {text}");
    assert!(
        parameters(path, "whole") == parameters(path, "killed"),
        "{moments:?}: other parameters"
    );
    assert_eq!(
        summary(&path.join("whole")),
        summary(&killed),
        "{moments:?}"
    );
    assert_eq!(
        metrics(&path.join("whole")),
        metrics(&killed),
        "{moments:?}"
    );
    assert!(!killed.join("checkpoint/.unfinished-x").exists());

    // A finished run has nothing left to do.
    succeed(path, &["train", "--resume", "killed", "--device", "cpu"]);
    assert_eq!(summary(&path.join("whole")), summary(&killed));
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let options = ["--epochs", "5", "--seed", "4", "--accumulate", "2"];
    train(path, &[&options[..], &["--out", "whole"]].concat());

    let stopped = path.join("stopped");
    let arguments = [&SHORT[..], &options, &OFTEN, &["--out", "stopped"]].concat();
    let mut arguments: Vec<&str> = arguments;
    for signal in ["-TERM", "-INT"] {
        let mut child = program(path)
            .args(&arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Who holds the lock listens to signals.
        let holder = format!("process {}\n", child.id());
        wait_for(&mut child, || {
            fs::read_to_string(stopped.join("run.lock")).is_ok_and(|text| text == holder)
        });
        // With a save after every step, most moments are within one.
        std::thread::sleep(Duration::from_millis(random(300)));
        let id = child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &id])
                .status()
                .unwrap()
                .success()
        );
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{text}");
        assert!(
            text.contains("saved") && text.contains("--resume stopped"),
            "{text}"
        );
        arguments = vec!["train", "--resume", "stopped", "--device", "cpu"];
    }
    let text = succeed(path, &["runs", "stopped"]);
    assert!(text.contains("stopped"), "{text}");
    succeed(path, &arguments);
    assert!(parameters(path, "whole") == parameters(path, "stopped"));
    assert_eq!(metrics(&path.join("whole")), metrics(&stopped));
}

#[test]
fn a_second_process_is_kept_out_of_the_run_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut child = start(path, &["--epochs", "500", "--out", "run"]);
    wait_for(&mut child, || {
        path.join("run/checkpoint/epoch-0001").exists()
    });
    let error = fail(path, &["train", "--resume", "run", "--device", "cpu"]);
    assert!(
        error.contains("run is in use by another process"),
        "{error}"
    );
    assert!(error.contains(&child.id().to_string()), "{error}");
    let text = succeed(path, &["runs", "run"]);
    assert!(text.contains("running"), "{text}");
    // Reading is free.
    succeed(path, &["eval", "--run", "run", "--limit", "20"]);
    child.kill().unwrap();
    child.wait().unwrap();
}
