//! Elementwise operations: activations, proximal maps, couplings.

use cubecl::prelude::*;

use crate::cube::plan::{Between, Constrain, Formula, Job, Plan};

/// x, multiplied by a mask if there is one.
#[cube]
pub(super) fn read(x: &[f32], mask: &[f32], at: usize, #[comptime] masked: bool) -> f32 {
    if masked { x[at] * mask[at] } else { x[at] }
}

/// The operation between W and its transpose.
#[cube]
pub(super) fn between(
    a: f32,
    c: &[f32],
    at: usize,
    #[comptime] job: Job,
    #[comptime] between: Between,
) -> f32 {
    let mut value = a;
    if comptime![job.activates() && between.is_activation()] {
        value = activated(a + c[at], between);
    }
    if comptime![job.activates() && between == Between::Subtract] {
        value = a - c[at];
    }
    if comptime![job == Job::Slopes && between.is_activation()] {
        value = slope(a + c[at], between);
    }
    if comptime![
        job == Job::Scaled || matches!(job, Job::Product { .. }) && between.is_activation()
    ] {
        value = a * c[at];
    }
    value
}

/// s'.
#[cube]
fn activated(a: f32, #[comptime] between: Between) -> f32 {
    match between {
        Between::Nothing | Between::Subtract => a,
        Between::Relu => select(a < 0.0f32, 0.0f32, a),
        Between::LeakyRelu(slope) => select(a < 0.0f32, a * comptime![f32::from_bits(slope)], a),
        // max(a, 0) + ln(1 + e^-|a|) does not overflow.
        Between::Softplus => select(a < 0.0f32, 0.0f32, a) + (-a.abs()).exp().log1p(),
        Between::Tanh => a.tanh(),
    }
}

/// s''.
#[cube]
fn slope(a: f32, #[comptime] between: Between) -> f32 {
    match between {
        Between::Nothing | Between::Subtract => 1.0f32.runtime(),
        Between::Relu => select(a > 0.0f32, 1.0f32, 0.0f32),
        Between::LeakyRelu(slope) => select(
            a > 0.0f32,
            1.0f32,
            comptime![f32::from_bits(slope)].runtime(),
        ),
        Between::Softplus => 1.0f32 / (1.0f32 + (-a).exp()),
        Between::Tanh => {
            let h = a.tanh();
            1.0f32 - h * h
        }
    }
}

/// The proximal map, or its derivative.
#[cube]
pub(super) fn constrained(v: f32, #[comptime] mask: bool, #[comptime] constrain: Constrain) -> f32 {
    match constrain {
        Constrain::Nothing => v,
        Constrain::NonNegative => {
            if mask {
                select(v > 0.0f32, 1.0f32, 0.0f32)
            } else {
                select(v < 0.0f32, 0.0f32, v)
            }
        }
        Constrain::Interval(low, high) => {
            let low = comptime![f32::from_bits(low)].runtime();
            let high = comptime![f32::from_bits(high)].runtime();
            if mask {
                select(v > low && v < high, 1.0f32, 0.0f32)
            } else {
                select(v < low, low, select(v > high, high, v))
            }
        }
        Constrain::ShrinkPositive(threshold) => {
            let t = comptime![f32::from_bits(threshold)].runtime();
            if mask {
                select(v > t, 1.0f32, 0.0f32)
            } else {
                select(v < t, 0.0f32, v - t)
            }
        }
        Constrain::Shrink(threshold) => {
            let t = comptime![f32::from_bits(threshold)].runtime();
            if mask {
                select(v.abs() > t, 1.0f32, 0.0f32)
            } else {
                // Zero within the threshold, and NaN for NaN.
                select(v < -t, v + t, select(v > t, v - t, v * 0.0f32))
            }
        }
    }
}

/// v minus the step along the gradients of the couplings that the branch takes part in.
#[cube]
pub(super) fn coupled(
    v: f32,
    x: &[f32],
    mask: &[f32],
    at: usize,
    start: usize,
    channel: usize,
    row: usize,
    column: usize,
    #[comptime] index: usize,
    #[comptime] masked: bool,
    #[comptime] formula: Formula,
    #[comptime] plan: Plan,
) -> f32 {
    let mut v = v;
    #[unroll]
    for k in 0..comptime![formula.pairs.len()] {
        let pair = comptime![formula.pairs[k]];
        if comptime![pair.fine == index || pair.coarse == index] {
            let (down, across) = comptime![(pair.cell[0], pair.cell[1])];
            let fine = comptime![plan.branches[pair.fine].clone()];
            let coarse = comptime![plan.branches[pair.coarse].clone()];
            let is_fine = comptime![pair.fine == index];
            // The cell that contains the pixel, or the pixel itself on the coarser grid.
            let y = if is_fine { row / down } else { row };
            let x1 = if is_fine { column / across } else { column };
            let corner = start
                + comptime![fine.state]
                + channel * comptime![fine.pixels()]
                + y * down * comptime![fine.width]
                + x1 * across;
            let mut sum = 0.0f32;
            for dy in 0..down.runtime() {
                for dx in 0..across.runtime() {
                    sum += read(x, mask, corner + dy * comptime![fine.width] + dx, masked);
                }
            }
            if is_fine {
                let at = start
                    + comptime![coarse.state]
                    + channel * comptime![coarse.pixels()]
                    + y * comptime![coarse.width]
                    + x1;
                let other = read(x, mask, at, masked);
                let residual = (sum * comptime![pair.scale()] - other) * comptime![pair.strength()];
                v -= residual * comptime![pair.scale()];
            } else {
                let own = read(x, mask, at, masked);
                v += (sum * comptime![pair.scale()] - own) * comptime![pair.strength()];
            }
        }
    }
    v
}
