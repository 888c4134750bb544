//! Data and drawing for the examples of the solver crate.
#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::error::Error;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Int, Tensor};
use burn_deq::{Report, Status};
use plotters::prelude::*;

const FONT: &str = "sans-serif";
/// Blue, orange, green, purple, brown, grey: distinct in lightness for any colour vision.
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 98, 178),
    RGBColor(214, 106, 20),
    RGBColor(30, 140, 90),
    RGBColor(140, 70, 160),
    RGBColor(110, 70, 40),
    RGBColor(110, 110, 110),
];

/// The mean cross entropy of logits `[batch, classes]`.
pub fn cross_entropy(logits: &Tensor<2>, targets: &Tensor<1, Int>) -> Tensor<1> {
    let loss = CrossEntropyLossConfig::new().init(&logits.device());
    loss.forward(logits.clone(), targets.clone())
}

/// Share of the samples whose largest logit is that of their class, in percent.
pub fn accuracy(logits: &Tensor<2>, targets: &Tensor<1, Int>) -> f32 {
    let guess = logits.clone().argmax(1).squeeze_dim::<1>(1);
    let hits = guess.equal(targets.clone()).float();
    100.0 * hits.mean().into_scalar::<f32>()
}

/// One line about a solve: mean steps, worst residual, how many samples converged.
pub fn in_words(report: &Report) -> String {
    format!(
        "{:4.1} steps, residual {:.0e}, {}/{} converged",
        report.mean_steps(),
        report.relative_residual.iter().copied().fold(0.0, f64::max),
        report.count(Status::Converged),
        report.status.len()
    )
}

/// Two interleaved spirals of `n` points each that turn by `angle`: coordinates x, y, x, y, ... and
/// the label of each point.
pub fn spirals(n: usize, angle: f32) -> (Vec<f32>, Vec<i32>) {
    let point = |i: usize| {
        let t = (i / 2) as f32 / n as f32;
        let radius = if i.is_multiple_of(2) { 2.0 } else { -2.0 } * (0.1 + t);
        [radius * (angle * t).cos(), radius * (angle * t).sin()]
    };
    let labels = (0..2 * n).map(|i| (i % 2) as i32).collect();
    ((0..2 * n).flat_map(point).collect(), labels)
}

/// Draws points and the regions that a classifier assigns to their two classes, as SVG.
/// `probability` returns that of class 1 for points x, y, x, y, ...
///
/// # Errors
///
/// Returns the errors of the classifier, the drawing and the file system.
pub fn draw_regions(
    path: &str,
    points: &[f32],
    labels: &[i32],
    probability: impl Fn(&[f32]) -> Result<Vec<f32>, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    /// Cells per side, and shades.
    const CELLS: usize = 100;
    const SHADES: f32 = 6.0;
    let half = 1.15 * points.iter().fold(0f32, |m, v| m.max(v.abs()));
    let size = 2.0 * half / CELLS as f32;
    let edge = |i: usize| i as f32 * size - half;
    let centres = (0..CELLS * CELLS)
        .flat_map(|i| [edge(i % CELLS) + size / 2.0, edge(i / CELLS) + size / 2.0]);
    let shades: Vec<f32> = probability(&centres.collect::<Vec<_>>())?
        .into_iter()
        .map(|p| (p * SHADES).round() / SHADES)
        .collect();

    let root = SVGBackend::new(path, (640, 640)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("What an equilibrium MLP makes of two spirals", (FONT, 24))
        .margin(14)
        .x_label_area_size(52)
        .y_label_area_size(62)
        .build_cartesian_2d(-half..half, -half..half)?;
    let tint = |p: f32| {
        // From class 0 through white to class 1.
        let colour = COLOURS[usize::from(p > 0.5)];
        colour.mix(f64::from((2.0 * p - 1.0).abs()) * 0.45)
    };
    for (row, cells) in shades.chunks(CELLS).enumerate() {
        // Cells of one shade form one rectangle, which keeps the file small.
        let mut start = 0;
        for run in cells.chunk_by(|a, b| a == b) {
            let corners = [
                (edge(start), edge(row)),
                (edge(start + run.len()), edge(row + 1)),
            ];
            start += run.len();
            if run[0] != 0.5 {
                chart.draw_series([Rectangle::new(corners, tint(run[0]).filled())])?;
            }
        }
    }
    for (class, name) in ["class 0", "class 1"].into_iter().enumerate() {
        let of_class = points.chunks(2).zip(labels);
        let of_class = of_class.filter(|(_, label)| **label as usize == class);
        let style = COLOURS[class].filled();
        chart
            .draw_series(of_class.map(|(p, _)| Circle::new((p[0], p[1]), 3, style)))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 10, y), 4, style));
    }
    let mut mesh = chart.configure_mesh();
    mesh.disable_mesh()
        .x_desc("x₁")
        .y_desc("x₂")
        .axis_desc_style((FONT, 18))
        .label_style((FONT, 16))
        .draw()?;
    legend(&mut chart)?;
    root.present()?;
    Ok(())
}

/// A line of a plot: its name and points.
pub type Line = (String, Vec<(f64, f64)>);

/// Draws lines over evaluations of a map, with a logarithmic vertical axis, as SVG.
///
/// # Errors
///
/// Returns the errors of the drawing and the file system.
pub fn draw_residuals(path: &str, title: &str, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let last = points().fold(1.0, |m: f64, p| m.max(p.0));
    let low = points().fold(f64::INFINITY, |m, p| m.min(p.1));
    let high = points().fold(0.0, |m: f64, p| m.max(p.1));

    let root = SVGBackend::new(path, (760, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, (FONT, 22))
        .margin(14)
        .x_label_area_size(52)
        .y_label_area_size(78)
        .build_cartesian_2d(0.0..last * 1.02, (low / 2.0..high * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("evaluations of f")
        .y_desc("relative residual |f(z) − z| / |f(z)|")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0e}"))
        .axis_desc_style((FONT, 18))
        .label_style((FONT, 16))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    legend(&mut chart)?;
    root.present()?;
    Ok(())
}

/// Draws times over work, both relative to the smallest, on logarithmic axes with a line of
/// proportionality, as SVG.
///
/// # Errors
///
/// Returns the errors of the drawing and the file system.
pub fn draw_scaling(path: &str, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let last = points().fold(1.0, |m: f64, p| m.max(p.0).max(p.1)) * 1.2;
    let rounded = |x: &f64| match x / 10f64.powf(x.log10().floor()) {
        digit
            if [1.0, 2.0, 5.0]
                .map(|d| (digit - d).abs() < 1e-6)
                .contains(&true) =>
        {
            format!("{x:.0}")
        }
        _ => String::new(),
    };
    let root = SVGBackend::new(path, (760, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Cost of a solve", (FONT, 22))
        .margin(14)
        .x_label_area_size(52)
        .y_label_area_size(78)
        .build_cartesian_2d((0.9..last).log_scale(), (0.9..last).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("work, relative to the least")
        .y_desc("time, relative to the least")
        // All labels would overlap.
        .x_label_formatter(&rounded)
        .y_label_formatter(&rounded)
        .axis_desc_style((FONT, 18))
        .label_style((FONT, 16))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let proportional = ("proportional".to_owned(), vec![(1.0, 1.0), (last, last)]);
    let all = std::iter::once(&proportional).chain(lines);
    for ((name, points), colour) in all.zip(COLOURS.iter().rev().cycle()) {
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::LowerRight);
    let labels = labels
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3));
    labels.label_font((FONT, 17)).draw()?;
    root.present()?;
    Ok(())
}

fn legend<'a, X, Y>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
) -> Result<(), Box<dyn Error>>
where
    X: plotters::coord::ranged1d::Ranged,
    Y: plotters::coord::ranged1d::Ranged,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 17))
        .draw()
        .map_err(|error| error.to_string().into())
}
