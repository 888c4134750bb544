//! Detects states that run away instead of converging.
//!
//! The relative rule |f(z) - z| <= relative |f(z)| says nothing about a state that grew until the
//! right side became large: with f(z) = z + 1 it holds from z = 1 / relative on. A state that grew
//! therefore also needs a residual that fell. Let r_k and f_k be the norms of the residual and of f
//! at iterate k, and e the rounding error of the state's type. Then
//!
//! - the size S is the larger of f_0 and r_0. It is the scale known from the first evaluation, even
//!   if z_0 is zero;
//! - the low L_k is the smallest r_j so far, over iterates with f_j <= 10 S;
//! - with the growth G = f_k / S, the state has settled if G <= 10, or if
//!   r_k <= L_k 10 / G + 4 e f_k and r_k + e f_k <= L_k max(10 / G, 1/100), or if
//!   r_k + e f_k <= absolute;
//! - it ran away if it has not settled and G > 1000.
//!
//! Beyond ten times its size, a state must therefore reduce its residual by as much as it grew. A
//! fixed point does this: its residual falls to rounding error. A state on the way to infinity does
//! not, because whatever keeps the map from having a fixed point there also keeps the residual
//! large. The rule adds e f_k to the residual, because a residual of 0 proves nothing if one unit
//! in the last place of z exceeds the steps of the map. In f32 it admits growth up to 8e4.
//!
//! Solves that grow by less than sqrt(10 L / (relative S)) meet this rule whenever they meet the
//! relative rule: those below 100 at 1e-3, or 316 at 1e-4, if the residual has not fallen before
//! the state grew. An eigenvalue of 1 - 1/G makes a solve from 0 grow by G.
//!
//! Larger intermediate residuals do not count, because a solver that leaps in small stages makes
//! them grow with the state.

use burn::tensor::{Bool, Tensor};

/// Growth that is accepted without a smaller residual.
const FREE: f64 = 10.0;
/// The residual need not fall below this share of the low, rounding error included.
const FALL: f64 = 0.01;
/// Largest residual, in units of e f_k, that counts as rounding error.
const FLOOR: f64 = 4.0;
/// Growth from which a state that has not settled has run away.
const AWAY: f64 = 1e3;
/// Share of the size that rounding error may reach before residuals mean nothing.
const NOISE: f64 = 0.1;

/// The growth of one sample.
#[derive(Clone)]
pub(crate) struct Growth {
    size: f64,
    low: f64,
}

impl Growth {
    pub(crate) fn new() -> Self {
        Self::of([f64::NAN; 2])
    }

    /// From the size and low that were tracked on the device.
    pub(crate) fn of([size, low]: [f64; 2]) -> Self {
        Self { size, low }
    }

    /// Records the norms of the residual and of f at an iterate.
    pub(crate) fn follow(&mut self, [residual, image]: [f64; 2]) {
        if self.size.is_nan() {
            *self = Self::of([image.max(residual), residual]);
        } else if image <= FREE * self.size {
            self.low = self.low.min(residual);
        }
    }

    /// Whether the relative rule is meaningful at an iterate with these norms. `epsilon` is the
    /// rounding error of its type.
    pub(crate) fn settled(&self, norms: [f64; 2], absolute: f64, epsilon: f64) -> bool {
        let [residual, image] = norms;
        let (share, noise) = (FREE * self.size / image, epsilon * image);
        image <= FREE * self.size
            || residual + noise <= absolute
            || residual <= self.low * share + FLOOR * noise
                && residual + noise <= self.low * share.max(FALL)
    }

    /// Whether the state ran away.
    pub(crate) fn away(&self, norms: [f64; 2], absolute: f64, epsilon: f64) -> bool {
        norms[1] > AWAY * self.size && !self.settled(norms, absolute, epsilon)
    }

    /// Whether the state ran away so far that rounding hides whether the residual falls.
    pub(crate) fn lost(&self, norms: [f64; 2], absolute: f64, epsilon: f64) -> bool {
        epsilon * norms[1] > NOISE * self.size && self.away(norms, absolute, epsilon)
    }
}

/// Sizes and lows of all samples on the device, `[active, 1]` each.
pub(crate) struct DeviceGrowth(pub(crate) [Tensor<2>; 2]);

impl DeviceGrowth {
    /// From the norms at the first iterate.
    pub(crate) fn new([residual, image]: [Tensor<2>; 2]) -> Self {
        Self([image.max_pair(residual.clone()), residual])
    }

    /// As [`Growth::follow`].
    pub(crate) fn follow(self, [residual, image]: [Tensor<2>; 2]) -> Self {
        let Self([size, low]) = self;
        let near = image.lower_equal(size.clone() * FREE);
        let better = near.bool_and(residual.clone().lower(low.clone()));
        Self([size, low.mask_where(better, residual)])
    }

    /// As [`Growth::away`].
    pub(crate) fn away(
        &self,
        [residual, image]: [Tensor<2>; 2],
        absolute: f64,
        epsilon: f64,
    ) -> Tensor<2, Bool> {
        let [size, low] = self.0.clone();
        let noise = image.clone() * epsilon;
        let with_noise = residual.clone() + noise.clone();
        // From 1000 S on, 10 S / f is below 1/100.
        let fallen = with_noise.clone().lower_equal(low.clone() * FALL);
        let share = size.clone() / image.clone() * FREE;
        let gained = residual.lower_equal(low * share + noise * FLOOR);
        let settled = fallen.bool_and(gained);
        let settled = settled.bool_or(with_noise.lower_equal_elem(absolute));
        image.greater(size * AWAY).bool_and(settled.bool_not())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    const E32: f64 = f32::EPSILON as f64;

    fn after(norms: &[[f64; 2]]) -> Growth {
        let mut growth = Growth::new();
        norms.iter().for_each(|n| growth.follow(*n));
        growth
    }

    #[test]
    fn a_state_that_grew_needs_a_residual_that_fell() {
        // relu(z - 0.3) from 1.5: a leap to a place with a similar residual.
        let leap = after(&[[0.3, 1.2], [0.3, 0.9], [0.25, 1.5e6]]);
        assert!(!leap.settled([0.25, 1.5e6], 1e-10, E32) && leap.away([0.25, 1.5e6], 1e-10, E32));
        // Further away, the residual is lost in rounding error.
        assert!(!leap.settled([0.0, 1e8], 1e-10, E32) && leap.lost([0.0, 1e8], 1e-10, E32));
        // A slow affine map from 0 with a fixed point a thousand times the first image.
        let slow = after(&[[1.0, 1.0], [0.9, 600.0]]);
        assert!(!slow.settled([0.9, 999.0], 1e-10, E32) && !slow.away([0.9, 999.0], 1e-10, E32));
        assert!(slow.settled([0.008, 999.0], 1e-10, E32));
        assert!(slow.settled([1.0, 9.9], 1e-10, E32), "growth that is free");
    }

    #[test]
    fn residuals_far_away_do_not_count() {
        let leap = after(&[[0.3, 1.2], [9.0, 11.0], [5e5, 1e6], [1e-3, 1e6]]);
        assert!(leap.away([1e-3, 1e6], 1e-10, E32));
        assert!(leap.settled([1e-6, 1e6], 1e-10, 0.0), "a real fixed point");
        assert!(
            leap.settled([1e-11, 1e6], 1e-10, 0.0),
            "the absolute tolerance"
        );
    }

    #[test]
    fn the_device_follows_as_the_host_does() {
        let tensor = |v: f64| {
            let data = TensorData::new(vec![v], [1, 1]);
            Tensor::<2>::from_data(data, (&Device::flex(), DType::F64))
        };
        let pair = |n: [f64; 2]| n.map(tensor);
        for path in [
            vec![[0.3, 1.2], [0.3, 0.9], [0.25, 1.5e6], [0.0, 1e8]],
            vec![[0.3, 1.2], [5e5, 1e6], [100.0, 1e6], [1e-3, 1e6]],
            vec![
                [1.0, 1.0],
                [9.0, 9.5],
                [80.0, 85.0],
                [f64::NAN, f64::NAN],
                [0.1, 90.0],
            ],
        ] {
            let mut host = Growth::new();
            let mut device: Option<DeviceGrowth> = None;
            for norms in path {
                if norms[0].is_finite() {
                    host.follow(norms);
                }
                let now = match device.take() {
                    None => DeviceGrowth::new(pair(norms)),
                    Some(before) => before.follow(pair(norms)),
                };
                let read = |t: &Tensor<2>| t.clone().into_data().iter::<f64>().next().unwrap();
                assert_eq!(now.0.each_ref().map(read), [host.size, host.low]);
                let away = now.away(pair(norms), 1e-10, E32).into_data();
                let away = away.iter::<bool>().next().unwrap();
                assert_eq!(away, norms[0].is_finite() && host.away(norms, 1e-10, E32));
                device = Some(now);
            }
        }
    }
}
