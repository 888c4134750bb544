//! Kernels bounded by their norms.

use cubecl::prelude::*;

use crate::cube::plan::Plan;

/// The sum of a value over the units of a cube; every unit receives it.
#[cube]
fn total(value: f32, pool: &mut Shared<[f32]>, #[comptime] units: usize) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    pool[unit] = value;
    sync_cube();
    #[unroll]
    for k in 0..comptime![units.trailing_zeros() as usize] {
        let half = comptime![units >> (k + 1)];
        if unit < half {
            let other = pool[unit + half];
            pool[unit] += other;
        }
        sync_cube();
    }
    pool[0]
}

/// The sum of x[i] y[i] over a range.
#[cube]
fn product(
    x: &[f32],
    y: &[f32],
    from: usize,
    pool: &mut Shared<[f32]>,
    #[comptime] length: usize,
    #[comptime] units: usize,
) -> f32 {
    let mut sum = 0.0f32;
    for i in range_stepped(UNIT_POS as usize, length.runtime(), units) {
        sum += x[from + i] * y[from + i];
    }
    total(sum, pool, units)
}

/// Each branch of a state divided by its norm. A cube computes a branch.
#[cube(launch_unchecked)]
pub(crate) fn normalise(x: &[f32], out: &mut [f32], #[comptime] plan: Plan) {
    let units = comptime![plan.gradient_units];
    let mut pool = Shared::<[f32]>::new_slice(units);
    #[unroll]
    for i in 0..comptime![plan.branches.len()] {
        if CUBE_POS_X as usize == i {
            let from = comptime![plan.branches[i].state];
            let length = comptime![plan.branches[i].channels * plan.branches[i].pixels()];
            let square = product(x, x, from.runtime(), &mut pool, length, units);
            let norm = max(square.sqrt(), 1e-30f32);
            for k in range_stepped(UNIT_POS as usize, length.runtime(), units) {
                out[from + k] = x[from + k] / norm;
            }
        }
    }
}

/// Each branch's kernel times min(1, bound / |its image|).
#[cube(launch_unchecked)]
pub(crate) fn bound(
    kernels: &[f32],
    image: &[f32],
    out: &mut [f32],
    #[comptime] bounds: Vec<u32>,
    #[comptime] plan: Plan,
) {
    let units = comptime![plan.gradient_units];
    let mut pool = Shared::<[f32]>::new_slice(units);
    #[unroll]
    for i in 0..comptime![plan.branches.len()] {
        if CUBE_POS_X as usize == i {
            let from = comptime![plan.branches[i].image];
            let length = comptime![plan.branches[i].hidden * plan.branches[i].pixels()];
            let square = product(image, image, from.runtime(), &mut pool, length, units);
            let bound = comptime![f32::from_bits(bounds[i])];
            let factor = min(bound / square.sqrt(), 1.0f32);
            let from = comptime![plan.branches[i].natural];
            let length = comptime![plan.branches[i].weights_len(plan.kernel)];
            for k in range_stepped(UNIT_POS as usize, length.runtime(), units) {
                out[from + k] = kernels[from + k] * factor;
            }
        }
    }
}

/// The gradient with respect to the kernels, from the gradient with respect to the bounded kernels.
/// `correlation` is the correlation of the image with the direction.
#[cube(launch_unchecked)]
pub(crate) fn unbound(
    gradient: &[f32],
    kernels: &[f32],
    image: &[f32],
    correlation: &[f32],
    out: &mut [f32],
    #[comptime] bounds: Vec<u32>,
    #[comptime] plan: Plan,
) {
    let units = comptime![plan.gradient_units];
    let mut pool = Shared::<[f32]>::new_slice(units);
    #[unroll]
    for i in 0..comptime![plan.branches.len()] {
        if CUBE_POS_X as usize == i {
            let from = comptime![plan.branches[i].image];
            let length = comptime![plan.branches[i].hidden * plan.branches[i].pixels()];
            let square = product(image, image, from.runtime(), &mut pool, length, units);
            let norm = square.sqrt();
            let bound = comptime![f32::from_bits(bounds[i])];
            let from = comptime![plan.branches[i].natural];
            let length = comptime![plan.branches[i].weights_len(plan.kernel)];
            let inner = product(gradient, kernels, from.runtime(), &mut pool, length, units);
            let free = bound >= norm;
            let factor = select(free, 1.0f32, bound / norm);
            // d(bound / |a|) = -bound <a, da> / |a|^3.
            let slope = select(free, 0.0f32, -inner * factor / square);
            for k in range_stepped(UNIT_POS as usize, length.runtime(), units) {
                out[from + k] = gradient[from + k] * factor + correlation[from + k] * slope;
            }
        }
    }
}
