//! The solvers' work on vectors `[batch, n]`: a cube per sample reads each of them once or twice.

use cubecl::prelude::*;

/// Largest number of points that [`gram`] and [`combine`] take.
pub(crate) const POINTS: usize = 7;

/// Element i of the k-th of seven vectors.
#[cube]
fn element(
    x0: &[f32],
    x1: &[f32],
    x2: &[f32],
    x3: &[f32],
    x4: &[f32],
    x5: &[f32],
    x6: &[f32],
    i: usize,
    #[comptime] k: usize,
) -> f32 {
    match k {
        0 => x0[i],
        1 => x1[i],
        2 => x2[i],
        3 => x3[i],
        4 => x4[i],
        5 => x5[i],
        _ => x6[i],
    }
}

/// Sums `values` over the units of a cube; unit k then holds the k-th sum in `pool[k]`.
#[cube]
fn totals(
    values: &Array<f32>,
    pool: &mut Shared<[f32]>,
    #[comptime] count: usize,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS as usize;
    #[unroll]
    for k in 0..count {
        pool[unit * count + k] = values[k];
    }
    sync_cube();
    #[unroll]
    for step in 0..comptime![units.trailing_zeros() as usize] {
        let half = comptime![units >> (step + 1)];
        for i in range_stepped(unit, comptime![half * count].runtime(), units) {
            let other = pool[comptime![half * count] + i];
            pool[i] += other;
        }
        sync_cube();
    }
}

/// Squares and inner products of points, the newest last. With r = f - z and d_k = r_(k+1) - r_k,
/// the result is `[batch, 2 + 2 width]`: |r|^2 and |f|^2 of the newest point, then, with the newest
/// r and d, the products <d, d_k> and <r, d_k>. Those of d_k are in slot `slots[k]`; other slots
/// are zero.
#[cube(launch_unchecked)]
pub(crate) fn gram(
    z0: &[f32],
    f0: &[f32],
    z1: &[f32],
    f1: &[f32],
    z2: &[f32],
    f2: &[f32],
    z3: &[f32],
    f3: &[f32],
    z4: &[f32],
    f4: &[f32],
    z5: &[f32],
    f5: &[f32],
    z6: &[f32],
    f6: &[f32],
    out: &mut [f32],
    length: usize,
    #[comptime] slots: Vec<usize>,
    #[comptime] width: usize,
    #[comptime] units: usize,
) {
    let newest = comptime![slots.len()];
    let count = comptime![2 + 2 * slots.len()];
    let start = CUBE_POS_X as usize * length;
    let unit = UNIT_POS as usize;
    let mut sums = Array::<f32>::new(count);
    #[unroll]
    for k in 0..count {
        sums[k] = 0.0f32;
    }
    for i in range_stepped(unit, length, units) {
        let at = start + i;
        let mut r = Array::<f32>::new(comptime![slots.len() + 1]);
        #[unroll]
        for k in 0..comptime![slots.len() + 1] {
            r[k] = element(f0, f1, f2, f3, f4, f5, f6, at, k)
                - element(z0, z1, z2, z3, z4, z5, z6, at, k);
        }
        let f = element(f0, f1, f2, f3, f4, f5, f6, at, newest);
        sums[0] += r[newest] * r[newest];
        sums[1] += f * f;
        #[unroll]
        for k in 0..newest {
            let d = r[comptime![k + 1]] - r[k];
            let last = r[newest] - r[comptime![newest - 1]];
            sums[comptime![2 + 2 * k]] += last * d;
            sums[comptime![3 + 2 * k]] += r[newest] * d;
        }
    }
    let mut pool = Shared::<[f32]>::new_slice(comptime![units * (2 + 2 * slots.len())]);
    totals(&sums, &mut pool, count, units);
    for k in range_stepped(unit, comptime![2 + 2 * width].runtime(), units) {
        out[CUBE_POS_X as usize * comptime![2 + 2 * width] + k] = 0.0f32;
    }
    sync_cube();
    if unit == 0 {
        let row = CUBE_POS_X as usize * comptime![2 + 2 * width];
        out[row] = pool[0];
        out[row + 1] = pool[1];
        #[unroll]
        for k in 0..newest {
            out[row + comptime![2 + slots[k]]] = pool[comptime![2 + 2 * k]];
            out[row + comptime![2 + width + slots[k]]] = pool[comptime![3 + 2 * k]];
        }
    }
}

/// The sum of vectors with weights `[batch, count]`; a vector of weight zero is not read.
#[cube(launch_unchecked)]
pub(crate) fn combine(
    weights: &[f32],
    x0: &[f32],
    x1: &[f32],
    x2: &[f32],
    x3: &[f32],
    x4: &[f32],
    x5: &[f32],
    x6: &[f32],
    out: &mut [f32],
    length: usize,
    #[comptime] count: usize,
) {
    let sample = CUBE_POS_Y as usize;
    let i = CUBE_POS_X as usize * CUBE_DIM as usize + UNIT_POS as usize;
    if i < length {
        let at = sample * length + i;
        let mut sum = 0.0f32;
        #[unroll]
        for k in 0..count {
            let weight = weights[sample * count + k];
            if weight != 0.0f32 {
                sum += weight * element(x0, x1, x2, x3, x4, x5, x6, at, k);
            }
        }
        out[at] = sum;
    }
}

/// a / b, and 0 where b is not positive.
#[cube]
fn ratio(a: f32, b: f32) -> f32 {
    select(b > 0.0f32, a / b, 0.0f32)
}

/// A step of conjugate gradients on I - J with q = p - J p: alpha = <r, r> / <p, q>, u + alpha p,
/// r - alpha q, and the next direction r + beta p. `squares` is `[batch, 2]`: |r|^2 and |u + r|^2
/// of the new u and r. Inner products count the elements in `within`, if it is given.
#[cube(launch_unchecked)]
pub(crate) fn conjugate(
    u: &[f32],
    r: &[f32],
    p: &[f32],
    product: &[f32],
    within: &[f32],
    rr: &[f32],
    new_u: &mut [f32],
    new_r: &mut [f32],
    new_p: &mut [f32],
    squares: &mut [f32],
    length: usize,
    #[comptime] masked: bool,
    #[comptime] units: usize,
) {
    let sample = CUBE_POS_X as usize;
    let start = sample * length;
    let unit = UNIT_POS as usize;
    let mut pool = Shared::<[f32]>::new_slice(comptime![2 * units]);
    let mut sums = Array::<f32>::new(2usize);
    sums[0] = 0.0f32;
    sums[1] = 0.0f32;
    for i in range_stepped(unit, length, units) {
        let at = start + i;
        let mut term = p[at] * (p[at] - product[at]);
        if masked {
            term *= within[at];
        }
        sums[0] += term;
    }
    totals(&sums, &mut pool, 1usize, units);
    let rr = rr[sample];
    let alpha = ratio(rr, pool[0]);
    sync_cube();
    sums[0] = 0.0f32;
    for i in range_stepped(unit, length, units) {
        let at = start + i;
        let u = u[at] + alpha * p[at];
        let r = r[at] - alpha * (p[at] - product[at]);
        new_u[at] = u;
        new_r[at] = r;
        let mut weight = 1.0f32.runtime();
        if masked {
            weight = within[at];
        }
        sums[0] += weight * r * r;
        sums[1] += weight * (u + r) * (u + r);
    }
    totals(&sums, &mut pool, 2usize, units);
    let beta = ratio(pool[0], rr);
    // Every unit reads only what it wrote itself.
    for i in range_stepped(unit, length, units) {
        let at = start + i;
        new_p[at] = new_r[at] + beta * p[at];
    }
    if unit == 0 {
        squares[sample * 2] = pool[0];
        squares[sample * 2 + 1] = pool[1];
    }
}
