//! Stacks of equilibria, and models without a hidden objective: what their solvers report, and
//! their states.

use burn::prelude::*;
use mopteq::{Deep, LayerSolve, Network};

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
        for equilibrium in config.equilibria_mut() {
            let mut solver = controls.solver(&equilibrium.forward);
            tolerance = Some(solver.termination.relative);
            if plain {
                solver.method = burn_deq::Solver::plain().method;
            }
            equilibrium.forward = solver;
        }
        // A solver is part of a model's config, not of its parameters.
        let model = Classifier::new(&config, &images.device()).map_err(text)?;
        Ok(model.load_record(own.clone().into_record()))
    };
    let (solver, plain) = (with(false)?, with(true)?);
    if let Network::Deep(network) = solver.network() {
        let plain = plain.network().forward(images.clone()).layers;
        return layers(network, images, &plain, tolerance);
    }
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
        stages: vec![stage],
    })
}

/// The equilibria of a stack, one after the other. `plain` are those of plain iteration.
fn layers(
    network: &Deep,
    images: Tensor<4>,
    plain: &[LayerSolve],
    tolerance: Option<f64>,
) -> Result<Found, String> {
    let prediction = network.forward(images.clone());
    let logits: Vec<f64> = prediction.logits.try_into_vec_as().map_err(text)?;
    let seen = network.layers(images);
    let solves = prediction.layers.iter().zip(plain).zip(&seen);
    let stages = solves.map(|((solve, plain), seen)| {
        let report = &solve.forward;
        let own = |picture: &Tensor<4>| branch_maps(std::slice::from_ref(picture));
        Ok(Stage {
            name: solve.name.clone(),
            status: report.status.first().map(ToString::to_string),
            tolerance,
            solver: path(report),
            plain: path(&plain.forward),
            frames: vec![Frame {
                path: "solve",
                step: report.steps.first().copied().unwrap_or(0),
                branches: branch_maps(&seen.state)?,
                classes: softmax(&logits),
            }],
            inputs: own(&seen.input)?,
            reconstruction: match &seen.reconstruction {
                Some(picture) => own(picture)?,
                None => Vec::new(),
            },
            ..Stage::default()
        })
    });
    let stages = stages.collect::<Result<_, String>>()?;
    Ok(Found {
        logits,
        calm: None,
        stages,
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
