//! Damaged files and a full disk.

use std::fs;

use crate::support::*;

#[test]
fn a_truncated_checkpoint_is_passed_over_for_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let paper = ["--preset", "paper", "--epochs", "3", "--out", "run"];
    train(path, &paper);
    let run = path.join("run");
    let before = summary(&run);
    let model = run.join("checkpoint/epoch-0003/model.bpk");
    let whole = fs::read(&model).unwrap();
    fs::write(&model, &whole[..whole.len() / 2]).unwrap();
    fs::remove_file(run.join("summary.json")).unwrap();

    let error = fail(path, &["eval", "--run", "run"]);
    assert!(error.contains("epoch-0003/model.bpk: damaged"), "{error}");
    let output = output(path, &["train", "--resume", "run", "--device", "cpu"]);
    let warning = String::from_utf8_lossy(&output.stderr);
    assert!(
        warning.contains("epoch-0003/model.bpk") && output.status.success(),
        "{warning}"
    );
    assert_eq!(summary(&run), before);

    // Cut anywhere, a file is refused and nothing panics.
    for (name, share) in [
        ("optim.bpk", 3),
        ("optim.bpk", 1000),
        ("state.json", 2),
        ("model.bpk", 100),
    ] {
        for epoch in [1, 2, 3] {
            let file = run.join(format!("checkpoint/epoch-000{epoch}/{name}"));
            if let Ok(whole) = fs::read(&file) {
                fs::write(&file, &whole[..whole.len() - whole.len() / share - 1]).unwrap();
            }
        }
        let _ = fs::remove_file(run.join("summary.json"));
        let error = fail(path, &["train", "--resume", "run", "--device", "cpu"]);
        assert!(error.contains("damaged"), "{name}: {error}");
    }
}

/// A limit on the size of files stands for a full disk: the system refuses the write either way,
/// and no right is needed to set it.
#[cfg(unix)]
#[test]
fn a_full_disk_costs_nothing_that_was_saved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "3", "--seed", "7", "--out", "whole"]);
    let mut child = start(path, &["--epochs", "3", "--seed", "7", "--out", "run"]);
    wait_for(&mut child, || {
        path.join("run/checkpoint/epoch-0001").exists()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let saved = files(path.join("run/checkpoint"));

    let script = format!(
        "trap '' XFSZ; ulimit -f 40; exec {} train --resume run --device cpu",
        env!("CARGO_BIN_EXE_mopteq")
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(path)
        .output()
        .unwrap();
    let error = failed(&output, &["train", "--resume", "run"]);
    assert!(
        error.contains("cannot be saved") && error.contains("intact"),
        "{error}"
    );
    let complete = |names: Vec<String>| -> Vec<String> {
        names
            .into_iter()
            .filter(|name| name.starts_with("epoch-"))
            .collect()
    };
    assert_eq!(
        complete(files(path.join("run/checkpoint"))),
        complete(saved)
    );

    succeed(path, &["train", "--resume", "run", "--device", "cpu"]);
    assert!(parameters(path, "whole") == parameters(path, "run"));
    assert_eq!(summary(&path.join("whole")), summary(&path.join("run")));
}

#[test]
fn a_loss_that_is_no_number_stops_the_training() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let arguments = [
        &SHORT[..],
        &["--lr", "1e30", "--epochs", "3", "--out", "run"],
    ]
    .concat();
    let error = fail(path, &arguments);
    assert!(
        error.contains("loss became") && error.contains("--clip-norm"),
        "{error}"
    );
    // Nothing of it was saved as if it were a model.
    assert_eq!(files(path.join("run/checkpoint")), Vec::<String>::new());
}
