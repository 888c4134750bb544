//! A crate outside this workspace that depends on burn-deq, as its README shows it.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The first block of code in `language`.
fn block<'a>(text: &'a str, language: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

#[test]
#[ignore = "compiles Burn with its default features; .ci/run runs it by name"]
fn outside_crate_builds_and_trains() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let library = root.join("crates/burn-deq");
    let readme = fs::read_to_string(library.join("README.md")).unwrap();
    let dependencies = block(&readme, "toml");
    assert!(dependencies.contains("version = \"0.1\""), "{dependencies}");
    let path = format!("path = {:?}", library.to_str().unwrap());
    let manifest = format!(
        "[package]\nname = \"outside\"\nedition = \"2024\"\n\n{}\n[workspace]\n",
        dependencies.replace("version = \"0.1\"", &path)
    );

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("Cargo.toml"), manifest).unwrap();
    // The versions that this workspace is tested with.
    fs::copy(root.join("Cargo.lock"), file("Cargo.lock")).unwrap();
    fs::create_dir(file("src")).unwrap();
    fs::write(file("src/main.rs"), block(&readme, "rust")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--target-dir"])
        // Kept from one run to the next, because Burn takes minutes to compile.
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside"))
        .current_dir(folder.path())
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let losses: Vec<f64> = lines
        .lines()
        .map(|line| {
            let (loss, _) = line.strip_prefix("loss ").unwrap().split_once(',').unwrap();
            loss.parse().unwrap()
        })
        .collect();
    assert!(losses.len() == 5 && losses[4] < 0.5 * losses[0], "{lines}");
}
