//! The charts of a run, of its test and of one picture's solve.

use super::plot::{Chart, Line};
use super::tested::Budget;
use crate::history::History;
use crate::inspect::Inspection;
use crate::metrics as m;

/// The accuracy over the limits on the solver's steps.
pub(super) fn budget_chart(budget: &Budget) -> Chart {
    let costs = &budget.costs;
    let limits = || costs.iter().map(|cost| cost.limit as f64);
    let own = budget.own.accuracy();
    Chart {
        title: "Accuracy and solver steps",
        x: "largest number of solver steps per picture",
        y: "test accuracy (%)",
        log: false,
        from_zero: false,
        lines: vec![
            Line {
                name: "with this limit",
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
pub(super) fn charts(history: &History) -> Vec<Chart> {
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

/// Residuals and objective of one picture's solve; only residuals if there is no single objective.
pub(super) fn solve_charts(seen: &Inspection) -> Vec<(&'static str, Chart)> {
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
