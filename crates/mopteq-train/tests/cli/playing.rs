//! `play` as its page meets it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::server::*;
use crate::support::*;

/// What the model sees of `one.png`.
fn picture(server: &Running) -> Value {
    let answer = server.post("/play/picture", &one());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["picture"].clone()
}

fn look(server: &Running, controls: Value) -> Value {
    let body = json!({"picture": picture(server), "controls": controls});
    let answer = server.post_json("/play/look", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn numbers(values: &Value) -> Vec<f64> {
    let list = values.as_array().unwrap().iter();
    list.map(|value| value.as_f64().unwrap_or(f64::NAN))
        .collect()
}

#[test]
fn the_page_is_whole_and_closed_to_others() {
    let server = Running::start(trained(), "play", &[]);
    assert!(server.address.ip().is_loopback());
    let page = server.get("/");
    assert_eq!(page.status, 200);
    let policy = page
        .head
        .lines()
        .find(|line| line.starts_with("Content-Security-Policy: "));
    assert!(
        policy.unwrap().contains("default-src 'none'"),
        "{}",
        page.head
    );
    let html = page.text();
    for part in [
        "<title>mopteq play</title>",
        "prefers-color-scheme",
        "viewport",
        "aria-live",
        "class Pad",
    ] {
        assert!(html.contains(part), "no {part}");
    }
    let foreign = "Host: evil.example\r\n";
    assert_eq!(server.ask("GET", "/", foreign, b"").status, 421);
    // The service for programs is there, too.
    assert_eq!(server.post("/v1/classify", &one()).status, 200);
    let refused = server.post("/play/picture", b"text").json()["refused"].clone();
    assert!(
        refused.as_str().unwrap().contains("not a picture"),
        "{refused}"
    );
    let about = server.get("/play/model").json();
    assert_eq!(about["drawable"], true);
    assert_eq!(server.get("/play/example?number=3").json()["height"], 28);
}

#[test]
fn a_look_shows_the_solve_that_predict_does() {
    let server = Running::start(trained(), "play", &[]);
    let expected = server.post("/v1/classify?top=3", &one()).json();
    let view = look(&server, json!({}));
    assert_eq!(view["classes"], expected["classes"]);
    let stage = &view["stages"][0];
    assert_eq!(view["stages"].as_array().unwrap().len(), 1);
    assert_eq!(stage["status"], "converged");
    let residuals = numbers(&stage["solver"]["residuals"]);
    assert_eq!(
        residuals.last().unwrap(),
        &expected["residual"].as_f64().unwrap()
    );
    let steps = numbers(&stage["solver"]["steps"]);
    assert_eq!(steps.len() as u64, expected["steps"].as_u64().unwrap());
    // Plain iteration takes longer, and every step of it is a descent.
    let plain = numbers(&stage["plain"]["objective"]);
    assert!(plain.len() > steps.len());
    assert!(
        plain
            .windows(2)
            .all(|pair| pair[1] <= pair[0] + 1e-5 * plain[0].abs()),
        "{plain:?}"
    );
    let terms = stage["solver"]["terms"].as_array().unwrap();
    let objective = numbers(&stage["solver"]["objective"]);
    assert_eq!(
        stage["terms"],
        json!(["proximity", "kernel energy", "coupling"])
    );
    for (terms, whole) in terms.iter().zip(&objective) {
        let sum: f64 = numbers(terms).iter().sum();
        assert!((sum - whole).abs() < 1e-4 * whole.abs(), "{sum} {whole}");
    }
    let frames = stage["frames"].as_array().unwrap();
    assert_eq!(frames.len(), steps.len());
    let last = frames.last().unwrap();
    let sizes: Vec<_> = last["branches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["rows"].clone())
        .collect();
    assert_eq!(sizes, [16, 8, 4]);
    let values = STANDARD
        .decode(last["branches"][0]["values"].as_str().unwrap())
        .unwrap();
    assert!(values.len() == 256 && values.iter().any(|value| *value > 200));
    let first = numbers(&last["classes"])[0];
    assert!((first - expected["classes"][0]["probability"].as_f64().unwrap()).abs() < 1e-6);
    assert_eq!(stage["inputs"].as_array().unwrap().len(), 3);
    assert_eq!(stage["reconstruction"], json!([]));
}

#[test]
fn every_control_has_its_effect() {
    let server = Running::start(trained(), "play", &[]);
    let calm = look(&server, json!({}));
    let steps = |view: &Value| {
        view["stages"][0]["solver"]["steps"]
            .as_array()
            .unwrap()
            .len()
    };
    let view = look(&server, json!({"steps": 2}));
    assert_eq!(
        (steps(&view), &view["stages"][0]["status"]),
        (2, &json!("step limit reached before the tolerance"))
    );
    let exact = look(&server, json!({"tolerance": 1e-5}));
    assert!(steps(&exact) > steps(&calm));
    let slow = look(&server, json!({"tolerance": 1e-5, "solver": "plain"}));
    assert!(steps(&slow) > steps(&exact));
    assert_eq!(
        slow["stages"][0]["solver"]["residuals"],
        slow["stages"][0]["plain"]["residuals"]
    );
    assert!(steps(&look(&server, json!({"solver": "broyden"}))) > 1);
    let coupled = look(&server, json!({"coupling": 0.9}));
    assert_ne!(coupled["classes"], calm["classes"]);
    let free = look(&server, json!({"coupling": 0.0}));
    assert_eq!(
        free["stages"][0]["terms"],
        json!(["proximity", "kernel energy"])
    );
    let noisy = |seed: u64| look(&server, json!({"noise": 0.5, "seed": seed}));
    assert_ne!(noisy(1)["picture"], calm["picture"]);
    assert_eq!(noisy(1)["classes"], noisy(1)["classes"]);
    assert_ne!(noisy(1)["picture"], noisy(2)["picture"]);
    // A perturbed state falls back to where it was.
    let back = |settle: usize| look(&server, json!({"perturbation": 1.0, "settle": settle}));
    let far = back(0);
    assert_eq!(far["calm"], calm["classes"][0]);
    assert_eq!(far["stages"][0]["perturbed"]["steps"], json!([1]));
    let near = back(8);
    let residuals = numbers(&near["stages"][0]["perturbed"]["residuals"]);
    assert_eq!(residuals.len(), 9);
    assert!(residuals[8] < residuals[0] / 100.0, "{residuals:?}");
    let gap = |view: &Value| {
        let first = |classes: &Value| classes["probability"].as_f64().unwrap();
        (first(&view["classes"][0]) - first(&calm["classes"][0])).abs()
    };
    assert!(gap(&near) < 0.02, "{near}");
    let frames = near["stages"][0]["frames"].as_array().unwrap();
    assert_eq!(
        frames
            .iter()
            .filter(|frame| frame["path"] == "perturbed")
            .count(),
        9
    );
    for (controls, part) in [
        (json!({"steps": 1000}), "steps"),
        (json!({"perturbation": -1}), "perturbation"),
        (json!({"lambda": 1}), "unknown field"),
    ] {
        let body = json!({"picture": picture(&server), "controls": controls});
        let error = server.post_json("/play/look", &body).error(400);
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn models_of_every_kind_can_be_looked_at() {
    for (model, solver, objective) in [
        ("opteq", true, true),
        ("mdeq", true, false),
        ("residual", false, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["--epochs", "1", "--out", "run", "--model", model];
        train(folder.path(), &arguments);
        let server = Running::start(folder.path(), "play", &[]);
        let names: Vec<String> = server.get("/play/model").json()["controls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|control| control["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names.contains(&"solver".to_owned()), solver, "{model}");
        assert_eq!(
            names.contains(&"perturbation".to_owned()),
            objective,
            "{model}"
        );
        assert!(!names.contains(&"coupling".to_owned()), "{model}");
        let expected = server.post("/v1/classify?top=3", &one()).json();
        let view = look(&server, json!({"noise": 0.0}));
        assert_eq!(view["classes"], expected["classes"], "{model}");
        let stage = &view["stages"][0];
        assert_eq!(
            stage["solver"]["residuals"].as_array().unwrap().is_empty(),
            !solver,
            "{model}"
        );
        assert_eq!(
            stage["solver"]["objective"].as_array().unwrap().is_empty(),
            !objective,
            "{model}"
        );
        assert!(
            !stage["frames"][0]["branches"]
                .as_array()
                .unwrap()
                .is_empty(),
            "{model}"
        );
    }
}
