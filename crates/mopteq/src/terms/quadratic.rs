//! Quadratic terms.

use burn::tensor::Tensor;

use super::{Curvature, Formula, Hessian, Setting, Term};
use crate::context::{Branches, Context, half_square, map_branches};
use crate::graph::{Builder, Combination, Operands, Value};

/// weight/2 |z|^2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quadratic {
    /// The factor; 1 in the paper's summary.
    pub weight: f64,
}

impl Default for Quadratic {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl Quadratic {
    fn scale(&self, z: &Branches) -> Branches {
        if self.weight == 1.0 {
            return z.clone();
        }
        map_branches(z, |z| z * self.weight)
    }
}

impl Term for Quadratic {
    fn name(&self) -> &str {
        "quadratic"
    }

    fn value(&self, z: &Branches, _x: &Context) -> Tensor<1> {
        half_square(z) * self.weight
    }

    fn gradient(&self, z: &Branches, _x: &Context) -> Branches {
        self.scale(z)
    }

    fn hessian(&self, _z: &Branches, _x: &Context) -> Option<Hessian> {
        let term = *self;
        Some(Box::new(move |u| term.scale(u)))
    }

    fn curvature(&self, _setting: &Setting) -> Curvature {
        Curvature::new(self.weight, self.weight)
    }

    fn injection_gain(&self, _setting: &Setting) -> Option<f64> {
        Some(0.0)
    }

    fn formula(&self) -> Option<Formula> {
        Some(Formula::Quadratic {
            weight: self.weight,
        })
    }

    fn operations(
        &self,
        _graph: &mut Builder,
        z: &[Value],
        _x: &Operands,
    ) -> Option<Vec<Combination>> {
        Some(z.iter().map(|z| vec![(self.weight, *z)]).collect())
    }
}

/// 1/2 |z - c|^2, where c is the injection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proximity;

impl Proximity {
    fn difference(z: &Branches, x: &Context) -> Branches {
        let pairs = z.iter().zip(x.injection());
        pairs.map(|(z, c)| z.clone() - c.clone()).collect()
    }
}

impl Term for Proximity {
    fn name(&self) -> &str {
        "proximity"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        half_square(&Self::difference(z, x))
    }

    fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        Self::difference(z, x)
    }

    fn hessian(&self, _z: &Branches, _x: &Context) -> Option<Hessian> {
        Some(Box::new(Branches::clone))
    }

    fn curvature(&self, _setting: &Setting) -> Curvature {
        Curvature::new(1.0, 1.0)
    }

    fn injection_gain(&self, _setting: &Setting) -> Option<f64> {
        Some(1.0)
    }

    fn formula(&self) -> Option<Formula> {
        Some(Formula::Proximity)
    }

    fn operations(
        &self,
        _graph: &mut Builder,
        z: &[Value],
        x: &Operands,
    ) -> Option<Vec<Combination>> {
        let pairs = z.iter().zip(&x.injections);
        Some(pairs.map(|(z, c)| vec![(1.0, *z), (-1.0, *c)]).collect())
    }
}

/// 1/2 |W z - c|^2, with W the block operator of the context and c the injection: the state codes c
/// with the dictionary W, as a layer of nonnegative sparse coding does (Sun, Nasrabadi and Tran,
/// arXiv:1701.08349).
#[derive(Clone, Copy, Debug, Default)]
pub struct Reconstruction;

impl Reconstruction {
    fn difference(z: &Branches, x: &Context) -> Branches {
        let pairs = x.w(z).into_iter().zip(x.injection());
        pairs.map(|(a, c)| a - c.clone()).collect()
    }
}

impl Term for Reconstruction {
    fn name(&self) -> &str {
        "reconstruction"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        half_square(&Self::difference(z, x))
    }

    fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        x.w_transposed(&Self::difference(z, x))
    }

    fn hessian(&self, z: &Branches, x: &Context) -> Option<Hessian> {
        KernelEnergy.hessian(z, x)
    }

    fn curvature(&self, setting: &Setting) -> Curvature {
        KernelEnergy.curvature(setting)
    }

    fn injection_gain(&self, setting: &Setting) -> Option<f64> {
        Some(setting.kernel_norm)
    }

    fn formula(&self) -> Option<Formula> {
        Some(Formula::Reconstruction)
    }

    fn operations(
        &self,
        graph: &mut Builder,
        z: &[Value],
        x: &Operands,
    ) -> Option<Vec<Combination>> {
        let sums = x.w(graph, z).into_iter().zip(&x.injections);
        let difference = |(mut sum, c): (Combination, &Value)| {
            sum.push((-1.0, *c));
            graph.combine(&sum)
        };
        let difference: Vec<Value> = sums.map(difference).collect();
        Some(x.w_transposed(graph, &difference))
    }
}

/// 1/2 |W z|^2, where W is the block operator of the context.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelEnergy;

impl Term for KernelEnergy {
    fn name(&self) -> &str {
        "kernel energy"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        half_square(&x.w(z))
    }

    fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        x.w_transposed(&x.w(z))
    }

    fn hessian(&self, _z: &Branches, x: &Context) -> Option<Hessian> {
        let x = x.clone();
        Some(Box::new(move |u| x.w_transposed(&x.w(u))))
    }

    fn curvature(&self, setting: &Setting) -> Curvature {
        Curvature::new(0.0, setting.kernel_norm * setting.kernel_norm)
    }

    fn injection_gain(&self, _setting: &Setting) -> Option<f64> {
        Some(0.0)
    }

    fn formula(&self) -> Option<Formula> {
        Some(Formula::KernelEnergy)
    }

    fn operations(
        &self,
        graph: &mut Builder,
        z: &[Value],
        x: &Operands,
    ) -> Option<Vec<Combination>> {
        let a = x.w_values(graph, z);
        Some(x.w_transposed(graph, &a))
    }
}
