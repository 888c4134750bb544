//! Gradients with respect to kernels.

use cubecl::prelude::*;

use super::{GRADIENT_BLOCK, GRADIENT_COLUMNS};
use crate::cube::plan::Plan;

/// Correlations of images a with states z, `[hidden, channels, k, k]` per branch, summed over a
/// group of samples and a part of the rows: `[groups x parts, kernels]`. With two pairs, the sum of
/// both.
///
/// A unit holds the k x k taps of one channel of z and [`GRADIENT_BLOCK`] channels of a.
#[cube(launch_unchecked)]
pub(crate) fn correlate(
    a1: &[f32],
    z1: &[f32],
    a2: &[f32],
    z2: &[f32],
    out: &mut [f32],
    samples: usize,
    group: usize,
    #[comptime] pairs: usize,
    #[comptime] plan: Plan,
) {
    let cube = CUBE_POS_X as usize;
    let first = CUBE_POS_Y as usize * group;
    let end = min(first + group, samples);
    let mut pool = Shared::<[f32]>::new_slice(comptime![plan.gradient_shared]);
    #[unroll]
    for i in 0..comptime![plan.branches.len()] {
        let begin = comptime![plan.branches[i].first_gradient];
        let past = comptime![
            plan.branches[i].first_gradient + plan.branches[i].gradient_cubes(plan.gradient_units)
        ];
        if cube >= begin && cube < past {
            let block = (cube - begin) * comptime![plan.gradient_units] + UNIT_POS as usize;
            let channels = comptime![plan.branches[i].channels];
            let area = comptime![plan.kernel * plan.kernel];
            let mut sums = Array::<f32>::new(comptime![GRADIENT_BLOCK * plan.kernel * plan.kernel]);
            #[unroll]
            for k in 0..comptime![GRADIENT_BLOCK * plan.kernel * plan.kernel] {
                sums[k] = 0.0f32;
            }
            for sample in first..end {
                correlate_sample(
                    a1,
                    z1,
                    &mut pool,
                    &mut sums,
                    sample,
                    block,
                    i,
                    comptime![plan.clone()],
                );
                if comptime![pairs == 2] {
                    correlate_sample(
                        a2,
                        z2,
                        &mut pool,
                        &mut sums,
                        sample,
                        block,
                        i,
                        comptime![plan.clone()],
                    );
                }
            }
            if block < comptime![plan.branches[i].gradient_blocks()] {
                let c = block % channels;
                let h = (block / channels) * GRADIENT_BLOCK;
                let row =
                    CUBE_POS_Y as usize * comptime![plan.gradient_parts] + CUBE_POS_Z as usize;
                let base = row * comptime![plan.natural] + comptime![plan.branches[i].natural];
                #[unroll]
                for j in 0..GRADIENT_BLOCK {
                    if h + j < comptime![plan.branches[i].hidden] {
                        #[unroll]
                        for tap in 0..area {
                            out[base + ((h + j) * channels + c) * area + tap] =
                                sums[j * area + tap];
                        }
                    }
                }
            }
        }
    }
}

#[cube]
fn correlate_sample(
    a: &[f32],
    z: &[f32],
    pool: &mut Shared<[f32]>,
    sums: &mut Array<f32>,
    sample: usize,
    block: usize,
    #[comptime] index: usize,
    #[comptime] plan: Plan,
) {
    let branch = comptime![plan.branches[index].clone()];
    let size = comptime![plan.kernel];
    let radius = comptime![plan.kernel / 2];
    let (height, width) = comptime![(branch.height, branch.width)];
    let (channels, hidden) = comptime![(branch.channels, branch.hidden)];
    let pixels = comptime![branch.pixels()];
    let strip = comptime![branch.strip];
    let pitch = comptime![branch.strip + plan.kernel - 1];
    let plane = comptime![branch.gradient_plane(plan.kernel)];
    let images = comptime![branch.channels * branch.gradient_plane(plan.kernel)];
    let padded = comptime![branch.hidden.next_multiple_of(GRADIENT_BLOCK)];
    let unit = UNIT_POS as usize;
    let units = comptime![plan.gradient_units];
    let state = sample * comptime![plan.state] + comptime![branch.state];
    let image = sample * comptime![plan.image] + comptime![branch.image];
    let active = block < comptime![branch.gradient_blocks()];
    let c = block % channels;
    let h = (block / channels) * GRADIENT_BLOCK;
    let part = CUBE_POS_Z as usize;
    let each = comptime![branch.height.div_ceil(plan.gradient_parts)];
    for y in min(part * each, height.runtime())..min((part + 1) * each, height.runtime()) {
        for part in 0..comptime![branch.width.div_ceil(branch.strip)] {
            let x0 = part * strip;
            sync_cube();
            // Rows of z around y, and a row of a, with zeros outside the picture.
            for i in range_stepped(unit, comptime![branch.channels * size * pitch], units) {
                let dx = i % pitch;
                let dy = (i / pitch) % size;
                let channel = i / comptime![size * pitch];
                let (py, px) = (y + dy, x0 + dx);
                let within =
                    py >= radius && py < height + radius && px >= radius && px < width + radius;
                let at = select(
                    within,
                    py * width + px,
                    comptime![radius * branch.width + radius].runtime(),
                ) - comptime![radius * branch.width + radius];
                let value = z[state + channel * pixels + at];
                pool[channel * plane + dy * pitch + dx] = select(within, value, 0.0f32);
            }
            for i in range_stepped(unit, comptime![padded * strip], units) {
                let dx = i % strip;
                let channel = i / strip;
                let within = channel < hidden && x0 + dx < width;
                let at = select(
                    within,
                    channel * pixels + y * width + x0 + dx,
                    0usize.runtime(),
                );
                let value = a[image + at];
                pool[images + i] = select(within, value, 0.0f32);
            }
            sync_cube();
            if active {
                for q in 0..comptime![branch.strip / GRADIENT_COLUMNS] {
                    let x1 = q * GRADIENT_COLUMNS;
                    let mut window = Array::<f32>::new(comptime![
                        plan.kernel * (GRADIENT_COLUMNS + plan.kernel - 1)
                    ]);
                    #[unroll]
                    for dy in 0..size {
                        #[unroll]
                        for dx in 0..comptime![GRADIENT_COLUMNS + plan.kernel - 1] {
                            window[comptime![dy * (GRADIENT_COLUMNS + plan.kernel - 1) + dx]] =
                                pool[c * plane + dy * pitch + x1 + dx];
                        }
                    }
                    #[unroll]
                    for j in 0..GRADIENT_BLOCK {
                        #[unroll]
                        for p in 0..GRADIENT_COLUMNS {
                            let value = pool[images + (h + j) * strip + x1 + p];
                            #[unroll]
                            for dy in 0..size {
                                #[unroll]
                                for dx in 0..size {
                                    sums[comptime![(j * size + dy) * size + dx]] += value
                                        * window[comptime![
                                            dy * (GRADIENT_COLUMNS + plan.kernel - 1) + p + dx
                                        ]];
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
