//! The kernels, in CubeCL's language.
//!
//! Work is shared out like this: a cube computes a tile of one branch of one sample; a unit
//! computes [`ROWS`] rows x [`BLOCK`] channels of one column at a time, so that a weight is used
//! for every row and a pixel for every channel. W z of the tile, with a border as wide as the
//! kernel needs, stays in shared memory; its transpose is taken from there.

// A kernel's parameters are its buffers; comptime loops index several lists.
#![allow(clippy::too_many_arguments, clippy::needless_range_loop)]

use cubecl::prelude::*;

use super::plan::{Between, Constrain, Formula, Job, Plan};

/// Output rows that a unit computes at once.
pub(super) const ROWS: usize = 4;
/// Output channels that a unit computes at once.
pub(super) const BLOCK: usize = 8;
/// Channels of W z that a unit of the kernel gradient is responsible for.
pub(super) const GRADIENT_BLOCK: usize = 4;
/// Pixels that such a unit takes from shared memory at once.
pub(super) const GRADIENT_COLUMNS: usize = 4;

/// Kernels in the order in which [`step`] reads them: `[in, k, k, out]`, then the flipped
/// transposes in the same order, both with `out` filled up with zeros to whole blocks.
#[cube(launch_unchecked)]
pub(super) fn lay_out(natural: &[f32], out: &mut [f32], #[comptime] plan: Plan) {
    let position = ABSOLUTE_POS;
    let size = comptime![plan.kernel];
    let area = comptime![plan.kernel * plan.kernel];
    if position < comptime![plan.laid_out] {
        let mut value = 0.0f32;
        #[unroll]
        for i in 0..comptime![plan.branches.len()] {
            let branch = comptime![plan.branches[i].clone()];
            let (channels, hidden) = comptime![(branch.channels, branch.hidden)];
            let wide = comptime![branch.hidden.next_multiple_of(BLOCK)];
            let first = comptime![branch.weights];
            let second = comptime![branch.transposed];
            let end = comptime![
                branch.transposed
                    + branch.hidden
                        * plan.kernel
                        * plan.kernel
                        * branch.channels.next_multiple_of(BLOCK)
            ];
            if position >= first && position < second {
                let at = position - first;
                let h = at % wide;
                let tap = (at / wide) % area;
                let c = at / (wide * area);
                if h < hidden {
                    value = natural[comptime![branch.natural] + (h * channels + c) * area + tap];
                }
            } else if position >= second && position < end {
                let wide = comptime![branch.channels.next_multiple_of(BLOCK)];
                let at = position - second;
                let c = at % wide;
                let tap = (at / wide) % area;
                let h = at / (wide * area);
                if c < channels {
                    let tap = comptime![size * size - 1] - tap;
                    value = natural[comptime![branch.natural] + (h * channels + c) * area + tap];
                }
            }
        }
        out[position] = value;
    }
}

/// One job for all branches and samples; see [`Job`].
///
/// x is the state or the vector, `[batch, state]`; c the injections, or the factors between the
/// two convolutions.
#[cube(launch_unchecked)]
pub(super) fn step(
    x: &[f32],
    c: &[f32],
    before: &[f32],
    after: &[f32],
    weights: &[Vector<f32, Const<4>>],
    out: &mut [f32],
    #[comptime] job: Job,
    #[comptime] formula: Formula,
    #[comptime] plan: Plan,
) {
    let cube = CUBE_POS_X as usize;
    let sample = CUBE_POS_Y as usize;
    let mut pool =
        Shared::<[f32]>::new_slice(comptime![if job.makes_image() { 1 } else { plan.shared }]);
    #[unroll]
    for i in 0..comptime![plan.branches.len()] {
        let first = comptime![plan.branches[i].first_tile];
        let end = comptime![plan.branches[i].first_tile + plan.branches[i].tiles()];
        if cube >= first && cube < end {
            let across = comptime![plan.branches[i].width.div_ceil(plan.branches[i].tile[1])];
            let at = cube - first;
            let y = (at / across) * comptime![plan.branches[i].tile[0]];
            let x0 = (at % across) * comptime![plan.branches[i].tile[1]];
            if comptime![job.makes_image()] {
                image_tile(
                    x,
                    c,
                    weights,
                    out,
                    sample,
                    y,
                    x0,
                    i,
                    job,
                    comptime![formula.clone()],
                    comptime![plan.clone()],
                );
            } else {
                step_tile(
                    x,
                    c,
                    before,
                    after,
                    weights,
                    out,
                    &mut pool,
                    sample,
                    y,
                    x0,
                    i,
                    job,
                    comptime![formula.clone()],
                    comptime![plan.clone()],
                );
            }
        }
    }
}

/// A tile of W z, without its transpose.
#[cube]
fn image_tile(
    x: &[f32],
    c: &[f32],
    weights: &[Vector<f32, Const<4>>],
    out: &mut [f32],
    sample: usize,
    y0: usize,
    x0: usize,
    #[comptime] index: usize,
    #[comptime] job: Job,
    #[comptime] formula: Formula,
    #[comptime] plan: Plan,
) {
    let branch = comptime![plan.branches[index].clone()];
    let (height, width) = comptime![(branch.height, branch.width)];
    let hidden = comptime![branch.hidden];
    let pixels = comptime![branch.pixels()];
    let columns = min(comptime![branch.tile[1]].runtime(), width - x0);
    let rows = min(comptime![branch.tile[0]].runtime(), height - y0);
    let down = (rows + comptime![ROWS - 1]) / ROWS;
    let items = columns * down * comptime![branch.hidden.div_ceil(BLOCK)];
    let base = sample * comptime![plan.image] + comptime![branch.image];
    for item in range_stepped(UNIT_POS as usize, items, comptime![plan.units]) {
        let column = x0 + item % columns;
        let rest = item / columns;
        let row = y0 + (rest % down) * ROWS;
        let block = (rest / down) * BLOCK;
        let mut sums = Array::<f32>::new(comptime![ROWS * BLOCK]);
        convolve_global(
            x,
            x,
            weights,
            &mut sums,
            sample,
            row,
            column,
            block,
            index,
            false,
            comptime![plan.clone()],
        );
        #[unroll]
        for p in 0..ROWS {
            #[unroll]
            for j in 0..BLOCK {
                if row + p < y0 + rows && block + j < hidden {
                    let at = base + (block + j) * pixels + (row + p) * width + column;
                    out[at] = between(sums[p * BLOCK + j], c, at, job, comptime![formula.between]);
                }
            }
        }
    }
}

/// A tile of a step or a product.
#[cube]
fn step_tile(
    x: &[f32],
    c: &[f32],
    before: &[f32],
    after: &[f32],
    weights: &[Vector<f32, Const<4>>],
    out: &mut [f32],
    pool: &mut Shared<[f32]>,
    sample: usize,
    y0: usize,
    x0: usize,
    #[comptime] index: usize,
    #[comptime] job: Job,
    #[comptime] formula: Formula,
    #[comptime] plan: Plan,
) {
    let branch = comptime![plan.branches[index].clone()];
    let size = comptime![plan.kernel];
    let radius = comptime![plan.kernel / 2];
    let (height, width) = comptime![(branch.height, branch.width)];
    let (channels, hidden) = comptime![(branch.channels, branch.hidden)];
    let pixels = comptime![branch.pixels()];
    let pitch = comptime![branch.tile[1] + plan.kernel - 1];
    let plane = comptime![(branch.tile[0] + plan.kernel - 1) * (branch.tile[1] + plan.kernel - 1)];
    let units = comptime![plan.units];
    let unit = UNIT_POS as usize;
    let masked = comptime![matches!(job, Job::Product { before: true, .. })];

    for i in range_stepped(unit, comptime![branch.hidden * plane], units) {
        pool[i] = 0.0f32;
    }
    sync_cube();

    // h = s'(W z + c), the slopes times W u, or W z, on the tile and its border.
    let bottom = min(y0 + comptime![branch.tile[0] + radius], height.runtime());
    let right = min(x0 + comptime![branch.tile[1] + radius], width.runtime());
    let top = max(y0, radius.runtime()) - radius;
    let left = max(x0, radius.runtime()) - radius;
    let columns = right - left;
    let down = (bottom - top + comptime![ROWS - 1]) / ROWS;
    let items = columns * down * comptime![branch.hidden.div_ceil(BLOCK)];
    let base = sample * comptime![plan.image] + comptime![branch.image];
    for item in range_stepped(unit, items, units) {
        let column = left + item % columns;
        let rest = item / columns;
        let row = top + (rest % down) * ROWS;
        let block = (rest / down) * BLOCK;
        let mut sums = Array::<f32>::new(comptime![ROWS * BLOCK]);
        convolve_global(
            x,
            before,
            weights,
            &mut sums,
            sample,
            row,
            column,
            block,
            index,
            masked,
            comptime![plan.clone()],
        );
        #[unroll]
        for p in 0..ROWS {
            #[unroll]
            for j in 0..BLOCK {
                if row + p < bottom && block + j < hidden {
                    let at = base + (block + j) * pixels + (row + p) * width + column;
                    pool[(block + j) * plane + (row + p + radius - y0) * pitch + column + radius
                        - x0] =
                        between(sums[p * BLOCK + j], c, at, job, comptime![formula.between]);
                }
            }
        }
    }
    sync_cube();

    // W'h, and what is made of it.
    let rows = min(comptime![branch.tile[0]].runtime(), height - y0);
    let columns = min(comptime![branch.tile[1]].runtime(), width - x0);
    let down = (rows + comptime![ROWS - 1]) / ROWS;
    let items = columns * down * comptime![branch.channels.div_ceil(BLOCK)];
    let start = sample * comptime![plan.state];
    let base = start + comptime![branch.state];
    let wide = comptime![branch.channels.next_multiple_of(BLOCK)];
    for item in range_stepped(unit, items, units) {
        let column = item % columns;
        let rest = item / columns;
        let row = (rest % down) * ROWS;
        let block = (rest / down) * BLOCK;
        let mut sums = Array::<f32>::new(comptime![ROWS * BLOCK]);
        #[unroll]
        for i in 0..comptime![ROWS * BLOCK] {
            sums[i] = 0.0f32;
        }
        for h in 0..hidden {
            let mut window = Array::<f32>::new(comptime![(ROWS + plan.kernel - 1) * plan.kernel]);
            let from = h * plane + row * pitch + column;
            #[unroll]
            for dy in 0..comptime![ROWS + plan.kernel - 1] {
                #[unroll]
                for dx in 0..size {
                    // The last block of an odd number of rows looks past the border.
                    let at = from + dy * pitch + dx;
                    window[dy * size + dx] = pool[min(at, comptime![plan.shared - 1].runtime())];
                }
            }
            let first = (comptime![branch.transposed]
                + h * comptime![plan.kernel * plan.kernel] * wide
                + block)
                / 4;
            multiply(weights, &window, &mut sums, first, wide, size);
        }
        let corner = base + block * pixels + (y0 + row) * width + x0 + column;
        #[unroll]
        for p in 0..ROWS {
            #[unroll]
            for j in 0..BLOCK {
                if row + p < rows && block + j < channels {
                    let at = corner + j * pixels + p * width;
                    let z = read(x, before, at, masked);
                    let mut v = comptime![formula.keep()] * z
                        + comptime![formula.scale()] * sums[p * BLOCK + j];
                    if comptime![formula.proximity && job.activates()] {
                        v += comptime![formula.step()] * c[at];
                    }
                    out[at] = v;
                }
            }
        }
        // Not unrolled: the code of the couplings would be there once for each element.
        if comptime![job.finishes(&formula)] {
            for n in 0..comptime![ROWS * BLOCK].runtime() {
                let (p, j) = (n / BLOCK, n % BLOCK);
                if row + p < rows && block + j < channels {
                    let at = corner + j * pixels + p * width;
                    let (y, x1) = (y0 + row + p, x0 + column);
                    let mut v = coupled(
                        out[at],
                        x,
                        before,
                        at,
                        start,
                        block + j,
                        y,
                        x1,
                        index,
                        masked,
                        comptime![formula.clone()],
                        comptime![plan.clone()],
                    );
                    if comptime![matches!(job, Job::Product { after: true, .. })] {
                        v *= after[at];
                    }
                    if comptime![job.activates()] {
                        v = constrained(
                            v,
                            comptime![job == Job::Mask],
                            comptime![formula.constrain],
                        );
                    }
                    out[at] = v;
                }
            }
        }
    }
}

/// x, multiplied by a mask if there is one.
#[cube]
fn read(x: &[f32], mask: &[f32], at: usize, #[comptime] masked: bool) -> f32 {
    if masked { x[at] * mask[at] } else { x[at] }
}

/// Sums of W z at rows `row`, `row + 1`, ... of one column, for channels from `block` on.
#[cube]
fn convolve_global(
    x: &[f32],
    mask: &[f32],
    weights: &[Vector<f32, Const<4>>],
    sums: &mut Array<f32>,
    sample: usize,
    row: usize,
    column: usize,
    block: usize,
    #[comptime] index: usize,
    #[comptime] masked: bool,
    #[comptime] plan: Plan,
) {
    let branch = comptime![plan.branches[index].clone()];
    let size = comptime![plan.kernel];
    let radius = comptime![plan.kernel / 2];
    let (height, width) = comptime![(branch.height, branch.width)];
    let pixels = comptime![branch.pixels()];
    let wide = comptime![branch.hidden.next_multiple_of(BLOCK)];
    #[unroll]
    for i in 0..comptime![ROWS * BLOCK] {
        sums[i] = 0.0f32;
    }
    // Where the rows and columns of the window lie in a channel, and whether they are in the picture.
    let mut rows = Array::<usize>::new(comptime![ROWS + plan.kernel - 1]);
    let mut row_inside = Array::<u32>::new(comptime![ROWS + plan.kernel - 1]);
    #[unroll]
    for dy in 0..comptime![ROWS + plan.kernel - 1] {
        let y = row + dy;
        let within = y >= radius && y < height + radius;
        row_inside[dy] = select(within, 1u32, 0u32);
        rows[dy] = (select(within, y, radius.runtime()) - radius) * width;
    }
    let mut columns = Array::<usize>::new(size);
    let mut column_inside = Array::<u32>::new(size);
    #[unroll]
    for dx in 0..size {
        let x1 = column + dx;
        let within = x1 >= radius && x1 < width + radius;
        column_inside[dx] = select(within, 1u32, 0u32);
        columns[dx] = select(within, x1, radius.runtime()) - radius;
    }
    let base = sample * comptime![plan.state] + comptime![branch.state];
    for channel in 0..comptime![branch.channels] {
        let mut window = Array::<f32>::new(comptime![(ROWS + plan.kernel - 1) * plan.kernel]);
        let from = base + channel * pixels;
        #[unroll]
        for dy in 0..comptime![ROWS + plan.kernel - 1] {
            #[unroll]
            for dx in 0..size {
                let value = read(x, mask, from + rows[dy] + columns[dx], masked);
                let within = row_inside[dy] & column_inside[dx];
                window[comptime![dy * size + dx]] = select(within == 1u32, value, 0.0f32);
            }
        }
        let first = (comptime![branch.weights]
            + channel * comptime![plan.kernel * plan.kernel] * wide
            + block)
            / 4;
        multiply(weights, &window, sums, first, wide, size);
    }
}

/// Adds the products of a window with the weights of one channel.
#[cube]
fn multiply(
    weights: &[Vector<f32, Const<4>>],
    window: &Array<f32>,
    sums: &mut Array<f32>,
    first: usize,
    #[comptime] wide: usize,
    #[comptime] size: usize,
) {
    #[unroll]
    for dy in 0..size {
        #[unroll]
        for dx in 0..size {
            #[unroll]
            for q in 0..comptime![BLOCK / 4] {
                let four = weights[first + comptime![(dy * size + dx) * wide / 4 + q]];
                #[unroll]
                for j in 0..4usize {
                    #[unroll]
                    for p in 0..ROWS {
                        let at = comptime![p * BLOCK + q * 4 + j];
                        sums[at] += four.extract(j) * window[comptime![(p + dy) * size + dx]];
                    }
                }
            }
        }
    }
}

/// What stands between W and its transpose.
#[cube]
fn between(
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
fn constrained(v: f32, #[comptime] mask: bool, #[comptime] constrain: Constrain) -> f32 {
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

/// v less the step along the gradients of the couplings that the branch takes part in.
#[cube]
fn coupled(
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
            // The cell that the pixel lies in, or is.
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

/// Correlations of images a with states z, `[hidden, channels, k, k]` a branch, summed over a
/// group of samples and a part of the rows: `[groups x parts, kernels]`. With two pairs their sum.
///
/// A unit holds the k x k taps of one channel of z and [`GRADIENT_BLOCK`] channels of a.
#[cube(launch_unchecked)]
pub(super) fn correlate(
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
            // Rows of z around y, and a row of a, with zeros where the picture ends.
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

/// The sum of a value over the units of a cube, for all of them.
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
pub(super) fn normalise(x: &[f32], out: &mut [f32], #[comptime] plan: Plan) {
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
pub(super) fn bound(
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

/// The gradient with respect to kernels from that with respect to the bounded kernels;
/// `correlation` is that of the image with the direction.
#[cube(launch_unchecked)]
pub(super) fn unbound(
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
