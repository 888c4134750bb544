//! The page of `play` in a browser, driven as a person would.

use std::fs;

use image::{GrayImage, Luma};
use serde_json::{Value, json};

use crate::server::*;
use crate::support::*;
use crate::webdriver::Browser;

/// Enough to tell a seven from a one. A model with one objective has all that the page can show.
const TRAINING: [&str; 13] = [
    "train",
    "--preset",
    "paper",
    "--device",
    "cpu",
    "--epochs",
    "3",
    "--limit",
    "1500",
    "--test-limit",
    "100",
    "--out",
    "run",
];
/// Keys of WebDriver.
const TAB: &str = "\u{e004}";
const LEFT: &str = "\u{e012}";
const UP: &str = "\u{e013}";
const RIGHT: &str = "\u{e014}";
const DOWN: &str = "\u{e015}";
const ESCAPE: &str = "\u{e00c}";

/// The answer, once there is a newer one than `before`.
fn answer_after(browser: &Browser, before: u64) -> String {
    browser.wait(&format!(
        "Number(document.body.dataset.answers || 0) > {before}"
    ));
    text(&browser.run("return document.body.dataset.answer"))
}

/// Waits until the page has shown everything that was asked for: while a digit is drawn, the
/// answers are those of its beginning.
fn settle(browser: &Browser) {
    browser.wait("document.body.dataset.answers && !drawing.busy && !newest.busy");
}

fn answers(browser: &Browser) -> u64 {
    browser
        .run("return Number(document.body.dataset.answers || 0)")
        .as_u64()
        .unwrap()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}

/// Draws lines between places on the pad, from 0 to 1.
fn draw(browser: &Browser, corners: &[(f64, f64)]) {
    let edges = browser.run(
        "const box = document.querySelector('#pad').getBoundingClientRect();
         return [box.left, box.top, box.width, box.height];",
    );
    let edge = |index: usize| edges[index].as_f64().unwrap();
    let mut places = Vec::new();
    for pair in corners.windows(2) {
        for part in 0..=10 {
            let at = |from: f64, to: f64| from + (to - from) * f64::from(part) / 10.0;
            let (x, y) = (at(pair[0].0, pair[1].0), at(pair[0].1, pair[1].1));
            places.push((edge(0) + x * edge(2), edge(1) + y * edge(3)));
        }
    }
    browser.drag(&places);
}

#[test]
#[ignore = "needs chromium and chromedriver"]
fn browser_draws_and_reads_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    // Somebody who works on the page names a trained run, which saves the training.
    match std::env::var_os("MOPTEQ_BROWSER_RUN") {
        Some(run) => std::os::unix::fs::symlink(run, path.join("run")).unwrap(),
        None => drop(succeed(path, &TRAINING)),
    }
    let server = Running::start(path, "play", &[]);
    let browser = Browser::start();
    browser.open(&format!("http://{}/", server.address));
    browser.wait("document.body.dataset.ready");

    // A person draws a seven.
    draw(&browser, &[(0.25, 0.22), (0.75, 0.22), (0.42, 0.82)]);
    settle(&browser);
    assert_eq!(browser.run("return document.body.dataset.answer"), "7");
    browser.wait("document.querySelectorAll('#classes .class').length === 3");
    let heard = text(&browser.run("return document.querySelector('#classes').textContent"));
    assert!(heard.starts_with('7') && heard.contains('%'), "{heard}");
    let drawn = "[...document.querySelectorAll('#stages canvas')].length >= 6
        && document.querySelectorAll('#stages .chart > svg').length === 4";
    browser.wait(drawn);
    // Everything that is drawn is also said.
    let silent = "return [...document.querySelectorAll('canvas, svg[role]')]
        .filter((part) => !part.getAttribute('aria-label')).length";
    assert_eq!(browser.run(silent), 0);

    // Steps back through the solve: before its first step there is nothing.
    browser.run(
        "const slider = document.querySelector('#stage-0-step');
         slider.value = 0; slider.dispatchEvent(new Event('input'));",
    );
    assert!(
        text(&browser.run("return document.querySelector('.scrub label').textContent"))
            .starts_with("step 1,")
    );

    // A slider changes what the model sees, and goes back.
    let seen = "return document.querySelector('#seen').toDataURL()";
    let (clean, before) = (text(&browser.run(seen)), answers(&browser));
    browser.run("document.querySelector('#control-noise').focus()");
    browser.keys(&RIGHT.repeat(20));
    answer_after(&browser, before);
    browser
        .wait("document.querySelector('#control-noise').getAttribute('aria-valuetext') === '0.2'");
    browser.wait(&format!(
        "document.querySelector('#seen').toDataURL() !== '{clean}'"
    ));
    browser.run("document.querySelector('#reset').click()");
    browser.wait(&format!(
        "document.querySelector('#seen').toDataURL() === '{clean}'"
    ));

    // A file that is not a picture is reported, and one that is goes through.
    let before = answers(&browser);
    fs::write(path.join("notes.png"), "this is text").unwrap();
    browser.choose("#file", &path.join("notes.png"));
    browser.wait("!document.querySelector('#alert').hidden");
    let alert = text(&browser.run("return document.querySelector('#alert').textContent"));
    assert!(alert.starts_with("notes.png: not a picture"), "{alert}");
    let one = |x: u32, y: u32| {
        if (12..16).contains(&x) && (4..24).contains(&y) {
            0
        } else {
            255
        }
    };
    GrayImage::from_fn(28, 28, |x, y| Luma([one(x, y)]))
        .save(path.join("one.png"))
        .unwrap();
    browser.run("document.querySelector('#invert').click()");
    browser.choose("#file", &path.join("one.png"));
    assert_eq!(answer_after(&browser, before), "1");
    browser.wait("document.querySelector('#alert').hidden");

    // The keyboard alone: to the pad, and a vertical line.
    let before = answers(&browser);
    browser.run("document.activeElement.blur(); scrollTo(0, 0)");
    browser.run("document.querySelector('.skip').focus()");
    browser.keys(TAB);
    assert_eq!(browser.run("return document.activeElement.id"), "pad");
    browser.keys(
        &[
            ESCAPE,
            &LEFT.repeat(2),
            &UP.repeat(9),
            " ",
            &DOWN.repeat(18),
            " ",
        ]
        .concat(),
    );
    answer_after(&browser, before);
    settle(&browser);
    assert_eq!(browser.run("return document.body.dataset.answer"), "1");
    assert!(
        text(&browser.run("return document.querySelector('#pad-said').textContent"))
            .contains("pen up")
    );

    // A telephone, and the dark.
    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    browser.command("Emulation.setDeviceMetricsOverride", phone);
    browser.wait("innerWidth === 360 && document.documentElement.scrollWidth <= 360");
    let light = browser.run("return getComputedStyle(document.body).backgroundColor");
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.command("Emulation.setEmulatedMedia", dark);
    let paper = text(&browser.run("return getComputedStyle(document.body).backgroundColor"));
    assert_ne!(json!(paper), light);

    assert_eq!(browser.console(), Vec::<String>::new());
}
