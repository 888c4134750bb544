//! Changes of values and positions from which all augmentations are built.

use super::PictureShape;

fn clamp(value: f32) -> f32 {
    value.clamp(0.0, 255.0)
}

/// Multiplies the brightness.
pub(super) fn brighten(values: &mut [f32], factor: f32) {
    values
        .iter_mut()
        .for_each(|value| *value = clamp(*value * factor));
}

/// Multiplies the distance of all values from their mean.
pub(super) fn stretch(values: &mut [f32], factor: f32) {
    let middle = values.iter().sum::<f32>() / values.len().max(1) as f32;
    let stretch = |value: &mut f32| *value = clamp(middle + (*value - middle) * factor);
    values.iter_mut().for_each(stretch);
}

/// Multiplies the distance of each pixel from its grey. Grey pictures have none.
pub(super) fn saturate(values: &mut [f32], shape: PictureShape, factor: f32) {
    if shape.channels != 3 {
        return;
    }
    let plane = shape.height * shape.width;
    for pixel in 0..plane {
        // Luma of Rec. 601.
        let weights = [0.299, 0.587, 0.114];
        let grey: f32 = (0..3).map(|c| weights[c] * values[c * plane + pixel]).sum();
        for channel in 0..3 {
            let value = &mut values[channel * plane + pixel];
            *value = clamp(grey + (*value - grey) * factor);
        }
    }
}

/// Appends one resampled channel. `place` maps the offset of a result pixel from the middle to the
/// offset in the source that it shows.
pub(super) fn warp<T: Copy + Into<f32>>(
    source: &[T],
    shape: PictureShape,
    place: impl Fn(f32, f32) -> (f32, f32),
    out: &mut Vec<f32>,
) {
    let (middle_x, middle_y) = (
        (shape.width as f32 - 1.0) / 2.0,
        (shape.height as f32 - 1.0) / 2.0,
    );
    for row in 0..shape.height {
        for column in 0..shape.width {
            let (x, y) = place(column as f32 - middle_x, row as f32 - middle_y);
            out.push(bilinear(source, shape, x + middle_x, y + middle_y));
        }
    }
}

/// The value of a pixel of one channel, 0 outside.
pub(super) fn value_at<T: Copy + Into<f32>>(
    channel: &[T],
    shape: PictureShape,
    row: i64,
    column: i64,
) -> f32 {
    let inside =
        (0..shape.height as i64).contains(&row) && (0..shape.width as i64).contains(&column);
    if inside {
        channel[row as usize * shape.width + column as usize].into()
    } else {
        0.0
    }
}

/// The value at a place between the pixels of one channel, 0 outside.
pub(super) fn bilinear<T: Copy + Into<f32>>(
    channel: &[T],
    shape: PictureShape,
    x: f32,
    y: f32,
) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (right_part, bottom_part) = (x - left, y - top);
    let at = |row: i64, column: i64| value_at(channel, shape, row, column);
    let (row, column) = (top as i64, left as i64);
    let upper = at(row, column) * (1.0 - right_part) + at(row, column + 1) * right_part;
    let lower = at(row + 1, column) * (1.0 - right_part) + at(row + 1, column + 1) * right_part;
    upper * (1.0 - bottom_part) + lower * bottom_part
}
