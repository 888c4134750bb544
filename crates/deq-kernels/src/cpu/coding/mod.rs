//! A whole solve of a coding, sample by sample: forward and backward.
//!
//! For `Kernel::Gram`, everything happens at the resolution of the first branch: E z, the branches
//! raised and stacked, has the norm of z, and E E' takes means over the cells of coarser branches.
//! A step of E z is therefore a product of G with a matrix of pixels, means over cells, and one
//! pass over memory. A sample stays in the second-level cache from the first step to the last.
//!
//! The forward solve is accelerated descent with momentum beta, like `burn_deq`'s method of that
//! name:
//!
//! ```text
//! f = prox((1 - step q) y - step E E' G y + step c),   y+ = f + beta (f - f-)
//! ```
//!
//! The backward solve is conjugate gradients on (I - D S D) w = D g with S = I - step H. It also
//! sums up u = g + S w.

mod codes;
mod passes;

use std::cell::RefCell;

use burn::tensor::{Tensor, TensorData};
use pulp::Arch;

use self::codes::Codes;
use self::passes::{Curve, Descend, Extrapolate, Turn, Value};
use super::memory::{Floats, lend, produce, room};
use crate::formula::StepFormula;
use crate::inputs::Inputs;
use crate::solve::{SolveLimits, Solved};

thread_local! {
    static MEMORY: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Consecutive parts of memory, each of this length.
fn parts<const N: usize>(memory: &mut [f32], length: usize) -> [&mut [f32]; N] {
    let mut chunks = memory.chunks_exact_mut(length);
    std::array::from_fn(|_| chunks.next().expect("memory for every part"))
}

/// The momentum of accelerated descent: see `burn_deq`'s method.
fn momentum(limits: &SolveLimits, t: &mut f64, sums: [f64; 6]) -> f32 {
    let [_, _, uphill, along, length, square] = sums;
    let fine = length > 0.0 && square <= along;
    let q = if fine {
        (along / length).clamp(0.0, 1.0)
    } else {
        0.0
    };
    let root = (1.0 - q).sqrt();
    let best = (1.0 - root) / (1.0 + root);
    if limits.restart && uphill < 0.0 {
        *t = 1.0;
    }
    let next = ((*t * *t * 4.0 + 1.0).sqrt() + 1.0) / 2.0;
    let beta = ((*t - 1.0) / next).min(best).min(limits.momentum);
    *t = next;
    beta as f32
}

/// Solves z = f(z) from z0. `None` if there is no fast form.
pub(crate) fn solve(
    formula: &StepFormula,
    z0: &Tensor<2>,
    x: Inputs<'_>,
    limits: &SolveLimits,
) -> Option<Solved> {
    let codes = Codes::new(formula, x, limits)?;
    let injections = Floats::all(x.injections)?;
    let start = packed(z0, codes.width())?;
    let batch = z0.dims()[0];
    if injections.iter().any(|c| c.dims[0] != batch) || limits.max_steps == 0 {
        return None;
    }
    let size = codes.rows() * codes.stride();
    let ([state, image], samples) = produce(batch, codes.width(), |n, [state, image]| {
        lend(&MEMORY, |memory| {
            let [c, y, before, f, last] = parts::<5>(room(memory, 5 * size), size);
            let mut cell = Vec::new();
            let sample = |floats: &'_ Floats| n * floats.sample()..(n + 1) * floats.sample();
            codes.raise_injections(injections.iter().map(|c| &c.elements()[sample(c)]), c);
            let z0 = &start.elements()[n * codes.width()..(n + 1) * codes.width()];
            codes.raise(codes.branches(z0), y);
            let (mut y, mut before, mut f, mut last) = (y, before, f, last);
            let mut t = 1.0;
            let mut steps = 0;
            let sums = loop {
                steps += 1;
                if steps == 1 && z0.iter().all(|z| *z == 0.0) {
                    f.fill(0.0);
                } else {
                    codes.product(y, &mut cell, f);
                }
                if steps == 1 {
                    before.copy_from_slice(y);
                    last.copy_from_slice(y);
                }
                let sums = Arch::new().dispatch(Value {
                    y,
                    c,
                    before,
                    image: last,
                    f,
                    keep: codes.keep,
                    step: codes.step,
                });
                if limits.met(sums[0], sums[1]) || steps == limits.max_steps {
                    break sums;
                }
                let beta = match steps {
                    1 => 0.0,
                    _ => momentum(limits, &mut t, sums),
                };
                Arch::new().dispatch(Extrapolate {
                    f,
                    image: last,
                    y: before,
                    beta,
                });
                (y, before) = (before, y);
                (f, last) = (last, f);
            };
            codes.lower(y, state.zeros(codes.width()));
            codes.lower(f, image.zeros(codes.width()));
            limits.sample(steps, sums[0], sums[1])
        })
    });
    Some(Solved {
        state: to_tensor(state, z0),
        image: Some(to_tensor(image, z0)),
        samples,
    })
}

/// Solves u = J'u + g at the point where the map has this value. `None` if there is no fast form.
pub(crate) fn solve_adjoint(
    formula: &StepFormula,
    value: &Tensor<2>,
    x: Inputs<'_>,
    g: &Tensor<2>,
    limits: &SolveLimits,
) -> Option<Solved> {
    let codes = Codes::new(formula, x, limits)?;
    let (values, gradient) = (packed(value, codes.width())?, packed(g, codes.width())?);
    if value.dims() != g.dims() {
        return None;
    }
    let size = codes.rows() * codes.stride();
    let ([state], samples) = produce(g.dims()[0], codes.width(), |n, [state]| {
        lend(&MEMORY, |memory| {
            let [mask, p, h, w, u, r] = parts::<6>(room(memory, 6 * size), size);
            let mut cell = Vec::new();
            let own = n * codes.width()..(n + 1) * codes.width();
            codes.raise(codes.branches(&values.elements()[own.clone()]), mask);
            mask.iter_mut()
                .for_each(|m| *m = f32::from(u8::from(*m > 0.0)));
            codes.raise(codes.branches(&gradient.elements()[own]), u);
            for ((r, g), m) in r.iter_mut().zip(&*u).zip(&*mask) {
                *r = g * m;
            }
            p.copy_from_slice(r);
            w.fill(0.0);
            let mut rr: f64 = r.iter().map(|r| f64::from(*r) * f64::from(*r)).sum();
            // At w = 0, the value of the map is the residual.
            let mut size = rr;
            let mut steps = 1;
            while !limits.met(rr, size) && steps < limits.max_steps {
                steps += 1;
                codes.product(p, &mut cell, h);
                let [curvature] = Arch::new().dispatch(Curve {
                    p,
                    mask,
                    h,
                    keep: codes.keep,
                    step: codes.step,
                });
                // The curvature is not positive if nothing is left to solve.
                let alpha = if curvature > 0.0 { rr / curvature } else { 0.0 };
                let [square, image] = Arch::new().dispatch(Descend {
                    p,
                    h,
                    mask,
                    w,
                    u,
                    r,
                    alpha: alpha as f32,
                });
                let beta = if rr > 0.0 { square / rr } else { 0.0 };
                (rr, size) = (square, image);
                if alpha == 0.0 {
                    break;
                }
                Arch::new().dispatch(Turn {
                    r,
                    p,
                    beta: beta as f32,
                });
            }
            codes.lower(u, state.zeros(codes.width()));
            limits.sample(steps, rr, size)
        })
    });
    Some(Solved {
        state: to_tensor(state, g),
        image: None,
        samples,
    })
}

/// A packed state as plain numbers.
fn packed(x: &Tensor<2>, width: usize) -> Option<Floats> {
    let [batch, n] = x.dims();
    if n != width || n == 0 {
        return None;
    }
    Floats::new(&x.clone().reshape([batch, n, 1, 1]))
}

/// A batch of packed states, on the device of `like`.
fn to_tensor(values: Vec<f32>, like: &Tensor<2>) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, like.dims()), &like.device())
}
