//! Learning curves of a run as a picture.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::history::History;
use crate::metrics::{self, key};

const SIZE: (u32, u32) = (760, 900);
const FONT: &str = "sans-serif";
const COLOURS: [RGBColor; 2] = [RGBColor(31, 98, 178), RGBColor(214, 106, 20)];

/// One panel of the picture.
struct Panel {
    title: &'static str,
    unit: &'static str,
    /// Whether the axis begins at zero: for counts, whose size matters.
    from_zero: bool,
    /// Name and points (epoch, value) of each line.
    lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

/// Draws loss, accuracy and solver steps over the epochs, as SVG.
///
/// # Errors
///
/// The drawing library's message, should it fail.
pub fn draw(history: &History) -> Result<String, String> {
    let line = |split, name| -> Vec<(f64, f64)> {
        let key = key(split, name);
        let point = |row: &crate::history::EpochRow| {
            row.values.get(&key).map(|value| (row.epoch as f64, *value))
        };
        history.epochs.iter().filter_map(point).collect()
    };
    let panels = [
        Panel {
            title: "Loss",
            unit: "cross entropy",
            from_zero: false,
            lines: vec![
                ("training", line(&metrics::TRAIN, metrics::LOSS)),
                ("validation", line(&metrics::VALID, metrics::LOSS)),
            ],
        },
        Panel {
            title: "Accuracy",
            unit: "%",
            from_zero: false,
            lines: vec![
                ("training", line(&metrics::TRAIN, metrics::ACCURACY)),
                ("validation", line(&metrics::VALID, metrics::ACCURACY)),
            ],
        },
        Panel {
            title: "Solver steps in training",
            unit: "mean steps",
            from_zero: true,
            lines: vec![
                ("forward", line(&metrics::TRAIN, metrics::FORWARD_STEPS)),
                ("backward", line(&metrics::TRAIN, metrics::BACKWARD_STEPS)),
            ],
        },
    ];
    let last_epoch = history.epochs.last().map_or(1, |row| row.epoch) as f64;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|error| error.to_string())?;
        for (area, panel) in root.split_evenly((panels.len(), 1)).iter().zip(&panels) {
            draw_panel(area, panel, last_epoch).map_err(|error| error.to_string())?;
        }
        root.present().map_err(|error| error.to_string())?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawError = DrawingAreaErrorKind<std::io::Error>;

fn draw_panel(area: &Area<'_>, panel: &Panel, last_epoch: f64) -> Result<(), DrawError> {
    let values = panel
        .lines
        .iter()
        .flat_map(|(_, points)| points.iter().map(|point| point.1));
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    // An axis needs a length, whatever there is to show.
    let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
    let low = if panel.from_zero { 0.0 } else { low };
    let margin = if high > low { 0.05 * (high - low) } else { 0.5 };

    // Room on the right for the legend, which would otherwise lie on the lines.
    let right = last_epoch + 0.5 + 0.25 * last_epoch;

    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, (FONT, 20))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0.5..right, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .x_desc("epoch")
        .y_desc(panel.unit)
        .x_labels((last_epoch as usize + 1).min(11))
        // Labels between two epochs, or after the last, would mean nothing.
        .x_label_formatter(&|x| {
            if x.fract() == 0.0 && *x <= last_epoch {
                format!("{x}")
            } else {
                String::new()
            }
        })
        .axis_desc_style((FONT, 15))
        .label_style((FONT, 13))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for ((name, points), colour) in panel.lines.iter().zip(COLOURS) {
        if points.is_empty() {
            continue;
        }
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    if panel.lines.iter().all(|(_, points)| points.is_empty()) {
        return Ok(());
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 14))
        .draw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::EpochRow;

    #[test]
    fn draws_any_history() {
        let row = |epoch: usize| EpochRow {
            epoch,
            seconds: 1.0,
            values: [("train_loss".to_owned(), 1.0 / epoch as f64)].into(),
        };
        for epochs in [0, 1, 2, 300] {
            let svg = draw(&History {
                epochs: (1..=epochs).map(row).collect(),
            })
            .unwrap();
            assert!(svg.starts_with("<svg") && svg.contains("cross entropy"));
        }
    }
}
