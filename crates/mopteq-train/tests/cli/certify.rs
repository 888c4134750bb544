//! `certify`: radii of picture files and of test pictures, and runs that have none.

use std::fs;

use serde_json::Value;

use crate::support::{bar, fail, output, succeed, train};

#[test]
fn the_papers_model_is_certified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let paper = ["--preset", "paper", "--epochs", "3"];
    train(path, &[&paper[..], &["--out", "run"]].concat());
    bar().save(path.join("one.png")).unwrap();
    bar().save(path.join("other, with a comma.png")).unwrap();
    let certify = |more: &[&str]| succeed(path, &[&["certify", "--run", "run"], more].concat());

    let said = certify(&["--json", "one.png"]);
    let one: Value = serde_json::from_str(&said).unwrap();
    let number = |key: &str| one[key].as_f64().unwrap();
    assert!(number("radius") > 0.0 && number("margin") > number("error"));
    assert!((number("radius_255") - 255.0 * number("radius")).abs() < 1e-9);
    assert_ne!(one["class"], one["nearest"]);
    let predicted = succeed(path, &["predict", "--run", "run", "--json", "one.png"]);
    let predicted: Value = serde_json::from_str(&predicted).unwrap();
    assert_eq!(one["class"], predicted["classes"][0]["class"]);

    let text = certify(&["one.png"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (4, "one.png"));
    assert!(lines[3].starts_with("  radius  ") && lines[3].ends_with("/255)"));

    let table = certify(&["--csv", "one.png", "other, with a comma.png"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "file,class,nearest,margin,radius,radius_255");
    assert_eq!(lines.len(), 3);
    assert!(lines[2].starts_with("\"other, with a comma.png\","));

    // The test pictures: what is certain is right, and less of it at larger radii.
    let said = certify(&["--json", "--limit", "40"]);
    let all: Value = serde_json::from_str(&said).unwrap();
    let found = &all["certificates"];
    assert_eq!(found["pictures"], 40);
    let shares = found["radii"].as_array().unwrap().iter();
    let mut shares: Vec<f64> = shares.map(|s| s["accuracy"].as_f64().unwrap()).collect();
    shares.insert(0, found["accuracy"].as_f64().unwrap());
    assert!(shares.windows(2).all(|pair| pair[0] >= pair[1]));
    assert!(all["constant"].as_f64().unwrap() > 0.0);
    assert_eq!(all["parts"][1]["name"], "equilibrium");
    let text = certify(&["--limit", "20"]);
    assert!(text.contains("right and certified") && text.contains("Lipschitz constant"));

    // Without a picture that can be read, there is one error, as in `predict`.
    let error = fail(path, &["certify", "--run", "run", "missing.png"]);
    assert!(error.contains("missing.png"), "{error}");
    let wrong = output(
        path,
        &["certify", "--run", "run", "--tolerance", "2", "one.png"],
    );
    assert_eq!(wrong.status.code(), Some(2));
    fs::remove_dir_all(path.join("run/checkpoint")).unwrap();
    let error = fail(path, &["certify", "--run", "run", "one.png"]);
    assert!(error.contains("no complete checkpoint"), "{error}");
}

#[test]
fn stacks_have_tiny_radii_and_an_mdeq_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let small = ["--epochs", "1", "--set", "model.stages.all.channels=8"];
    train(path, &[&small[..], &["--out", "stack"]].concat());
    let answer = output(path, &["certify", "--run", "stack", "--limit", "10"]);
    let (text, told) = (
        String::from_utf8_lossy(&answer.stdout),
        String::from_utf8_lossy(&answer.stderr),
    );
    assert!(answer.status.success(), "{told}");
    assert!(text.contains("stage 3, layer 2"), "{text}");
    assert!(told.contains("product over all parts"), "{told}");

    let mdeq = ["--model", "mdeq", "--epochs", "1"];
    train(path, &[&mdeq[..], &["--out", "mdeq"]].concat());
    let error = fail(path, &["certify", "--run", "mdeq", "--limit", "5"]);
    assert!(
        error.contains("mdeq: a network of the kind `mdeq`"),
        "{error}"
    );
    let error = fail(path, &["certify", "--run", "nowhere"]);
    assert!(error.contains("nowhere: no such run folder"), "{error}");
}
