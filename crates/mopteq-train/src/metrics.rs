//! What is measured in every epoch, under which name.

use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::store::Split;
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry,
};

use crate::classifier::{SolveStats, SolverItem};

/// The split that is trained on.
pub const TRAIN: Split = Split::Train;
/// The split that is held out.
pub const VALID: Split = Split::Valid;

/// Name of Burn's loss metric.
pub const LOSS: &str = "Loss";
/// Name of Burn's accuracy metric, in percent.
pub const ACCURACY: &str = "Accuracy";
/// Mean steps of the solve for the equilibrium.
pub const FORWARD_STEPS: &str = "Forward steps";
/// Mean relative residual of the solve for the equilibrium.
pub const FORWARD_RESIDUAL: &str = "Forward residual";
/// Share of samples whose equilibrium met the tolerance, in percent.
pub const FORWARD_CONVERGED: &str = "Forward converged";
/// Mean steps of the solve for the gradient.
pub const BACKWARD_STEPS: &str = "Backward steps";
/// Mean relative residual of the solve for the gradient.
pub const BACKWARD_RESIDUAL: &str = "Backward residual";
/// Share of samples whose gradient met the tolerance, in percent.
pub const BACKWARD_CONVERGED: &str = "Backward converged";

/// The key of a metric in the history, such as `train_forward_steps`.
pub fn key(split: &Split, name: &str) -> String {
    format!("{split}_{}", name.to_lowercase().replace(' ', "_"))
}

/// One number of the solver, averaged over the samples of an epoch.
#[derive(Clone)]
pub struct SolverMetric {
    name: MetricName,
    unit: Option<&'static str>,
    higher_is_better: bool,
    select: fn(&SolverItem) -> Option<SolveStats>,
    value: fn(&SolveStats) -> f64,
    state: NumericMetricState,
    samples: usize,
}

impl SolverMetric {
    /// The three numbers of the forward solve: steps, residual, converged.
    pub fn forward() -> [Self; 3] {
        Self::three(
            [FORWARD_STEPS, FORWARD_RESIDUAL, FORWARD_CONVERGED],
            |item| item.forward,
        )
    }

    /// The three numbers of the backward solve: steps, residual, converged.
    pub fn backward() -> [Self; 3] {
        Self::three(
            [BACKWARD_STEPS, BACKWARD_RESIDUAL, BACKWARD_CONVERGED],
            |item| item.backward,
        )
    }

    fn three(names: [&str; 3], select: fn(&SolverItem) -> Option<SolveStats>) -> [Self; 3] {
        let metric = |name: &str, unit, higher_is_better, value| Self {
            name: Arc::new(name.to_owned()),
            unit,
            higher_is_better,
            select,
            value,
            state: NumericMetricState::new(),
            samples: 0,
        };
        let [steps, residual, converged] = names;
        [
            metric(steps, None, false, |stats| stats.steps),
            metric(residual, None, false, |stats| stats.residual),
            metric(converged, Some("%"), true, |stats| 100.0 * stats.converged),
        ]
    }

    fn format(&self) -> FormatOptions {
        let format = FormatOptions::new(self.name()).precision(2);
        match self.unit {
            Some(unit) => format.unit(unit),
            None => format,
        }
    }
}

impl Metric for SolverMetric {
    type Input = SolverItem;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        let unit = self.unit.map(str::to_owned);
        NumericAttributes {
            unit,
            higher_is_better: self.higher_is_better,
        }
        .into()
    }

    fn update(
        &mut self,
        item: &SolverItem,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let Some(stats) = (self.select)(item) else {
            return Ok(SerializedEntry::not_available(self.unit));
        };
        self.samples += stats.samples;
        self.state.update((self.value)(&stats), stats.samples);
        Ok(self.state.compute_update(self.format()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(match self.samples {
            0 => SerializedEntry::not_available(self.unit),
            _ => self.state.compute_final(self.format()),
        })
    }

    fn clear(&mut self) {
        self.state.reset();
        self.samples = 0;
    }
}

impl Numeric for SolverMetric {
    fn value(&self) -> Option<NumericEntry> {
        (self.samples > 0).then(|| self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        (self.samples > 0).then(|| self.state.running_value())
    }

    // NaN when there was no solve: the history leaves such values out.
    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}
