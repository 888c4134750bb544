//! Problems and helpers shared by the tests.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

pub fn f64_tensor<const D: usize>(values: Vec<f64>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(
        TensorData::new(values, shape),
        (&Device::flex(), DType::F64),
    )
}

pub fn values<const D: usize>(t: Tensor<D>) -> Vec<f64> {
    t.without_autodiff().into_data().iter::<f64>().collect()
}

/// |a - b| / |b| over all elements.
pub fn relative_error<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f64 {
    relative(&values(a), &values(b))
}

pub fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

/// A deterministic stream of numbers in [-1, 1), because tests must not depend on a shared
/// generator.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    pub fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn vec(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.next()).collect()
    }

    pub fn tensor<const D: usize>(&mut self, shape: [usize; D], scale: f64) -> Tensor<D> {
        let n = shape.iter().product();
        f64_tensor(self.vec(n).iter().map(|v| v * scale).collect(), shape)
    }
}

/// z = tanh(z W + x U + b).
#[derive(Module, Debug)]
pub struct Tanh {
    pub w: Param<Tensor<2>>,
    pub u: Param<Tensor<2>>,
    pub b: Param<Tensor<1>>,
}

impl Tanh {
    /// Random weights; W is a contraction (its row sums stay below 0.8).
    pub fn new(n: usize, inputs: usize, device: &Device, dtype: DType) -> Self {
        let mut numbers = Numbers::new(7);
        let on = |t: Tensor<2>| Tensor::<2>::from_data(t.into_data(), (device, dtype));
        let w = on(numbers.tensor([n, n], 1.6 / n as f64));
        let u = on(numbers.tensor([inputs, n], 0.5));
        let b = on(numbers.tensor([1, n], 0.3)).squeeze_dim(0);
        Self {
            w: Param::from_tensor(w),
            u: Param::from_tensor(u),
            b: Param::from_tensor(b),
        }
    }

    pub fn forward(&self, z: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
        (z.matmul(self.w.val()) + x.matmul(self.u.val()) + self.b.val().unsqueeze()).tanh()
    }
}

/// z = z A + x with A symmetric of the given spectrum in a random orthogonal basis.
#[derive(Module, Debug)]
pub struct Affine {
    pub a: Param<Tensor<2>>,
}

impl Affine {
    pub fn symmetric(spectrum: &[f64], seed: u64, device: &Device, dtype: DType) -> Self {
        let n = spectrum.len();
        let a = TensorData::new(Self::matrix(spectrum, seed), [n, n]);
        Self {
            a: Param::from_tensor(Tensor::from_data(a, (device, dtype))),
        }
    }

    /// The matrix itself, row-major.
    pub fn matrix(spectrum: &[f64], seed: u64) -> Vec<f64> {
        let n = spectrum.len();
        let q = orthogonal(n, seed);
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = (0..n).map(|k| q[k][i] * spectrum[k] * q[k][j]).sum();
            }
        }
        a
    }

    /// n = 200, spectrum linspace(-0.95, 0.95): the slow map of the iteration-count table.
    pub fn slow(device: &Device, dtype: DType) -> Self {
        let spectrum: Vec<f64> = (0..200).map(|k| -0.95 + 1.9 * k as f64 / 199.0).collect();
        Self::symmetric(&spectrum, 3, device, dtype)
    }

    pub fn forward(&self, z: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
        z.matmul(self.a.val()) + x
    }
}

/// Orthonormal rows by Gram-Schmidt, twice for accuracy.
pub fn orthogonal(n: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut numbers = Numbers::new(seed);
    let mut rows: Vec<Vec<f64>> = Vec::new();
    while rows.len() < n {
        // A sum of uniform numbers is close enough to a Gaussian for a random direction.
        let mut v: Vec<f64> = (0..n)
            .map(|_| (0..6).map(|_| numbers.next()).sum())
            .collect();
        for _ in 0..2 {
            for q in &rows {
                let dot: f64 = v.iter().zip(q).map(|(a, b)| a * b).sum();
                v.iter_mut().zip(q).for_each(|(a, b)| *a -= dot * b);
            }
        }
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm > 1e-6 {
            rows.push(v.into_iter().map(|x| x / norm).collect());
        }
    }
    rows
}
