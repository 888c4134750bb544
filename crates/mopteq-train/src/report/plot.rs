//! Line charts as SVG, legible in light and dark and on a telephone.

use plotters::prelude::*;

/// Size of the drawing. It is scaled to the available width.
const SIZE: (u32, u32) = (400, 270);
const FONT: &str = "sans-serif";
/// Stands for the colour of the surrounding text, which the page chooses.
pub(super) const INK: RGBColor = RGBColor(1, 2, 3);
const INK_HEX: &str = "#010203";
/// Blue and orange of equal contrast on white and on black.
const COLOURS: [RGBColor; 3] = [
    RGBColor(58, 124, 214),
    RGBColor(222, 118, 34),
    RGBColor(60, 150, 90),
];

/// A line of a chart.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart of one or a few lines.
pub(super) struct Chart {
    pub(super) title: &'static str,
    /// What the axes show, with the unit.
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    /// Whether the vertical axis counts powers of ten.
    pub(super) log: bool,
    /// Whether it begins at zero: for counts, whose size matters.
    pub(super) from_zero: bool,
    pub(super) lines: Vec<Line>,
}

impl Chart {
    /// Whether there is anything to draw.
    pub(super) fn has_points(&self) -> bool {
        self.lines.iter().any(|line| !line.points.is_empty())
    }

    /// Draws the chart as a file of its own.
    pub(super) fn draw(mut self) -> Result<String, String> {
        for line in &mut self.lines {
            line.points
                .retain(|(_, y)| y.is_finite() && (!self.log || *y > 0.0));
            if self.log {
                line.points.iter_mut().for_each(|(_, y)| *y = y.log10());
            }
        }
        let mut svg = String::new();
        self.draw_into(&mut svg)
            .map_err(|error| error.to_string())?;
        Ok(svg.replace(INK_HEX, "currentColor"))
    }

    fn draw_into(&self, svg: &mut String) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let points = || {
            self.lines
                .iter()
                .flat_map(|line| line.points.iter().copied())
        };
        let (x_low, x_high) = span(points().map(|point| point.0), 0.0);
        let (mut y_low, y_high) = span(points().map(|point| point.1), 0.05);
        if self.from_zero {
            y_low = 0.0;
        }
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, (FONT, 16).into_font().color(&INK))
            .margin(6)
            .margin_right(14)
            .x_label_area_size(38)
            .y_label_area_size(60)
            .build_cartesian_2d(x_low..x_high, y_low..y_high)?;
        let whole = |x: &f64| match x.fract() == 0.0 {
            true => format!("{x}"),
            // A label between two epochs would mean nothing.
            false => String::new(),
        };
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&whole)
            .y_label_formatter(&|y| if self.log { power(*y) } else { number(*y) })
            .axis_style(INK.mix(0.7))
            .bold_line_style(INK.mix(0.15))
            .light_line_style(TRANSPARENT)
            .axis_desc_style((FONT, 13).into_font().color(&INK))
            .label_style((FONT, 12).into_font().color(&INK))
            .draw()?;
        for (line, colour) in self.lines.iter().zip(COLOURS) {
            if line.points.is_empty() {
                continue;
            }
            let style = colour.stroke_width(2);
            // Points tell single epochs apart; in a long run they would hide the line.
            let size = if line.points.len() > 40 { 0 } else { 3 };
            let series = LineSeries::new(line.points.iter().copied(), style).point_size(size);
            chart
                .draw_series(series)?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        }
        if self.has_points() {
            chart
                .configure_series_labels()
                .position(self.legend_place())
                .background_style(TRANSPARENT)
                .border_style(INK.mix(0.3))
                .label_font((FONT, 12).into_font().color(&INK))
                .draw()?;
        }
        root.present()
    }

    /// The right corner that the lines leave free: above falling lines, below rising ones.
    fn legend_place(&self) -> SeriesLabelPosition {
        let rises = self.lines.iter().filter_map(|line| {
            let (first, last) = (line.points.first()?, line.points.last()?);
            Some(last.1 - first.1)
        });
        // An axis that begins at zero has room there.
        if self.from_zero || rises.sum::<f64>() > 0.0 {
            SeriesLabelPosition::LowerRight
        } else {
            SeriesLabelPosition::UpperRight
        }
    }
}

/// The range of an axis with a margin on both sides. It is never empty, whatever there is to show.
fn span(values: impl Iterator<Item = f64>, margin: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low > high {
        return (0.0, 1.0);
    }
    let room = if high > low {
        margin * (high - low)
    } else {
        0.5
    };
    (low - room, high + room)
}

fn number(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".into()
    } else if !(1e-3..1e4).contains(&size) {
        format!("{value:.1e}").replace(".0e", "e")
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

/// The label of a power of ten.
fn power(exponent: f64) -> String {
    let value = 10_f64.powf(exponent);
    if (1e-2..1e4).contains(&value) && exponent.fract() == 0.0 {
        number((value * 1e3).round() / 1e3)
    } else {
        let text = format!("{value:.1e}");
        text.replace(".0e", "e")
    }
}

/// An SVG file as part of a page: scaled to the width there, and without the name of its
/// language, which only files need.
pub(super) fn inline(svg: &str) -> String {
    let body = svg.find("<svg").map_or(svg, |start| &svg[start..]);
    let Some(end) = body.find('>') else {
        return String::new();
    };
    let kept = body[..end]
        .split_whitespace()
        .skip_while(|part| !part.starts_with("viewBox"))
        .take(4)
        .collect::<Vec<_>>()
        .join(" ");
    format!("<svg role=\"img\" {kept}{}", &body[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(log: bool, points: Vec<(f64, f64)>) -> Chart {
        Chart {
            title: "Residual",
            x: "epoch",
            y: "relative",
            log,
            from_zero: false,
            lines: vec![Line {
                name: "forward",
                points,
            }],
        }
    }

    #[test]
    fn has_axes_units_and_a_legend() {
        for log in [false, true] {
            let svg = chart(log, vec![(1.0, 0.1), (2.0, 0.001)]).draw().unwrap();
            for text in ["Residual", "epoch", "relative", "forward", "currentColor"] {
                assert!(svg.contains(text), "no {text}");
            }
            let inline = inline(&svg);
            assert!(
                inline.starts_with("<svg role=\"img\" viewBox=\"0 0 400 270\""),
                "{inline}"
            );
            assert!(!inline.contains("http") && !inline.contains(INK_HEX));
        }
    }

    #[test]
    fn draws_whatever_there_is() {
        for points in [vec![], vec![(1.0, 2.0)], vec![(1.0, f64::NAN), (2.0, -1.0)]] {
            for log in [false, true] {
                assert!(chart(log, points.clone()).draw().unwrap().contains("<svg"));
            }
        }
        assert_eq!(
            (number(0.25), number(1e-5), power(-3.0)),
            ("0.25".into(), "1e-5".into(), "1e-3".into())
        );
    }
}
