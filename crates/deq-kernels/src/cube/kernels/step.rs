//! A step of an objective, or its linearisation.
//!
//! The work is divided as follows: a cube computes a tile of one branch of one sample; a unit
//! computes [`ROWS`] rows x [`BLOCK`] channels of one column at a time, so that a weight is used
//! for every row and a pixel for every channel. W z of the tile, with a border as wide as the
//! kernel needs, stays in shared memory, and W' reads it from there.

use cubecl::prelude::*;

use super::elementwise::{between, constrained, coupled, read};
use super::{BLOCK, ROWS};
use crate::cube::plan::{Formula, Job, Plan};

/// Kernels in the order in which [`step`] reads them: `[in, k, k, out]`, then the flipped
/// transposes in the same order, both with `out` padded with zeros to whole blocks.
#[cube(launch_unchecked)]
pub(crate) fn lay_out(natural: &[f32], out: &mut [f32], #[comptime] plan: Plan) {
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
/// x is the state or the vector, `[batch, state]`; c holds the injections, or the factors between
/// the two convolutions.
#[cube(launch_unchecked)]
pub(crate) fn step(
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
                let bottom = min(
                    y + comptime![plan.branches[i].tile[0]],
                    comptime![plan.branches[i].height].runtime(),
                );
                let right = min(
                    x0 + comptime![plan.branches[i].tile[1]],
                    comptime![plan.branches[i].width].runtime(),
                );
                image(
                    x,
                    c,
                    x,
                    weights,
                    out,
                    &mut pool,
                    sample,
                    (y, bottom),
                    (x0, right),
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

/// The result of the operation between W and its transpose, on a region of a branch. It is written
/// to the output, or to shared memory for the tile at (y0, x0).
#[cube]
fn image(
    x: &[f32],
    c: &[f32],
    mask: &[f32],
    weights: &[Vector<f32, Const<4>>],
    out: &mut [f32],
    pool: &mut Shared<[f32]>,
    sample: usize,
    rows: (usize, usize),
    columns: (usize, usize),
    y0: usize,
    x0: usize,
    #[comptime] index: usize,
    #[comptime] job: Job,
    #[comptime] formula: Formula,
    #[comptime] plan: Plan,
) {
    let branch = comptime![plan.branches[index].clone()];
    let radius = comptime![plan.kernel / 2];
    let pitch = comptime![branch.tile[1] + plan.kernel - 1];
    let plane = comptime![(branch.tile[0] + plan.kernel - 1) * (branch.tile[1] + plan.kernel - 1)];
    let (hidden, width) = comptime![(branch.hidden, branch.width)];
    let pixels = comptime![branch.pixels()];
    let (top, bottom) = rows;
    let (left, right) = columns;
    let across = right - left;
    let down = (bottom - top + comptime![ROWS - 1]) / ROWS;
    let items = across * down * comptime![branch.hidden.div_ceil(BLOCK)];
    let base = sample * comptime![plan.image] + comptime![branch.image];
    for item in range_stepped(UNIT_POS as usize, items, comptime![plan.units]) {
        let column = left + item % across;
        let rest = item / across;
        let row = top + (rest % down) * ROWS;
        let block = (rest / down) * BLOCK;
        let mut sums = Array::<f32>::new(comptime![ROWS * BLOCK]);
        convolve_global(
            x,
            mask,
            weights,
            &mut sums,
            sample,
            row,
            column,
            block,
            index,
            comptime![job.masks_before()],
            comptime![plan.clone()],
        );
        #[unroll]
        for p in 0..ROWS {
            #[unroll]
            for j in 0..BLOCK {
                if row + p < bottom && block + j < hidden {
                    let at = base + (block + j) * pixels + (row + p) * width + column;
                    let value =
                        between(sums[p * BLOCK + j], c, at, job, comptime![formula.between]);
                    if comptime![job.makes_image()] {
                        out[at] = value;
                    } else {
                        pool[(block + j) * plane
                            + (row + p + radius - y0) * pitch
                            + column
                            + radius
                            - x0] = value;
                    }
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
    let masked = comptime![job.masks_before()];

    for i in range_stepped(unit, comptime![branch.hidden * plane], units) {
        pool[i] = 0.0f32;
    }
    sync_cube();

    // h = s'(W z + c), the slopes times W u, or W z, on the tile and its border.
    let bottom = min(y0 + comptime![branch.tile[0] + radius], height.runtime());
    let right = min(x0 + comptime![branch.tile[1] + radius], width.runtime());
    let top = max(y0, radius.runtime()) - radius;
    let left = max(x0, radius.runtime()) - radius;
    image(
        x,
        c,
        before,
        weights,
        out,
        pool,
        sample,
        (top, bottom),
        (left, right),
        y0,
        x0,
        index,
        job,
        comptime![formula.clone()],
        comptime![plan.clone()],
    );
    sync_cube();

    // W'h, and the result computed from it.
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
                    // The last block of an odd number of rows reads past the border.
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
        // Not unrolled, because the code of the couplings would be repeated for each element.
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
    // Offsets of the rows and columns of the window in a channel, and whether they are in the
    // picture.
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
