//! The page itself.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{Rgb, RgbImage};

use super::charts::{budget_chart, charts, solve_charts};
use super::plot::inline;
use super::tested::{Budget, Tested};
use super::{ReportError, confusion};
use crate::data::{Picture, PictureShape};
use crate::files::png;
use crate::history::History;
use crate::inspect::{branch_picture, layer_picture};
use crate::metrics;
use crate::progress::duration;
use crate::run::RunFolder;
use crate::solves::LayerStats;
use crate::train::Task;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2733; --paper: #ffffff; --soft: #f0f3f6; --line: #ccd4dc; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dde4ea; --paper: #14191f; --soft: #1e252d; --line: #3a444e; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 16px; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 24px; line-height: 1.2; } h2 { font-size: 19px; margin: 32px 0 12px; }
.tiles, .plots, .pictures { display: grid; gap: 12px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 350px), 1fr)); }
.pictures { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }
.tile, .plot, figure, pre { background: var(--soft); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px; margin: 0; min-width: 0; }
.tile b { display: block; font-size: 22px; line-height: 1.2; }
.plot svg { display: block; width: 100%; max-width: 560px; height: auto; margin: 0 auto; }
figure img { display: block; width: 100%; max-width: 420px; image-rendering: pixelated; }
figcaption { font-size: 13px; line-height: 1.35; margin-top: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; } td, th { text-align: left; padding: 3px 12px 3px 0;
  border-bottom: 1px solid var(--line); }
pre { font-size: 13px; overflow-x: auto; }
";

/// Text as it must be written in a page.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn picture_tag(picture: &RgbImage, alt: &str) -> String {
    let data = STANDARD.encode(png(picture));
    format!(
        "<img alt=\"{}\" src=\"data:image/png;base64,{data}\">",
        escape(alt)
    )
}

fn to_rgb(picture: &Picture, shape: PictureShape) -> RgbImage {
    let pixels = picture.pixels.read().unwrap_or_default();
    let plane = shape.height * shape.width;
    RgbImage::from_fn(shape.width as u32, shape.height as u32, |x, y| {
        let place = y as usize * shape.width + x as usize;
        let value = |channel: usize| {
            let index = channel.min(shape.channels - 1) * plane + place;
            pixels.get(index).copied().unwrap_or(0)
        };
        Rgb([value(0), value(1), value(2)])
    })
}

pub(super) fn html(
    run: &RunFolder,
    task: &Task,
    history: &History,
    tested: Option<&Tested<'_>>,
) -> Result<String, ReportError> {
    let config = task.config();
    let name = run.path().file_name().unwrap_or(run.path().as_os_str());
    let name = escape(&name.to_string_lossy());
    let mut body = format!("<h1>Run {name}</h1>\n");
    body.push_str(&tiles(task, history, tested));

    body.push_str("<h2>Training</h2>\n<div class=\"plots\">\n");
    for chart in charts(history) {
        let svg = chart.draw().map_err(ReportError::Plot)?;
        body.push_str(&format!("<div class=\"plot\">{}</div>\n", inline(&svg)));
    }
    body.push_str("</div>\n");
    match tested {
        Some(tested) => {
            body.push_str(&test_section(task, tested)?);
            if let Some(budget) = &tested.budget {
                body.push_str(&budget_section(budget, tested.pictures.len())?);
            }
            if !tested.details.layers.is_empty() {
                body.push_str(&layers_section(history, &tested.details.layers));
            }
            body.push_str(&inside_section(task, tested)?);
        }
        None => body.push_str(
            "<h2>Test</h2>\n<p>This run has not come to its end. The test pictures are left alone \
             until then.</p>\n",
        ),
    }
    body.push_str(&machine(task));
    let text = serde_json::to_string_pretty(config).unwrap_or_default();
    body.push_str(&format!(
        "<h2>Settings</h2>\n<details><summary>config.json</summary><pre>{}</pre></details>\n",
        escape(&text)
    ));
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    ))
}

fn tiles(task: &Task, history: &History, tested: Option<&Tested<'_>>) -> String {
    let config = task.config();
    let mut tiles: Vec<(String, String)> = Vec::new();
    let mut tile = |value: String, what: &str| tiles.push((value, what.to_owned()));
    if let Some(Tested {
        summary, details, ..
    }) = tested
    {
        tile(format!("{:.2} %", summary.test_accuracy), "test accuracy");
        if let Some(top5) = details.top5 {
            tile(format!("{top5:.2} %"), "among the five likeliest");
        }
        tile(format!("{:.4}", summary.test_loss), "test loss (nats)");
        tile(
            format!("{:.2} %", details.calibration_error),
            "calibration error",
        );
        if let Some(steps) = summary.forward_steps {
            tile(format!("{steps:.1}"), "solver steps a test picture");
        }
        tile(summary.parameters.to_string(), "parameters");
    }
    let done = history.epochs.last().map_or(0, |row| row.epoch);
    tile(format!("{done} of {}", config.epochs), "epochs");
    tile(duration(history.seconds()), "training time");
    let cells: Vec<String> = tiles
        .iter()
        .map(|(value, what)| format!("<div class=\"tile\"><b>{value}</b>{what}</div>\n"))
        .collect();
    format!("<div class=\"tiles\">\n{}</div>\n", cells.concat())
}

fn test_section(task: &Task, tested: &Tested<'_>) -> Result<String, ReportError> {
    let (details, config) = (&tested.details, task.config());
    let svg = confusion::draw(&details.confusion, &details.classes).map_err(ReportError::Plot)?;
    let mut text = format!(
        "<h2>Test</h2>\n<p>The {} test pictures were touched once, when training was over: no \
         setting and no checkpoint was chosen by them. The model is that of epoch {}.</p>\n\
         <div class=\"plots\">\n<div class=\"plot\">{}</div>\n",
        details.pictures,
        tested.summary.tested_epoch,
        inline(&svg)
    );
    text.push_str(
        "<div class=\"plot scroll\"><table><tr><th>class</th><th>right (%)</th>\
         <th>pictures</th></tr>\n",
    );
    for (index, class) in details.classes.iter().enumerate() {
        let accuracy = details.per_class[index].map_or("-".into(), |share| format!("{share:.1}"));
        let count: usize = details.confusion[index].iter().sum();
        let class = escape(class);
        text.push_str(&format!(
            "<tr><td>{class}</td><td>{accuracy}</td><td>{count}</td></tr>\n"
        ));
    }
    text.push_str("</table></div>\n</div>\n");
    text.push_str("<h2>Most confident mistakes</h2>\n");
    if tested.mistakes.is_empty() {
        text.push_str("<p>There are none.</p>\n");
    }
    text.push_str("<div class=\"pictures\">\n");
    for mistake in &tested.mistakes {
        let picture = &tested.pictures[mistake.index];
        let class = |label: usize| config.classes.get(label).map_or("?", String::as_str);
        let caption = format!(
            "{}, taken for {} ({:.0} %)",
            class(picture.label),
            class(mistake.predicted),
            100.0 * mistake.confidence
        );
        text.push_str(&format!(
            "<figure>{}<figcaption>{}</figcaption></figure>\n",
            picture_tag(&to_rgb(picture, config.shape), &caption),
            escape(&caption)
        ));
    }
    text.push_str("</div>\n");
    Ok(text)
}

fn budget_section(budget: &Budget, tested: usize) -> Result<String, ReportError> {
    let svg = budget_chart(budget).draw().map_err(ReportError::Plot)?;
    let count = budget.own.pictures;
    let which = if count < tested {
        format!("the first {count} of the {tested} test pictures")
    } else {
        format!("the {count} test pictures")
    };
    let mut text = format!(
        "<h2>What fewer solver steps cost</h2>\n<p>The same parameters on {which}, with other \
         limits on the steps of a solve. This was measured when the run was over; nothing was \
         chosen by it.</p>\n<div class=\"plots\">\n<div class=\"plot\">{}</div>\n\
         <div class=\"plot scroll\"><table><tr><th>most steps</th><th>right (%)</th>\
         <th>steps taken</th><th>relative residual</th></tr>\n",
        inline(&svg)
    );
    let limited = budget.costs.iter().map(|cost| {
        let limit = cost.limit.to_string();
        (limit, cost.accuracy, cost.forward)
    });
    // The solves of these pictures alone were not counted.
    let own = budget.own.forward.filter(|_| count == tested);
    let own = ("of the run".into(), budget.own.accuracy(), own);
    for (limit, accuracy, forward) in limited.chain([own]) {
        let (steps, residual) = forward.map_or(("-".into(), "-".into()), |solve| {
            (
                format!("{:.1}", solve.steps),
                format!("{:.1e}", solve.residual),
            )
        });
        text.push_str(&format!(
            "<tr><td>{limit}</td><td>{accuracy:.1}</td><td>{steps}</td><td>{residual}</td></tr>\n"
        ));
    }
    text.push_str("</table></div>\n</div>\n");
    Ok(text)
}

/// The solves of every layer of a stack.
fn layers_section(history: &History, layers: &[LayerStats]) -> String {
    let last = history.epochs.last().map_or(0, |row| row.epoch);
    let mut text =
        "<h2>Layer by layer</h2>\n<p>Means over the test pictures, and for the gradient \
        over the training pictures of the last epoch.</p>\n<div class=\"plots\">\n\
        <div class=\"plot scroll\"><table><tr><th>layer</th><th>steps</th>\
        <th>relative residual</th><th>converged (%)</th><th>steps of the gradient</th>\
        <th>relative residual</th></tr>\n"
            .to_owned();
    for layer in layers {
        let key = metrics::key(&layer.name);
        let value = |name| history.value(last, &format!("{key}_backward_{name}"));
        let forward = layer.forward.as_ref();
        let cells = [
            forward.map(|solve| format!("{:.1}", solve.steps)),
            forward.map(|solve| format!("{:.1e}", solve.residual)),
            forward.map(|solve| format!("{:.1}", 100.0 * solve.converged)),
            value("steps").map(|steps| format!("{steps:.1}")),
            value("residual").map(|residual| format!("{residual:.1e}")),
        ];
        let cells = cells.map(|cell| format!("<td>{}</td>", cell.unwrap_or("-".into())));
        let (name, cells) = (escape(&layer.name), cells.concat());
        text.push_str(&format!("<tr><td>{name}</td>{cells}</tr>\n"));
    }
    text + "</table></div>\n</div>\n"
}

fn inside_section(task: &Task, tested: &Tested<'_>) -> Result<String, ReportError> {
    let config = task.config();
    let mut text = String::from("<h2>Inside the model</h2>\n<div class=\"plots\">\n");
    if let Some((_, seen)) = tested.inspected.first() {
        for (_, chart) in solve_charts(seen) {
            let svg = chart.draw().map_err(ReportError::Plot)?;
            text.push_str(&format!("<div class=\"plot\">{}</div>\n", inline(&svg)));
        }
    }
    for (index, seen) in &tested.inspected {
        let picture = &tested.pictures[*index];
        let class = config
            .classes
            .get(picture.label)
            .map_or("?", String::as_str);
        let sizes: Vec<String> = seen
            .branches
            .iter()
            .map(|branch| format!("{} x {}", branch.size[0], branch.size[1]))
            .collect();
        let (what, parts) = match seen.layers.is_empty() {
            true => ("Equilibrium", "branches"),
            false => ("Outputs of the stages", "stages"),
        };
        let caption = format!(
            "{what} of a test picture of class {class}: root mean square over the channels of the \
             {parts}, {}; dark is the smallest value, white the largest",
            sizes.join(", ")
        );
        text.push_str(&format!(
            "<figure>{}<figcaption>{}</figcaption></figure>\n",
            picture_tag(
                &with_maps(picture, config.shape, &branch_picture(&seen.branches)),
                &caption
            ),
            escape(&caption)
        ));
    }
    if let Some((index, seen)) = tested.inspected.first()
        && !seen.layers.is_empty()
    {
        let picture = &tested.pictures[*index];
        let names: Vec<&str> = seen.layers.iter().map(|l| l.name.as_str()).collect();
        let caption = format!(
            "What each layer makes of the first of these pictures, one below the other: {}. From left \
             to right its input, what its codes make of the dictionary (the input as the layer sees \
             it), and its branches; root mean square over the channels",
            names.join("; ")
        );
        let maps = layer_picture(&seen.layers);
        let side = maps.height() / names.len() as u32;
        let nearest = image::imageops::FilterType::Nearest;
        let scaled = image::imageops::resize(&to_rgb(picture, config.shape), side, side, nearest);
        let mut all = RgbImage::from_pixel(side + 4 + maps.width(), maps.height(), Rgb([255; 3]));
        image::imageops::replace(&mut all, &scaled, 0, 0);
        image::imageops::replace(&mut all, &maps, i64::from(side) + 4, 0);
        text.push_str(&format!(
            "<figure>{}<figcaption>{}</figcaption></figure>\n",
            picture_tag(&all, &caption),
            escape(&caption)
        ));
    }
    text.push_str("</div>\n");
    Ok(text)
}

/// The picture, scaled to the height of its maps, and the maps.
fn with_maps(picture: &Picture, shape: PictureShape, maps: &RgbImage) -> RgbImage {
    let side = maps.height();
    let nearest = image::imageops::FilterType::Nearest;
    let scaled = image::imageops::resize(&to_rgb(picture, shape), side, side, nearest);
    let mut all = RgbImage::from_pixel(side + 4 + maps.width(), side, Rgb([255; 3]));
    image::imageops::replace(&mut all, &scaled, 0, 0);
    image::imageops::replace(&mut all, maps, i64::from(side) + 4, 0);
    all
}

fn machine(task: &Task) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let rows = [
        ("program", format!("mopteq {}", env!("CARGO_PKG_VERSION"))),
        ("device", task.device().name.clone()),
        (
            "system",
            format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH),
        ),
        ("processor cores", cores.to_string()),
        ("data", task.config().data.describe()),
        ("training pictures", task.training_pictures().to_string()),
        (
            "validation pictures",
            task.validation_pictures().to_string(),
        ),
        ("seed", task.config().seed.to_string()),
    ];
    let rows: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(value)))
        .collect();
    format!(
        "<h2>Machine and data</h2>\n<table>\n{}</table>\n",
        rows.concat()
    )
}
