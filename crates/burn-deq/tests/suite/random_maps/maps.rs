//! The maps: every sample of a batch is a separate map.

use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_deq::{Input, Rows};

/// A stream of numbers in [-1, 1).
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() + 1.0) / 2.0
    }

    fn vec(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.next()).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// relu(u - u M - c), M positive semidefinite and often singular, c > 0: from any start, 0 is
    /// the only fixed point, because it solves a complementarity problem with such an M.
    ReluResidual,
    /// tanh(u W + c).
    Saturating,
    /// u W + c with the norm of W around 1, some with an eigenvalue of exactly 1.
    Affine,
    /// The same with W symmetric.
    Symmetric,
    /// Soft thresholding of u W + c.
    NonSmooth,
    /// u + c + g |c| sin(u), or relu(u) + |c|: no fixed point.
    Shifted,
}

/// Maps of one kind, one per sample: u -> scale f(u / scale).
#[derive(Clone)]
pub(super) struct Maps {
    kind: Kind,
    w: Tensor<3>,
    c: Tensor<2>,
    scale: Tensor<2>,
    /// Factor of the sine.
    g: Tensor<2>,
}

impl Maps {
    /// f(0).
    pub(super) fn constant(&self) -> Tensor<2> {
        self.apply(self.c.zeros_like())
    }

    pub(super) fn apply(&self, z: Tensor<2>) -> Tensor<2> {
        let u = z / self.scale.clone();
        let uw = u.clone().unsqueeze_dim::<3>(1).matmul(self.w.clone());
        let uw: Tensor<2> = uw.squeeze_dim(1);
        let c = self.c.clone();
        let image = match self.kind {
            Kind::ReluResidual => relu(u - uw - c),
            Kind::Saturating => (uw + c).tanh(),
            Kind::Affine | Kind::Symmetric => uw + c,
            Kind::NonSmooth => {
                let v = uw + c;
                v.clone().sign() * relu(v.abs() - 0.2)
            }
            Kind::Shifted => {
                let bent =
                    u.clone() + c.clone() + u.clone().sin() * c.clone().abs() * self.g.clone();
                let cut = relu(u) + c.abs();
                let negative = self.g.clone().lower_elem(0.0).expand(cut.dims());
                bent.mask_where(negative, cut)
            }
        };
        image * self.scale.clone()
    }

    pub(super) fn to(&self, device: &Device, dtype: DType) -> Self {
        fn cast<const D: usize>(t: &Tensor<D>, device: &Device, dtype: DType) -> Tensor<D> {
            let values: Vec<f64> = t.to_data().iter::<f64>().collect();
            Tensor::from_data(TensorData::new(values, t.dims()), (device, dtype))
        }
        Self {
            kind: self.kind,
            w: cast(&self.w, device, dtype),
            c: cast(&self.c, device, dtype),
            scale: cast(&self.scale, device, dtype),
            g: cast(&self.g, device, dtype),
        }
    }
}

impl Maps {
    /// The same maps with gradients for c.
    pub(super) fn tracked(&self) -> Self {
        Self {
            c: self.c.clone().autodiff().require_grad(),
            ..self.to(&self.w.device().autodiff(), self.w.dtype())
        }
    }
}

impl Input for Maps {
    fn plain(&self) -> Self {
        Self {
            kind: self.kind,
            w: self.w.clone().without_autodiff(),
            c: self.c.clone().without_autodiff(),
            scale: self.scale.clone().without_autodiff(),
            g: self.g.clone().without_autodiff(),
        }
    }

    fn is_autodiff(&self) -> bool {
        self.w.is_autodiff()
    }

    fn select(&self, rows: &Rows) -> Option<Self> {
        Some(Self {
            kind: self.kind,
            w: rows.of(self.w.clone()),
            c: rows.of(self.c.clone()),
            scale: rows.of(self.scale.clone()),
            g: rows.of(self.g.clone()),
        })
    }
}

/// Maps with their starting points, and their fixed points if they are known to be unique.
pub(super) struct Batch {
    pub(super) name: String,
    pub(super) maps: Maps,
    pub(super) start: Tensor<2>,
    pub(super) solutions: Vec<Option<Vec<f64>>>,
}

/// A lower bound on the norm of a matrix.
fn norm(w: &[f64], n: usize) -> f64 {
    let mut v = vec![1.0; n];
    let mut size = 0.0;
    for _ in 0..100 {
        let wv: Vec<f64> = (0..n)
            .map(|i| (0..n).map(|j| w[i * n + j] * v[j]).sum())
            .collect();
        let back: Vec<f64> = (0..n)
            .map(|j| (0..n).map(|i| w[i * n + j] * wv[i]).sum())
            .collect();
        size = length(&back).sqrt();
        v = back.iter().map(|x| x / length(&back).max(1e-300)).collect();
    }
    size
}

pub(super) fn length(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

pub(super) fn distance(a: &[f64], b: &[f64]) -> f64 {
    length(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
}

/// Solves u = u W + c by elimination; `None` if the system is close to singular.
fn fixed_point(w: &[f64], c: &[f64]) -> Option<Vec<f64>> {
    let n = c.len();
    let row = |j: usize| {
        let entries = (0..n).map(move |i| f64::from(i == j) - w[i * n + j]);
        entries.chain([c[j]]).collect::<Vec<f64>>()
    };
    let mut a: Vec<Vec<f64>> = (0..n).map(row).collect();
    for k in 0..n {
        let pivot = (k..n).max_by(|i, j| a[*i][k].abs().total_cmp(&a[*j][k].abs()))?;
        a.swap(k, pivot);
        let row = a[k].clone();
        if row[k].abs() < 1e-3 {
            return None;
        }
        for (i, other) in a.iter_mut().enumerate().filter(|(i, _)| *i != k) {
            let factor = other[k] / row[k];
            debug_assert_ne!(i, k);
            other
                .iter_mut()
                .zip(&row)
                .for_each(|(o, r)| *o -= factor * r);
        }
    }
    Some((0..n).map(|k| a[k][n] / a[k][k]).collect())
}

/// `count` maps with states of n elements. All numbers are exact in f32.
fn batch(kind: Kind, scaled: bool, n: usize, count: usize, numbers: &mut Numbers) -> Batch {
    let single = |v: Vec<f64>| -> Vec<f64> { v.into_iter().map(|x| f64::from(x as f32)).collect() };
    let (mut w, mut c, mut scales, mut g, mut start) = (vec![], vec![], vec![], vec![], vec![]);
    for k in 0..count {
        let mut own = numbers.vec(n * n);
        let mut shift = numbers.vec(n);
        match kind {
            Kind::ReluResidual => {
                // B' B of rank 0 to n.
                let rank = (n + 1) * k / count;
                // Products of multiples of 1/64 are exact, so M is singular in f32, too.
                let grid = |b: f64| (64.0 * b).round() / 64.0;
                let b: Vec<f64> = numbers.vec(rank * n).into_iter().map(grid).collect();
                let entry =
                    |i: usize, j: usize| (0..rank).map(|r| b[r * n + i] * b[r * n + j]).sum();
                own = (0..n * n).map(|e| entry(e / n, e % n)).collect();
                shift.iter_mut().for_each(|c| *c = 0.01 + c.abs());
            }
            Kind::Shifted => shift.iter_mut().for_each(|c| *c += 0.01f64.copysign(*c)),
            _ => {
                if k % 3 == 0 || kind == Kind::Symmetric {
                    own = (0..n * n)
                        .map(|e| own[e] + own[e % n * n + e / n])
                        .collect();
                }
                let linear = matches!(kind, Kind::Affine | Kind::Symmetric);
                let (low, high) = if linear { (0.8, 1.2) } else { (0.2, 2.5) };
                let factor = numbers.between(low, high) / norm(&own, n).max(1e-9);
                own.iter_mut().for_each(|w| *w *= factor);
                if linear && k % 5 == 0 {
                    // A decoupled eigenvalue of 1.
                    (0..n).for_each(|i| (own[i], own[i * n]) = (0.0, 0.0));
                    own[0] = 1.0;
                }
            }
        }
        w.extend(single(own));
        c.extend(single(shift));
        let scale = if scaled {
            10f64.powf(numbers.between(-6.0, 6.0))
        } else {
            1.0
        };
        scales.push(f64::from(scale as f32));
        g.push(f64::from((0.9 * numbers.next()) as f32));
        let spread = if k % 4 == 0 { 0.0 } else { 3.0 * scale };
        start.extend(single(
            numbers.vec(n).into_iter().map(|z| z * spread).collect(),
        ));
    }
    let tensor = |v: &[f64], columns: usize| {
        let data = TensorData::new(v.to_vec(), [count, columns]);
        Tensor::<2>::from_data(data, (&Device::flex(), DType::F64))
    };
    let maps = Maps {
        kind,
        w: tensor(&w, n * n).reshape([count, n, n]),
        c: tensor(&c, n),
        scale: tensor(&scales, 1),
        g: tensor(&g, 1),
    };
    let start = tensor(&start, n);
    // Plain iteration finds the fixed points of contractions.
    let mut z = start.clone();
    (0..2000).for_each(|_| z = maps.apply(z.clone()));
    let z: Vec<f64> = z.into_data().iter::<f64>().collect();
    let solutions = (0..count).map(|k| {
        let (own, shift) = (&w[k * n * n..(k + 1) * n * n], &c[k * n..(k + 1) * n]);
        match kind {
            Kind::ReluResidual => Some(vec![0.0; n]),
            Kind::Affine | Kind::Symmetric => {
                let u = fixed_point(own, shift)?;
                Some(u.into_iter().map(|u| u * scales[k]).collect())
            }
            Kind::Shifted => None,
            _ => (norm(own, n) < 0.95).then(|| z[k * n..(k + 1) * n].to_vec()),
        }
    });
    Batch {
        name: format!("{kind:?}{}, n = {n}", if scaled { ", scaled" } else { "" }),
        solutions: solutions.collect(),
        maps,
        start,
    }
}

/// Eight kinds, 125 maps each.
pub(super) fn thousand(seed: u64) -> Vec<Batch> {
    let mut numbers = Numbers::new(seed);
    let kinds = [
        (Kind::ReluResidual, false),
        (Kind::Saturating, false),
        (Kind::Affine, false),
        (Kind::NonSmooth, false),
        (Kind::Shifted, false),
        (Kind::ReluResidual, true),
        (Kind::Affine, true),
        (Kind::Saturating, true),
    ];
    let of = |(kind, scaled)| [1, 2, 3, 6, 16].map(|n| batch(kind, scaled, n, 25, &mut numbers));
    kinds.into_iter().flat_map(of).collect()
}

/// A thousand symmetric linear systems.
pub(super) fn symmetric(seed: u64) -> Vec<Batch> {
    let mut numbers = Numbers::new(seed);
    let mut of = |n| batch(Kind::Symmetric, n % 2 == 0, n, 200, &mut numbers);
    [1, 2, 3, 6, 16].map(&mut of).into()
}
