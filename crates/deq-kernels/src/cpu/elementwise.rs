//! The elementwise parts of a step: activation, combination, coupling, proximal map.

use pulp::{Simd, WithSimd};

use super::pooling::Lines;
use crate::formula::{Activation, Finish, Prox};

/// The operation between the two convolutions.
#[derive(Clone, Copy)]
pub(super) enum Middle<'a> {
    Nothing,
    /// a -> s'(a + c)
    Activate(Activation, &'a [f32]),
    /// a -> s''(a + c)
    Slope(Activation, &'a [f32]),
    /// a -> a s
    Multiply(&'a [f32]),
    /// a -> a - c
    Subtract(&'a [f32]),
}

/// Applies it.
pub(super) fn apply(middle: Middle<'_>, a: &mut [f32]) {
    pulp::Arch::new().dispatch(Apply { middle, a });
}

struct Apply<'a> {
    middle: Middle<'a>,
    a: &'a mut [f32],
}

impl Apply<'_> {
    /// a -> f(a, b).
    #[inline(always)]
    fn zip(self, b: &[f32], f: impl Fn(f32, f32) -> f32) {
        for (a, b) in self.a.iter_mut().zip(b) {
            *a = f(*a, *b);
        }
    }
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        use Activation as A;
        // Comparisons, unlike max, propagate NaN.
        let positive = |a: f32| if a > 0.0 { 1.0 } else { 0.0 };
        match self.middle {
            Middle::Nothing => {}
            Middle::Multiply(s) => self.zip(s, |a, s| a * s),
            Middle::Subtract(c) => self.zip(c, |a, c| a - c),
            Middle::Activate(A::Relu, c) => self.zip(c, |a, c| relu(a + c)),
            Middle::Activate(A::LeakyRelu { slope }, c) => {
                let slope = slope as f32;
                self.zip(c, |a, c| {
                    let a = a + c;
                    if a < 0.0 { a * slope } else { a }
                });
            }
            Middle::Activate(A::Softplus, c) => self.zip(c, |a, c| softplus(a + c)),
            Middle::Activate(A::Tanh, c) => self.zip(c, |a, c| (a + c).tanh()),
            Middle::Slope(A::Relu, c) => self.zip(c, |a, c| positive(a + c)),
            Middle::Slope(A::LeakyRelu { slope }, c) => {
                let slope = slope as f32;
                self.zip(c, |a, c| if a + c > 0.0 { 1.0 } else { slope });
            }
            Middle::Slope(A::Softplus, c) => self.zip(c, |a, c| 1.0 / (1.0 + (-(a + c)).exp())),
            Middle::Slope(A::Tanh, c) => self.zip(c, |a, c| {
                let h = (a + c).tanh();
                1.0 - h * h
            }),
        }
    }
}

#[inline(always)]
fn relu(a: f32) -> f32 {
    if a < 0.0 { 0.0 } else { a }
}

#[inline(always)]
fn softplus(a: f32) -> f32 {
    // max(a, 0) + ln(1 + e^-|a|) does not overflow.
    relu(a) + (-a.abs()).exp().ln_1p()
}

/// out = keep z + scale t + step c.
pub(super) struct Combine<'a> {
    pub(super) keep: f32,
    pub(super) scale: f32,
    pub(super) step: f32,
    pub(super) z: &'a [f32],
    pub(super) t: &'a [f32],
    pub(super) injection: Option<&'a [f32]>,
    pub(super) out: &'a mut [f32],
}

impl WithSimd for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self {
            keep, scale, step, ..
        } = self;
        let terms = self.out.iter_mut().zip(self.z).zip(self.t);
        match self.injection {
            Some(c) => {
                for (((out, z), t), c) in terms.zip(c) {
                    *out = keep * z + scale * t + step * c;
                }
            }
            None => {
                for ((out, z), t) in terms {
                    *out = keep * z + scale * t;
                }
            }
        }
    }
}

/// A pair of branches.
pub(super) struct Couple<'a> {
    pub(super) fine: [usize; 2],
    pub(super) coarse: [usize; 2],
    pub(super) strength: f32,
    pub(super) z: [&'a [f32]; 2],
}

pub(super) struct CoupleOnto<'a, 'o> {
    couple: Couple<'a>,
    fine: &'o mut [f32],
    coarse: &'o mut [f32],
}

impl<'a> Couple<'a> {
    pub(super) fn onto<'o>(self, fine: &'o mut [f32], coarse: &'o mut [f32]) -> CoupleOnto<'a, 'o> {
        CoupleOnto {
            couple: self,
            fine,
            coarse,
        }
    }
}

impl WithSimd for CoupleOnto<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Couple {
            fine: [height, width],
            coarse: [h, w],
            strength,
            z: [z, z_coarse],
        } = self.couple;
        let (sy, sx) = (height / h, width / w);
        let scale = 1.0 / ((sy * sx) as f32).sqrt();
        let mut lines = Lines::default();
        // Rows of the coarser grid, channel by channel.
        let bands = z
            .chunks_exact(sy * width)
            .zip(self.fine.chunks_exact_mut(sy * width));
        let coarse = z_coarse
            .chunks_exact(w)
            .zip(self.coarse.chunks_exact_mut(w));
        for ((band, fine), (z, coarse)) in bands.zip(coarse) {
            // r = strength (Q z - z_coarse).
            lines.add_rows(band, width);
            lines.fold(sx);
            for ((r, z), out) in lines.line.iter_mut().zip(z).zip(coarse) {
                let residual = (*r * scale - z) * strength;
                *out += residual;
                *r = residual * scale;
            }
            lines.unfold(sx);
            for row in fine.chunks_exact_mut(width) {
                for (out, r) in row.iter_mut().zip(&lines.line) {
                    *out -= r;
                }
            }
        }
    }
}

/// The last operation on the result.
pub(super) enum Last<'a> {
    Multiply(&'a [f32]),
    Constrain(Prox, Finish),
}

pub(super) struct Conclude<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) step: f32,
    pub(super) last: Last<'a>,
}

impl WithSimd for Conclude<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let out = self.out;
        let indicator = |yes: bool| if yes { 1.0 } else { 0.0 };
        match self.last {
            Last::Multiply(mask) => {
                for (v, m) in out.iter_mut().zip(mask) {
                    *v *= m;
                }
            }
            Last::Constrain(Prox::NonNegative, Finish::Prox) => {
                out.iter_mut().for_each(|v| *v = relu(*v));
            }
            Last::Constrain(Prox::NonNegative, Finish::Mask) => {
                out.iter_mut().for_each(|v| *v = indicator(*v > 0.0));
            }
            Last::Constrain(Prox::Interval { low, high }, finish) => {
                let (low, high) = (low as f32, high as f32);
                for v in out {
                    *v = match finish {
                        Finish::Mask => indicator(*v > low && *v < high),
                        Finish::Prox if *v < low => low,
                        Finish::Prox if *v > high => high,
                        Finish::Prox => *v,
                    };
                }
            }
            Last::Constrain(Prox::Sparse { weight }, finish) => {
                let t = self.step * weight as f32;
                for v in out {
                    *v = match finish {
                        Finish::Mask => indicator(*v > t),
                        Finish::Prox => relu(*v - t),
                    };
                }
            }
            Last::Constrain(Prox::L1 { weight }, finish) => {
                let t = self.step * weight as f32;
                for v in out {
                    *v = match finish {
                        Finish::Mask => indicator(v.abs() > t),
                        Finish::Prox if *v < -t => *v + t,
                        Finish::Prox if *v > t => *v - t,
                        // Zero, but NaN for NaN.
                        Finish::Prox => *v * 0.0,
                    };
                }
            }
        }
    }
}
