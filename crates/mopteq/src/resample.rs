//! Resampling between branches as an exactly adjoint pair of norm 1.
//!
//! With s the ratio of the resolutions, Q = s * (average pooling by s) and Q' = (nearest
//! up-sampling by s) / s. Plain pooling one way and plain up-sampling the other way are not
//! adjoint, so no objective has them in its gradient. If the two sides have different ratios, s is
//! their geometric mean.

use burn::tensor::Tensor;
use deq_kernels::{mean_pool, repeat};

/// Q: `[batch, channels, s h, s w] -> [batch, channels, h, w]`.
///
/// # Panics
///
/// Panics if a side is not divisible by s.
pub fn scaled_pool(x: Tensor<4>, s: usize) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    assert!(
        s > 0 && h % s == 0 && w % s == 0,
        "{h} x {w} pixels cannot be pooled by {s}"
    );
    resample(x, [h / s, w / s])
}

/// Q', the transpose of [`scaled_pool`]: `[batch, channels, h, w] -> [batch, channels, s h, s w]`.
pub fn scaled_upsample(x: Tensor<4>, s: usize) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    resample(x, [h * s, w * s])
}

/// Scaled resampling of `[batch, channels, h, w]` to `[height, width]`: pooling along sides that
/// shrink, up-sampling along those that grow. The transpose is the resampling back.
///
/// # Panics
///
/// Panics if, for a side, neither the old nor the new length divides the other.
pub fn resample(x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    if [h, w] == [height, width] {
        return x;
    }
    let ratio = |from: usize, to: usize| {
        let (large, small) = (from.max(to), from.min(to));
        assert!(
            small > 0 && large % small == 0,
            "{h} x {w} pixels cannot be resampled to {height} x {width}"
        );
        large / small
    };
    let (sh, sw) = (ratio(h, height), ratio(w, width));
    let pool = [
        if h > height { sh } else { 1 },
        if w > width { sw } else { 1 },
    ];
    let grow = [sh / pool[0], sw / pool[1]];
    let mut x = x;
    if pool != [1, 1] {
        let scale = ((pool[0] * pool[1]) as f64).sqrt();
        x = mean_pool(x, [h / pool[0], w / pool[1]]) * scale;
    }
    if grow != [1, 1] {
        let scale = ((grow[0] * grow[1]) as f64).sqrt();
        // Not a division, because Burn's autodiff would round the factor of its gradient to f32.
        x = repeat(x * scale.recip(), grow);
    }
    x
}
