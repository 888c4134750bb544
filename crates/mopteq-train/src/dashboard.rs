//! Burn's dashboard on the terminal.

use burn::train::Interrupter;
use burn::train::metric::{
    MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry, SerializedEntry,
};
use burn::train::renderer::tui::TuiMetricsRendererWrapper;
use burn::train::renderer::{MetricState, MetricsRenderer};

use crate::history::EpochRow;
use crate::metrics::{self, Sums};
use crate::progress::{self, Display, Extent, View};

/// The display for a view.
pub(crate) fn display(view: View, extent: Extent) -> Box<dyn Display> {
    match view {
        View::Dashboard => Box::new(Dashboard::start(extent)),
        _ => progress::display(view, extent),
    }
}

/// Burn's dashboard, fed with the metrics of a run.
struct Dashboard {
    renderer: Box<dyn MetricsRenderer>,
    interrupter: Interrupter,
    pictures: usize,
}

impl Dashboard {
    /// The metrics to show: their key, title and unit, and whether more is better.
    const SHOWN: [(&'static str, &'static str, Option<&'static str>, bool); 8] = [
        (metrics::TRAIN_LOSS, "Loss", None, false),
        (metrics::VALID_LOSS, "Loss", None, false),
        (metrics::TRAIN_ACCURACY, "Accuracy", Some("%"), true),
        (metrics::VALID_ACCURACY, "Accuracy", Some("%"), true),
        (metrics::FORWARD_STEPS, "Forward steps", None, false),
        (metrics::BACKWARD_STEPS, "Backward steps", None, false),
        (metrics::FORWARD_RESIDUAL, "Forward residual", None, false),
        (metrics::BACKWARD_RESIDUAL, "Backward residual", None, false),
    ];

    /// Takes over the terminal.
    fn start(extent: Extent) -> Self {
        let interrupter = Interrupter::new();
        let Extent { first, epochs, .. } = extent;
        let resumed = (first > 1).then_some(first - 1);
        let mut renderer: Box<dyn MetricsRenderer> =
            Box::new(TuiMetricsRendererWrapper::new(interrupter.clone(), resumed));
        for (name, title, unit, higher_is_better) in Self::SHOWN {
            if name.starts_with("train") {
                renderer.register_metric(MetricDefinition {
                    metric_id: Self::id(title),
                    name: title.to_owned().into(),
                    description: None,
                    attributes: NumericAttributes {
                        unit: unit.map(str::to_owned),
                        higher_is_better,
                    }
                    .into(),
                });
            }
        }
        renderer.start(epochs, first, None, None);
        Self {
            renderer,
            interrupter,
            pictures: extent.pictures,
        }
    }

    fn id(title: &str) -> MetricId {
        MetricId::new(title.to_owned().into())
    }

    fn show(&mut self, name: &str, value: f64) {
        let Some((_, title, unit, _)) = Self::SHOWN.iter().find(|shown| shown.0 == name) else {
            return;
        };
        let text = format!(
            "{value:.4}{}",
            unit.map(|unit| format!(" {unit}")).unwrap_or_default()
        );
        let entry = MetricEntry::new(
            Self::id(title),
            SerializedEntry::new(text, value.to_string()),
        );
        let state = MetricState::Numeric(entry, Some(NumericEntry::Value(value)));
        if name.starts_with("train") {
            self.renderer.update_train(state);
        } else {
            self.renderer.update_valid(state);
        }
    }
}

impl Display for Dashboard {
    fn start_epoch(&mut self) {
        self.renderer.start_split("train", self.pictures);
    }

    fn batch(&mut self, _: usize, computed: usize, sums: &Sums) {
        for (name, value) in sums.values() {
            self.show(&name, value);
        }
        self.renderer.update_split(computed);
    }

    fn end_epoch(&mut self, row: &EpochRow) {
        self.renderer.end_split();
        for (name, value) in &row.values {
            self.show(name, *value);
        }
        self.renderer.update_epoch(row.epoch);
    }

    fn wants_to_stop(&self) -> bool {
        self.interrupter.should_stop()
    }
}

impl Drop for Dashboard {
    // Gives the terminal back, however the training ended.
    fn drop(&mut self) {
        self.renderer.end();
        let _ = self.renderer.on_train_end(None);
    }
}
