//! The report of a run: one page that needs nothing else, `report.html`.

mod confusion;
mod page;
mod plot;

use crate::Error;
use crate::checkpoint::{self, Position};
use crate::classifier::Classifier;
use crate::crash::Crash;
use crate::data::Picture;
use crate::evaluate::{self, Details, Mistake, Outcome, Scores, StepCost};
use crate::history::History;
use crate::inspect::{Inspection, inspect};
use crate::metrics as m;
use crate::run::RunFolder;
use crate::train::{Summary, Task};
use plot::{Chart, Line};

/// Mistakes that are shown.
const MISTAKES: usize = 12;
/// Pictures that are looked into.
const INSPECTED: usize = 3;
/// Test pictures that are solved again with fewer steps, at most: enough for a percent or two.
const BUDGET_PICTURES: usize = 1000;

/// The report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A plot could not be drawn.
    #[error("the report's plots cannot be drawn ({0})")]
    Plot(String),
    /// The device failed.
    #[error("the report's evaluation failed: {0}")]
    Device(String),
}

impl From<Crash> for ReportError {
    fn from(crash: Crash) -> Self {
        Self::Device(crash.message)
    }
}

/// What the final model did on the test pictures.
struct Tested<'a> {
    summary: Summary,
    details: Details,
    mistakes: Vec<Mistake>,
    /// The first test picture of some classes, and what is inside of the model for it.
    inspected: Vec<(usize, Inspection)>,
    /// What fewer solver steps cost; `None` for a model without a solver.
    budget: Option<Budget>,
    pictures: &'a [Picture],
}

/// The accuracy on some test pictures for limits on the solver's steps.
struct Budget {
    costs: Vec<StepCost>,
    /// With the solver of the run, on the same pictures.
    own: Scores,
}

/// Makes the report of a run and writes it into the run's folder.
///
/// Of a run that has not come to its end, the test pictures are left alone.
///
/// # Errors
///
/// When a file of the run cannot be read, the device fails, or the disk refuses.
pub fn write(run: &RunFolder, task: &Task) -> Result<(), Error> {
    let history = run.read_history()?;
    let tested = match run.read_summary()? {
        Some(summary) => Some(test(run, task, summary)?),
        None => None,
    };
    let html = page::html(run, task, &history, tested.as_ref())?;
    run.write_report(&html)?;
    Ok(())
}

fn test<'a>(run: &RunFolder, task: &'a Task, summary: Summary) -> Result<Tested<'a>, Error> {
    let (config, device) = (task.config(), &task.device().device);
    let model = Classifier::new(config, device)?;
    let model = checkpoint::load_model(run, Position::after(summary.tested_epoch), model)?;
    let pictures = task.test_pictures();
    let outcome = match task.outcome() {
        Some(outcome) => outcome.clone(),
        None => evaluate::infer(&model, config, pictures, device).map_err(ReportError::from)?,
    };
    let mut mistakes = evaluate::mistakes(&outcome, pictures);
    mistakes.truncate(MISTAKES);
    let mut inspected = Vec::new();
    for class in 0..config.classes.len().min(INSPECTED) {
        if let Some(index) = pictures.iter().position(|picture| picture.label == class) {
            let seen =
                inspect(&model, config, &pictures[index], device).map_err(ReportError::from)?;
            inspected.push((index, seen));
        }
    }
    let some = &pictures[..pictures.len().min(BUDGET_PICTURES)];
    let costs = evaluate::step_costs(&model, config, some, device).map_err(ReportError::from)?;
    let budget = (!costs.is_empty()).then(|| Budget {
        costs,
        own: evaluate::scores(&first(&outcome, some.len()), some),
    });
    Ok(Tested {
        summary,
        details: evaluate::details(&outcome, pictures, &config.classes),
        mistakes,
        inspected,
        budget,
        pictures,
    })
}

/// The outcome of the first pictures, with the averages of all.
fn first(outcome: &Outcome, count: usize) -> Outcome {
    Outcome {
        rows: outcome.rows.iter().take(count).cloned().collect(),
        forward: outcome.forward,
        layers: outcome.layers.clone(),
        solves: outcome.solves.iter().take(count).copied().collect(),
    }
}

/// The accuracy over the limits on the solver's steps.
fn budget_chart(budget: &Budget) -> Chart {
    let costs = &budget.costs;
    let limits = || costs.iter().map(|cost| cost.limit as f64);
    let own = budget.own.accuracy();
    Chart {
        title: "Accuracy and solver steps",
        x: "most solver steps a picture",
        y: "right test pictures (%)",
        log: false,
        from_zero: false,
        lines: vec![
            Line {
                name: "with so many steps",
                points: limits().zip(costs.iter().map(|c| c.accuracy)).collect(),
            },
            Line {
                name: "with the limit of the run",
                points: limits().map(|limit| (limit, own)).collect(),
            },
        ],
    }
}

/// The charts over the epochs of a run.
fn charts(history: &History) -> Vec<Chart> {
    let line = |name: &'static str, key: &str| Line {
        name,
        points: history
            .epochs
            .iter()
            .filter_map(|row| Some((row.epoch as f64, *row.values.get(key)?)))
            .collect(),
    };
    let chart = |title, y, log, from_zero, lines| Chart {
        title,
        x: "epoch",
        y,
        log,
        from_zero,
        lines,
    };
    let charts = vec![
        chart(
            "Loss",
            "cross entropy (nats)",
            false,
            false,
            vec![
                line("training", m::TRAIN_LOSS),
                line("validation", m::VALID_LOSS),
            ],
        ),
        chart(
            "Accuracy",
            "right pictures (%)",
            false,
            false,
            vec![
                line("training", m::TRAIN_ACCURACY),
                line("validation", m::VALID_ACCURACY),
            ],
        ),
        chart(
            "Learning rate",
            "step size",
            true,
            false,
            vec![line("learning rate", m::LEARNING_RATE)],
        ),
        chart(
            "Solver steps in training",
            "mean steps a picture",
            false,
            true,
            vec![
                line("forward", m::FORWARD_STEPS),
                line("backward", m::BACKWARD_STEPS),
            ],
        ),
        chart(
            "Residuals in training",
            "relative residual",
            true,
            false,
            vec![
                line("forward", m::FORWARD_RESIDUAL),
                line("backward", m::BACKWARD_RESIDUAL),
            ],
        ),
        chart(
            "Converged in training",
            "pictures within tolerance (%)",
            false,
            false,
            vec![
                line("forward", m::FORWARD_CONVERGED),
                line("backward", m::BACKWARD_CONVERGED),
            ],
        ),
        chart(
            "Gradient before clipping",
            "mean norm",
            false,
            true,
            vec![line("norm", m::GRADIENT_NORM)],
        ),
        chart(
            "Time",
            "seconds an epoch",
            false,
            true,
            vec![Line {
                name: "training and validation",
                points: history
                    .epochs
                    .iter()
                    .map(|r| (r.epoch as f64, r.seconds))
                    .collect(),
            }],
        ),
    ];
    charts.into_iter().filter(Chart::has_points).collect()
}

/// Residuals and objective of one picture's solve; only residuals where there is no one objective.
fn solve_charts(seen: &Inspection) -> Vec<(&'static str, Chart)> {
    let from = |first: usize, values: &[f64]| {
        let points = values.iter().enumerate();
        points
            .map(|(i, value)| ((first + i) as f64, *value))
            .collect()
    };
    let residuals = Chart {
        title: "Residual of one picture",
        x: "solver step",
        y: "relative residual",
        log: true,
        from_zero: false,
        lines: vec![
            Line {
                name: "the run's solver",
                points: from(1, &seen.solver_residuals),
            },
            Line {
                name: "plain iteration",
                points: from(1, &seen.plain_residuals),
            },
        ],
    };
    let objective = Chart {
        title: "Hidden objective of one picture",
        x: "plain step",
        y: "objective (no unit)",
        log: false,
        from_zero: false,
        lines: vec![Line {
            name: "objective",
            points: from(0, &seen.objective),
        }],
    };
    let mut charts = vec![("residuals.svg", residuals), ("objective.svg", objective)];
    if seen.objective.is_empty() {
        charts.pop();
    }
    charts
}

/// The curves of an inspection as SVG files, by name.
pub fn inspection_plots(seen: &Inspection) -> Vec<(&'static str, String)> {
    let drawn = solve_charts(seen)
        .into_iter()
        .map(|(name, chart)| Some((name, chart.draw().ok()?)));
    drawn.flatten().collect()
}
