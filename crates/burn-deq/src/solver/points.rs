//! Anderson acceleration in the host's memory, for plain tensors on Burn's CPU backend.
//!
//! A step there costs as much as reading the history, so it reads the history once. It keeps the
//! last iterates instead of writing differences. The inner products, weights and next iterate of a
//! sample are computed while its rows are in the cache.

use std::collections::VecDeque;
use std::ops::Range;

use burn::tensor::{DType, ElementConversion, Tensor, TensorData};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::vectors::{Floats, Real, worth_spreading};
use super::weights::{Decision, HostWeights, columns};
use crate::config::{AndersonConfig, AndersonType};
use crate::driver::mask;
use crate::input::Rows;

/// Elements per partial sum. More would cost accuracy.
const BLOCK: usize = 4096;

/// The last iterates z and f(z), and the weights of every sample.
pub(crate) struct Points {
    config: AndersonConfig,
    /// Oldest first, at most one more than the history size.
    points: VecDeque<Point>,
    weights: Vec<HostWeights>,
    next: Tensor<2>,
}

/// z and f(z), `[batch, n]` each.
struct Point {
    tensors: [Tensor<2>; 2],
    floats: [Floats; 2],
}

impl Point {
    fn new(tensors: [Tensor<2>; 2]) -> Option<Self> {
        let [z, f] = &tensors;
        if z.dtype() != f.dtype() {
            return None;
        }
        let floats = [Floats::new(z)?, Floats::new(f)?];
        Some(Self { tensors, floats })
    }

    fn expected(tensors: [Tensor<2>; 2]) -> Self {
        Self::new(tensors).expect("all tensors of a history are of one kind")
    }
}

impl Points {
    /// Storage for iterates like z and f(z), if the host can read them.
    pub(crate) fn new(config: &AndersonConfig, z: &Tensor<2>, f: &Tensor<2>) -> Option<Self> {
        Point::new([z.clone(), f.clone()])?;
        Some(Self {
            config: config.clone(),
            points: VecDeque::new(),
            weights: vec![HostWeights::new(config, f.dtype()); f.dims()[0]],
            next: z.clone(),
        })
    }

    /// Records iterate z and f(z) and computes the next iterate. `observations` counts the iterates
    /// so far. Returns |f - z|^2 and |f|^2, `[batch, 2]`.
    pub(crate) fn observe(
        &mut self,
        observations: usize,
        z: &Tensor<2>,
        f: &Tensor<2>,
    ) -> Tensor<2> {
        if self.points.len() > self.config.history {
            self.points.pop_front();
        }
        self.points
            .push_back(Point::expected([z.clone(), f.clone()]));
        if let Some(every) = self.config.restart
            && observations.is_multiple_of(every.max(1))
        {
            self.weights.iter_mut().for_each(HostWeights::restart);
        }
        match f.dtype() {
            DType::F64 => self.step::<f64>(observations, f),
            _ => self.step::<f32>(observations, f),
        }
    }

    fn step<T: Real>(&mut self, observations: usize, f: &Tensor<2>) -> Tensor<2> {
        let [batch, width] = f.dims();
        let accelerate = observations.is_multiple_of(self.config.period.max(1));
        let points = self.points.iter().rev();
        let step = Step::<T> {
            config: &self.config,
            points: points
                .map(|p| [p.floats[0].elements(), p.floats[1].elements()])
                .collect(),
            width,
            slot: observations.saturating_sub(2) % self.config.history,
            accelerate,
            // A plain step needs no memory: its result is f.
            writes: accelerate && self.points.len() > 1 || self.config.damping != 1.0,
        };
        let mut squares = vec![T::default(); 2 * batch];
        let spread = worth_spreading(batch, batch * width * (2 * self.points.len() + 1));
        let (back, next): (Vec<bool>, Vec<T>) = if spread {
            let least = batch.div_ceil(2 * rayon::current_num_threads());
            let samples = self
                .weights
                .par_iter_mut()
                .zip(squares.par_chunks_exact_mut(2));
            let parts: Vec<(bool, Vec<T>)> = samples
                .with_min_len(least)
                .enumerate()
                .map(|(sample, (weights, squares))| {
                    let mut next = Vec::new();
                    (step.sample(sample, weights, squares, &mut next), next)
                })
                .collect();
            let (back, next): (Vec<bool>, Vec<Vec<T>>) = parts.into_iter().unzip();
            (back, next.concat())
        } else {
            let mut next = Vec::with_capacity(if step.writes { batch * width } else { 0 });
            let samples = self.weights.iter_mut().zip(squares.chunks_exact_mut(2));
            let back = samples
                .enumerate()
                .map(|(sample, (weights, squares))| {
                    step.sample(sample, weights, squares, &mut next)
                })
                .collect();
            (back, next)
        };
        let tensor = |elements: Vec<T>, columns: usize| {
            let data = TensorData::new(elements, [batch, columns]);
            Tensor::from_data(data, (&f.device(), T::dtype()))
        };
        let written = step.writes.then(|| tensor(next, width));
        if back.contains(&true) {
            self.take_back(&back);
        }
        self.next = written.unwrap_or_else(|| self.newest()[1].clone());
        tensor(squares, 2)
    }

    fn newest(&self) -> &[Tensor<2>; 2] {
        &self.points.back().expect("just observed").tensors
    }

    /// The previous iterate replaces the newest one in these samples.
    fn take_back(&mut self, rows: &[bool]) {
        let newest = self.points.pop_back();
        if let (Some(newest), Some(before)) = (newest, self.points.back()) {
            let [z, f] = newest.tensors;
            let rows = mask(rows, &f).expand(f.dims());
            let [z0, f0] = before.tensors.clone();
            let point = [z.mask_where(rows.clone(), z0), f.mask_where(rows, f0)];
            self.points.push_back(Point::expected(point));
        }
    }

    /// The iterate after the last observed one.
    pub(crate) fn next(&self) -> Tensor<2> {
        self.next.clone()
    }

    /// Keeps only these samples.
    pub(crate) fn keep(&mut self, rows: &Rows) {
        for point in &mut self.points {
            let tensors = point.tensors.clone();
            *point = Point::expected(tensors.map(|t| rows.of(t)));
        }
        let weights = rows.indices().iter().map(|i| self.weights[*i].clone());
        self.weights = weights.collect();
        self.next = rows.of(self.next.clone());
    }
}

/// What all samples of a step share.
struct Step<'a, T> {
    config: &'a AndersonConfig,
    /// z and f of all samples, newest first.
    points: Vec<[&'a [T]; 2]>,
    width: usize,
    /// Slot in which the weights store the products of the newest difference. Older differences are
    /// in the slots to its left, cyclically.
    slot: usize,
    accelerate: bool,
    writes: bool,
}

impl<T: Real> Step<'_, T> {
    /// Appends the next iterate of a sample, if it is to be written. Returns whether the last step
    /// is rejected.
    fn sample(
        &self,
        sample: usize,
        weights: &mut HostWeights,
        squares: &mut [T],
        next: &mut Vec<T>,
    ) -> bool {
        let m = self.config.history;
        let row = sample * self.width..(sample + 1) * self.width;
        let points: Vec<[&[T]; 2]> = self.points.iter().map(|p| part(p, &row)).collect();
        let slot = |age: usize| (self.slot + m - age) % m;
        let columns = columns(self.config.kind);
        let mut products = vec![0.0; if points.len() > 1 { columns * m } else { 0 }];
        Arch::new().dispatch(Look {
            points: &points,
            kind: self.config.kind,
            squares: &mut *squares,
            add: |age: usize, found: &[T]| {
                for (column, product) in found.iter().enumerate().take(columns) {
                    products[column * m + slot(age)] += product.elem::<f64>();
                }
            },
        });
        let norms = [squares[0].elem(), squares[1].elem()];
        let safeguard = self.config.safeguard;
        let decision = weights.update(norms, &products, self.slot, safeguard, self.accelerate);
        let back = decision == Decision::TakeBack;
        if !self.writes {
            return back;
        }
        let damped = self.config.damping - 1.0;
        let [z, f] = points[usize::from(back)];
        let mut used = Vec::new();
        if damped != 0.0 {
            used.push(((-damped).elem(), [f, z]));
        }
        if decision == Decision::Accelerate {
            for (age, pair) in points.windows(2).enumerate() {
                let (gamma, [[z1, f1], [z0, f0]]) = (weights.gamma[slot(age)], [pair[0], pair[1]]);
                // Unused differences may hold NaN.
                if gamma == 0.0 {
                    continue;
                }
                used.push((gamma.elem(), [f1, f0]));
                if damped != 0.0 {
                    used.push(((gamma * damped).elem(), [f1, z1]));
                    used.push(((-gamma * damped).elem(), [f0, z0]));
                }
            }
        }
        let start = next.len();
        next.extend_from_slice(f);
        Arch::new().dispatch(Subtract {
            used: &used,
            x: &mut next[start..],
        });
        back
    }
}

/// A range of z and f.
#[inline(always)]
fn part<'a, T>([z, f]: &[&'a [T]; 2], range: &Range<usize>) -> [&'a [T]; 2] {
    [&z[range.clone()], &f[range.clone()]]
}

// Structs, not closures: see `vectors`.

/// Norms and inner products of a sample.
struct Look<'a, T, F> {
    /// z and f, newest first.
    points: &'a [[&'a [T]; 2]],
    kind: AndersonType,
    /// |f - z|^2 and |f|^2.
    squares: &'a mut [T],
    /// Receives the age of a difference and its inner products, in the order of `columns`.
    add: F,
}

impl<T: Real, F: FnMut(usize, &[T])> WithSimd for Look<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let width = self.points[0][0].len();
        for start in (0..width).step_by(BLOCK) {
            let block = start..width.min(start + BLOCK);
            let [z, f] = part(&self.points[0], &block);
            let [rr, ff] = T::residual(simd, z, f);
            self.squares[0] += rr;
            self.squares[1] += ff;
            let mut age = 0;
            while age + 1 < self.points.len() {
                // Several differences per pass read the newest point less often, while the sums fit
                // the registers.
                let left = self.points.len() - 1 - age;
                age += match (self.kind, left) {
                    (AndersonType::II, 6..) if S::REGISTER_COUNT >= 32 => {
                        self.ages::<S, 6, false>(simd, age, &block)
                    }
                    (AndersonType::II, 3..) => self.ages::<S, 3, false>(simd, age, &block),
                    (AndersonType::II, _) => self.ages::<S, 1, false>(simd, age, &block),
                    (AndersonType::I, 3..) => self.ages::<S, 3, true>(simd, age, &block),
                    (AndersonType::I, _) => self.ages::<S, 1, true>(simd, age, &block),
                };
            }
        }
    }
}

impl<T: Real, F: FnMut(usize, &[T])> Look<'_, T, F> {
    /// The D differences from this age on; returns D.
    #[inline(always)]
    fn ages<S: Simd, const D: usize, const ALL: bool>(
        &mut self,
        simd: S,
        age: usize,
        block: &Range<usize>,
    ) -> usize {
        let at = |k: usize| part(&self.points[k], block);
        let others = std::array::from_fn(|k| at(age + 1 + k));
        let found = T::differences::<S, D, ALL>(simd, [at(0), at(1)], at(age), others);
        for (k, found) in found.iter().enumerate() {
            (self.add)(age + k, found);
        }
        D
    }
}

/// x minus the weighted differences of pairs.
struct Subtract<'a, T> {
    used: &'a [(T, [&'a [T]; 2])],
    x: &'a mut [T],
}

impl<T: Real> WithSimd for Subtract<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (sixes, rest) = self.used.as_chunks::<6>();
        for six in sixes {
            T::subtract(simd, six.map(|u| u.0), six.map(|u| u.1), self.x);
        }
        let (threes, rest) = rest.as_chunks::<3>();
        for three in threes {
            T::subtract(simd, three.map(|u| u.0), three.map(|u| u.1), self.x);
        }
        for (weight, pair) in rest {
            T::subtract(simd, [*weight], [*pair], self.x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Operator, PackedMap, Requests, drive};
    use crate::solver::anderson::Anderson;
    use crate::termination::{Check, Termination};
    use burn::tensor::Device;

    /// z -> slope * tanh(z) + shift, elementwise. Steps overshoot if a slope is large, and one
    /// sample is not finite from the start.
    struct Elementwise([Tensor<2>; 2]);

    impl PackedMap for Elementwise {
        fn apply(&self, z: Tensor<2>) -> Tensor<2> {
            let [slope, shift] = self.0.clone();
            z.tanh() * slope + shift
        }

        fn linear(&self, _p: Tensor<2>) -> Tensor<2> {
            unreachable!("Anderson acceleration only evaluates")
        }

        fn keep(&mut self, rows: &Rows) -> bool {
            self.0 = self.0.clone().map(|t| rows.of(t));
            true
        }
    }

    fn fourteen_steps() -> Termination {
        Termination {
            relative: 1e-5,
            absolute: 0.0,
            max_steps: 14,
            ..Termination::default()
        }
    }

    /// Residuals step by step and the final state.
    fn run(
        config: &AndersonConfig,
        width: usize,
        device: &Device,
        freeze: bool,
        rule: &Termination,
    ) -> Vec<f64> {
        let batch = 5;
        let wave = |a: f64, f: f64| {
            let at = |k: usize| a * (f * (k + 1) as f64).sin();
            let data: Vec<f64> = (0..batch * width).map(at).collect();
            Tensor::<2>::from_data(TensorData::new(data, [batch, width]), (device, DType::F64))
        };
        let scale = TensorData::new(vec![0.9, 1.5, 0.1, 0.9, 6.0], [batch, 1]);
        let scale = Tensor::<2>::from_data(scale, (device, DType::F64));
        let bad = TensorData::new(vec![0.0, 0.0, 0.0, f64::NAN, 0.0], [batch, 1]);
        let bad = Tensor::<2>::from_data(bad, (device, DType::F64));
        let map = Elementwise([wave(1.0, 0.7) * scale, wave(0.5, 1.3) + bad]);
        let start = wave(0.1, 2.1);
        let mut operator = Operator::new(map);
        let mut anderson = Anderson::new(start.clone(), config.clone());
        let requests = Requests {
            trace: true,
            freeze,
            ..Requests::default()
        };
        let outcome = drive(&mut anderson, &mut operator, start, rule, requests);
        let trace = outcome.report.trace.into_iter().flat_map(|(_, r)| r);
        let state = outcome.state.into_data();
        trace.chain(state.iter::<f64>()).collect()
    }

    /// Tensors on an autodiff device take the other path, which stores differences by tensor
    /// operations.
    #[test]
    fn one_pass_and_tensor_operations_agree() {
        let (host, other) = (Device::flex(), Device::flex().autodiff());
        let (rule, mut taken_back) = (fourteen_steps(), false);
        for kind in [AndersonType::II, AndersonType::I] {
            for history in [1, 2, 3, 5, 6, 8] {
                for (damping, period, restart, safeguard) in [
                    (1.0, 1, None, 4.0),
                    (0.7, 1, None, 4.0),
                    (1.0, 3, None, 4.0),
                    (1.0, 1, Some(4), 4.0),
                    (1.0, 1, None, 0.4),
                    (0.7, 2, Some(5), 0.4),
                ] {
                    let mut config = AndersonConfig::new()
                        .with_kind(kind)
                        .with_history(history)
                        .with_damping(damping)
                        .with_period(period)
                        .with_regularization(1e-6)
                        .with_safeguard(safeguard);
                    config.restart = restart;
                    for width in [1, 7, 40] {
                        for freeze in [false, true] {
                            let a = run(&config, width, &host, freeze, &rule);
                            let b = run(&config, width, &other, freeze, &rule);
                            assert_eq!(a.len(), b.len());
                            for (a, b) in a.iter().zip(&b) {
                                let close = (a - b).abs() <= 1e-7 * (1e-3 + b.abs());
                                assert!(
                                    close || a.is_nan() && b.is_nan(),
                                    "{config:?}, width {width}: {a} and {b}"
                                );
                            }
                            let never = config.clone().with_safeguard(f64::INFINITY);
                            let c = run(&never, width, &host, freeze, &rule);
                            taken_back |= a.iter().zip(&c).any(|(a, c)| (a - c).abs() > 1e-3);
                        }
                    }
                }
            }
        }
        assert!(taken_back, "no case rejects a step");
    }

    /// If residuals are checked only every third step, masks decide for tensors on other devices.
    #[test]
    fn decisions_by_masks_lead_to_the_same_fixed_points() {
        let (batch, width) = (5, 40);
        let rule = Termination {
            relative: 1e-9,
            max_steps: 90,
            ..fourteen_steps()
        };
        let seldom = Termination {
            check: Check::Every(3),
            ..rule.clone()
        };
        for kind in [AndersonType::II, AndersonType::I] {
            let config = AndersonConfig::new().with_kind(kind);
            let a = run(&config, width, &Device::flex(), false, &rule);
            let b = run(&config, width, &Device::flex().autodiff(), false, &seldom);
            let [a, b] = [&a, &b].map(|all| &all[all.len() - batch * width..]);
            // Only the contractions; the others may have several fixed points or none.
            for sample in [0, 2] {
                let row = sample * width..(sample + 1) * width;
                for (a, b) in a[row.clone()].iter().zip(&b[row]) {
                    assert!(
                        (a - b).abs() < 1e-7,
                        "{kind:?}, sample {sample}: {a} and {b}"
                    );
                }
            }
        }
    }
}
