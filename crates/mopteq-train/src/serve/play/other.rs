//! Models without a hidden objective: what their solver reports, and their states.

use burn::prelude::*;

use super::controls::Controls;
use super::hidden::Found;
use super::view::{Frame, Path, Stage, branch_maps, text};
use crate::classifier::Classifier;
use crate::evaluate::softmax;
use crate::predict::Predictor;

/// Solves one picture `[1, channels, h, w]` as the controls say.
pub(super) fn look(
    predictor: &Predictor,
    images: Tensor<4>,
    controls: &Controls,
) -> Result<Found, String> {
    let own = predictor.model();
    let mut config = predictor.config().clone();
    let mut tolerance = None;
    let mut with = |plain: bool| -> Result<Classifier, String> {
        if let Some(equilibrium) = config.equilibrium_mut() {
            let mut solver = controls.solver(&equilibrium.forward);
            tolerance = Some(solver.termination.relative);
            if plain {
                solver.method = burn_deq::Solver::plain().method;
            }
            equilibrium.forward = solver;
        }
        // A solver is part of a model's config and not of its parameters.
        let model = Classifier::new(&config, &images.device()).map_err(text)?;
        Ok(model.load_record(own.clone().into_record()))
    };
    let (solver, plain) = (with(false)?, with(true)?);
    let prediction = solver.network().forward(images.clone());
    let report = &prediction.forward;
    let logits: Vec<f64> = prediction.logits.clone().try_into_vec_as().map_err(text)?;
    let state = solver.network().states(images.clone());
    let mut stage = Stage {
        name: predictor.config().model.name().into(),
        status: report.status.first().map(ToString::to_string),
        tolerance,
        solver: path(report),
        ..Stage::default()
    };
    if !report.status.is_empty() {
        stage.plain = path(&plain.network().forward(images).forward);
    }
    stage.frames = vec![Frame {
        path: "solve",
        step: report.steps.first().copied().unwrap_or(0),
        branches: branch_maps(&state)?,
        classes: softmax(&logits),
    }];
    Ok(Found {
        logits,
        calm: None,
        stage,
    })
}

fn path(report: &burn_deq::Report) -> Path {
    let trace = report.trace.iter();
    let (steps, residuals) = trace
        .filter_map(|(step, residuals)| Some((*step, *residuals.first()?)))
        .unzip();
    Path {
        steps,
        residuals,
        ..Path::default()
    }
}
