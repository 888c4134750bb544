//! The confusion matrix as SVG.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::plot::INK;

const SIZE: (u32, u32) = (400, 400);
const FONT: &str = "sans-serif";
const COLOUR: RGBColor = RGBColor(58, 124, 214);
/// Classes whose cells have room for numbers and names.
const NUMBERED: usize = 12;
/// Number of characters of a class's name that fit.
const NAME: usize = 11;
/// Left, top, side of the matrix.
const LEFT: i32 = 96;
const TOP: i32 = 48;
const SIDE: i32 = 270;

/// Draws the matrix: rows are right classes, columns predicted ones, each row in percent.
pub(super) fn draw(confusion: &[Vec<usize>], classes: &[String]) -> Result<String, String> {
    let mut svg = String::new();
    draw_into(&mut svg, confusion, classes).map_err(|error| error.to_string())?;
    Ok(svg.replace("#010203", "currentColor"))
}

fn draw_into(
    svg: &mut String,
    confusion: &[Vec<usize>],
    classes: &[String],
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let style = |size: i32, h: HPos, v: VPos| {
        let font = (FONT, size).into_font().color(&INK);
        font.pos(Pos::new(h, v))
    };
    let (middle, centre) = (HPos::Center, VPos::Center);
    let text = |text: String, place: (i32, i32), style: TextStyle<'_>| {
        root.draw(&Text::new(text, place, style))
    };
    text(
        "Confusion matrix".into(),
        (LEFT + SIDE / 2, 12),
        style(16, middle, centre),
    )?;
    text(
        "predicted class".into(),
        (LEFT + SIDE / 2, TOP + SIDE + 34),
        style(13, middle, centre),
    )?;
    text(
        "right class".into(),
        (LEFT - 4, TOP - 12),
        style(13, HPos::Right, centre),
    )?;

    let count = confusion.len().max(1) as i32;
    let edge = |index: usize| index as i32 * SIDE / count;
    let numbered = confusion.len() <= NUMBERED;
    for (right, row) in confusion.iter().enumerate() {
        let all: usize = row.iter().sum();
        for (predicted, cell) in row.iter().enumerate() {
            let share = *cell as f64 / all.max(1) as f64;
            let corners = [
                (LEFT + edge(predicted), TOP + edge(right)),
                (LEFT + edge(predicted + 1), TOP + edge(right + 1)),
            ];
            // From a tint that still shows to the full colour.
            if *cell > 0 {
                let tint = COLOUR.mix(0.08 + 0.92 * share).filled();
                root.draw(&Rectangle::new(corners, tint))?;
            }
            if numbered && *cell > 0 {
                let place = (
                    (corners[0].0 + corners[1].0) / 2,
                    (corners[0].1 + corners[1].1) / 2,
                );
                text(cell.to_string(), place, style(11, middle, centre))?;
            }
        }
    }
    let frame = [(LEFT, TOP), (LEFT + SIDE, TOP + SIDE)];
    root.draw(&Rectangle::new(frame, INK.mix(0.5)))?;
    // If there are many classes, only some are named.
    let every = confusion.len().div_ceil(25).max(1);
    for (index, class) in classes.iter().enumerate().step_by(every) {
        let place = (edge(index) + edge(index + 1)) / 2;
        let mut name: String = class.chars().take(NAME).collect();
        if class.chars().count() > NAME {
            name.push('…');
        }
        let size = if numbered { 12 } else { 9 };
        let label = if name == index.to_string() {
            name
        } else {
            format!("{name} {index}")
        };
        text(
            label,
            (LEFT - 4, TOP + place),
            style(size, HPos::Right, centre),
        )?;
        let below = (LEFT + place, TOP + SIDE + 10);
        text(index.to_string(), below, style(size, middle, centre))?;
    }

    // The legend: what the tints mean.
    let (top, width, height) = (TOP + SIDE + 54, 150, 10);
    let steps = 30;
    for step in 0..steps {
        let share = f64::from(step) / f64::from(steps - 1);
        let left = LEFT + step * width / steps;
        let right = LEFT + (step + 1) * width / steps;
        let tint = COLOUR.mix(0.08 + 0.92 * share).filled();
        root.draw(&Rectangle::new([(left, top), (right, top + height)], tint))?;
    }
    let line = top + height / 2;
    text("0".into(), (LEFT - 4, line), style(12, HPos::Right, centre))?;
    let legend = "100 % of the class";
    text(
        legend.into(),
        (LEFT + width + 4, line),
        style(12, HPos::Left, centre),
    )?;
    root.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_axes_and_the_tints() {
        let classes = vec!["cat".to_owned(), "a very long name".to_owned()];
        let svg = draw(&[vec![7, 1], vec![0, 9]], &classes).unwrap();
        for text in [
            "predicted class",
            "right class",
            "cat 0",
            "a very long",
            "100 %",
            ">7<",
        ] {
            assert!(
                svg.contains(text) || svg.contains(text.trim_matches(['<', '>'])),
                "{text}"
            );
        }
        let many: Vec<String> = (0..100).map(|class| class.to_string()).collect();
        assert!(
            draw(&vec![vec![1; 100]; 100], &many)
                .unwrap()
                .contains("<svg")
        );
    }
}
