//! The final model's results on the test pictures.

use super::ReportError;
use crate::Error;
use crate::checkpoint::{self, Position};
use crate::classifier::Classifier;
use crate::data::Picture;
use crate::evaluate::{self, Details, Mistake, Outcome, Scores, StepCost};
use crate::inspect::{Inspection, inspect};
use crate::run::{RunFolder, Summary};
use crate::train::Task;

/// Number of mistakes to show.
const MISTAKES: usize = 12;
/// Number of pictures to inspect.
const INSPECTED: usize = 3;
/// Largest number of test pictures that are solved again with fewer steps: enough for a percent or
/// two.
const BUDGET_PICTURES: usize = 1000;

/// What the final model did on the test pictures.
pub(super) struct Tested<'a> {
    pub(super) summary: Summary,
    pub(super) details: Details,
    pub(super) mistakes: Vec<Mistake>,
    /// The first test picture of some classes, with an inspection of the model for it.
    pub(super) inspected: Vec<(usize, Inspection)>,
    /// What fewer solver steps cost; `None` for a model without a solver.
    pub(super) budget: Option<Budget>,
    pub(super) pictures: &'a [Picture],
}

/// The accuracy on some test pictures for limits on the solver's steps.
pub(super) struct Budget {
    pub(super) costs: Vec<StepCost>,
    /// Scores with the solver of the run, on the same pictures.
    pub(super) own: Scores,
}

pub(super) fn test<'a>(
    run: &RunFolder,
    task: &'a Task,
    summary: Summary,
) -> Result<Tested<'a>, Error> {
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
