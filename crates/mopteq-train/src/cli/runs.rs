//! `mopteq runs`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::Error;
use crate::checkpoint;
use crate::metrics;
use crate::names::shown;
use crate::progress::{duration, say, warn};
use crate::run::{RunError, RunFolder};

use super::shared::RUNS;

#[derive(Args)]
#[command(after_help = "Examples:\n  mopteq runs\n  mopteq runs experiments --sort test")]
pub struct RunsArguments {
    /// Folder that holds run folders, or the run folders themselves.
    #[arg(default_value = RUNS, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// What to sort by.
    #[arg(long, value_parser = ["name", "test", "valid", "time"], default_value = "name")]
    sort: String,
}

/// What is shown of a run.
struct Row {
    name: String,
    state: String,
    data: String,
    epochs: String,
    valid: Option<f64>,
    test: Option<f64>,
    seconds: f64,
    rate: f64,
    batch: usize,
    parameters: Option<usize>,
}

pub fn run(arguments: &RunsArguments, json: bool) -> Result<(), Error> {
    let mut runs = Vec::new();
    for folder in &arguments.folders {
        if let Ok(run) = RunFolder::open(folder) {
            runs.push(run);
            continue;
        }
        let entries = std::fs::read_dir(folder).map_err(|source| RunError::Io {
            file: folder.clone(),
            action: "read",
            source,
        })?;
        let inside = entries.flatten().map(|entry| entry.path());
        runs.extend(inside.filter_map(|path| RunFolder::open(&path).ok()));
    }
    runs.sort_by_key(|run| natural(&run.path().display().to_string()));
    let mut rows = Vec::new();
    for run in &runs {
        match row(run) {
            Ok(row) => rows.push(row),
            Err(error) => warn(error.one_line()),
        }
    }
    let falling = |value: fn(&Row) -> Option<f64>| {
        move |a: &Row, b: &Row| {
            let rank = |row: &Row| value(row).unwrap_or(f64::NEG_INFINITY);
            rank(b).total_cmp(&rank(a))
        }
    };
    match arguments.sort.as_str() {
        "test" => rows.sort_by(falling(|row| row.test)),
        "valid" => rows.sort_by(falling(|row| row.valid)),
        "time" => rows.sort_by(falling(|row| Some(row.seconds))),
        _ => {}
    }
    if json {
        for r in &rows {
            say(json!({
                "run": r.name, "state": r.state, "data": r.data, "epochs": r.epochs,
                "valid_accuracy": r.valid, "test_accuracy": r.test, "seconds": r.seconds,
                "learning_rate": r.rate, "batch_size": r.batch, "parameters": r.parameters,
            }));
        }
        return Ok(());
    }
    if rows.is_empty() {
        say("no runs yet; `mopteq train` makes one");
        return Ok(());
    }
    let percent = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2} %"));
    let header = [
        "run", "state", "data", "epochs", "valid", "test", "time", "lr", "batch", "params",
    ];
    let mut table: Vec<[String; 10]> = vec![header.map(str::to_owned)];
    table.extend(rows.into_iter().map(|r| {
        [
            shown(&r.name),
            r.state,
            r.data,
            r.epochs,
            percent(r.valid),
            percent(r.test),
            duration(r.seconds),
            r.rate.to_string(),
            r.batch.to_string(),
            r.parameters.map_or("-".into(), |count| count.to_string()),
        ]
    }));
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..10).map(|column| width(column).unwrap_or(0)).collect();
    for row in &table {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    Ok(())
}

/// Numbers in names sort as numbers: digits-2 before digits-10.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let after = &rest[text..];
        let digits = after
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(after.len());
        let number = after[..digits].parse().unwrap_or(0);
        parts.push((rest[..text].to_owned(), number));
        rest = &after[digits..];
    }
    parts
}

fn row(run: &RunFolder) -> Result<Row, Error> {
    let config = run.read_config()?;
    let history = run.read_history()?;
    let summary = run.read_summary()?;
    let done = history.epochs.last().map_or(0, |row| row.epoch);
    let state = match (&summary, run.lock()) {
        (Some(_), _) => "done",
        (None, Err(RunError::Locked { .. })) => "running",
        (None, _) if checkpoint::positions(run).is_empty() => "no checkpoint",
        (None, _) => "stopped",
    };
    Ok(Row {
        name: run.path().display().to_string(),
        state: state.into(),
        data: config.data.kind.name().into(),
        epochs: format!("{done}/{}", config.epochs),
        valid: history
            .best()
            .and_then(|best| history.value(best, metrics::VALID_ACCURACY)),
        test: summary.as_ref().map(|summary| summary.test_accuracy),
        seconds: history.seconds(),
        rate: config.learning_rate,
        batch: config.batch_size,
        parameters: summary.map(|summary| summary.parameters),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_sort_as_numbers() {
        let mut names = ["runs/a-10", "runs/a-2", "runs/a", "runs/b-1"];
        names.sort_by_key(|name| super::natural(name));
        assert_eq!(names, ["runs/a", "runs/a-2", "runs/a-10", "runs/b-1"]);
    }
}
