//! Terms in which all branches explain one picture together.
//!
//! Every branch contributes the product of its dictionary and its codes, at the resolution of the
//! first branch: E_i, the scaled nearest up-sampling, takes it there. The other branches need not
//! explain what one branch explains, so explaining away couples them.

use burn::tensor::Tensor;
use deq_kernels::convolution::{convolve, transposed};

use super::{Curvature, Formula, Hessian, Setting, Term};
use crate::context::{Branches, Context, half_square, inner};
use crate::graph::{Builder, Combination, Operands, Value};
use crate::resample::resample;

/// 1/2 |g - sum_i E_i D_i z_i|^2, where D_i, the kernels of the context, are convolutions at the
/// resolution of their branch, and g, its only injection, has the resolution of the first branch.
///
/// With one branch, this is convolutional sparse coding (SDNet: Dai et al. 2022, arXiv:2210.12945).
/// Several branches are this crate's own addition.
#[derive(Clone, Copy, Debug, Default)]
pub struct JointReconstruction;

impl JointReconstruction {
    /// sum_i E_i D_i z_i.
    fn picture(z: &Branches, x: &Context) -> Tensor<4> {
        let size = finest(z);
        let parts = z.iter().zip(x.kernels());
        let parts = parts.map(|(z, d)| resample(convolve(z.clone(), d.clone()), size));
        let sum = parts.reduce(|a, b| a + b);
        sum.expect("a state has at least one branch")
    }

    /// The transpose of [`picture`](Self::picture), in the shape of `like`.
    fn codes(picture: Tensor<4>, like: &Branches, x: &Context) -> Branches {
        let parts = like.iter().zip(x.kernels());
        parts
            .map(|(z, d)| {
                let [_, _, height, width] = z.dims();
                let part = resample(picture.clone(), [height, width]);
                convolve(part, transposed(d.clone()))
            })
            .collect()
    }

    fn difference(z: &Branches, x: &Context) -> Tensor<4> {
        Self::picture(z, x) - x.injection()[0].clone()
    }
}

impl Term for JointReconstruction {
    fn name(&self) -> &str {
        "joint reconstruction"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        half_square(&vec![Self::difference(z, x)])
    }

    fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        Self::codes(Self::difference(z, x), z, x)
    }

    fn hessian(&self, _z: &Branches, x: &Context) -> Option<Hessian> {
        let x = x.clone();
        Some(Box::new(move |u| Self::codes(Self::picture(u, &x), u, &x)))
    }

    fn curvature(&self, setting: &Setting) -> Curvature {
        // The norm of a row of blocks is at most the root of their number times the largest norm.
        let square = setting.kernel_norm * setting.kernel_norm;
        Curvature::new(0.0, setting.branches as f64 * square)
    }

    fn injection_gain(&self, setting: &Setting) -> Option<f64> {
        Some((setting.branches as f64).sqrt() * setting.kernel_norm)
    }

    fn operations(
        &self,
        graph: &mut Builder,
        z: &[Value],
        x: &Operands,
    ) -> Option<Vec<Combination>> {
        let size = graph_size(graph, *z.first()?);
        let mut sum = vec![(-1.0, *x.injections.first()?)];
        for (z, d) in z.iter().zip(&x.kernels) {
            let part = graph.convolve(*z, d.clone());
            sum.push(graph.resample(part, size));
        }
        let difference = graph.combine(&sum);
        let codes = z.iter().zip(&x.kernels).map(|(z, d)| {
            let size = graph_size(graph, *z);
            let (factor, part) = graph.resample(difference, size);
            vec![(factor, graph.convolve(part, transposed(d.clone())))]
        });
        Some(codes.collect())
    }
}

/// 1/2 |p - sum_i D_i E_i z_i|^2 - 1/2 |p|^2 for every patch p of the picture: each patch around a
/// pixel of the first branch is coded on its own, as in SCN (Sun, Nasrabadi and Tran,
/// arXiv:1701.08349). All patches in a cell of a coarser branch share its codes.
///
/// The context holds only products of dictionary and patches: the Gram matrix D'D of D = [D_1 D_2
/// ...] as its only kernel, `[channels, channels, 1, 1]` with the channels of all branches, and the
/// injections c_i = E_i'D_i'p. A step costs (channels)^2 multiplications per pixel.
#[derive(Clone, Copy, Debug, Default)]
pub struct PatchReconstruction;

impl PatchReconstruction {
    /// E'D'D E z.
    fn product(z: &Branches, x: &Context) -> Branches {
        let size = finest(z);
        let stacked = z.iter().map(|z| resample(z.clone(), size)).collect();
        let image = convolve(Tensor::cat(stacked, 1), x.kernels()[0].clone());
        let channels = z.iter().map(|z| z.dims()[1]).collect();
        let parts = image.split_with_sizes(channels, 1);
        let parts = parts.into_iter().zip(z);
        parts
            .map(|(part, z)| {
                let [_, _, height, width] = z.dims();
                resample(part, [height, width])
            })
            .collect()
    }
}

impl Term for PatchReconstruction {
    fn name(&self) -> &str {
        "patch reconstruction"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        inner(z, &Self::product(z, x)) / 2.0 - inner(z, x.injection())
    }

    fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        let parts = Self::product(z, x).into_iter().zip(x.injection());
        parts.map(|(a, c)| a - c.clone()).collect()
    }

    fn hessian(&self, _z: &Branches, x: &Context) -> Option<Hessian> {
        let x = x.clone();
        Some(Box::new(move |u| Self::product(u, &x)))
    }

    fn curvature(&self, setting: &Setting) -> Curvature {
        Curvature::new(0.0, setting.kernel_norm * setting.kernel_norm)
    }

    fn injection_gain(&self, _setting: &Setting) -> Option<f64> {
        Some(1.0)
    }

    fn formula(&self) -> Option<Formula> {
        Some(Formula::PatchReconstruction)
    }

    fn operations(
        &self,
        graph: &mut Builder,
        z: &[Value],
        x: &Operands,
    ) -> Option<Vec<Combination>> {
        let (gram, size) = (x.kernels.first()?, graph_size(graph, *z.first()?));
        let channels: Vec<usize> = z.iter().map(|z| graph.shape(*z)[0]).collect();
        let first = |branch: usize| channels[..branch].iter().sum::<usize>();
        let raised: Vec<_> = z.iter().map(|z| graph.resample(*z, size)).collect();
        let rows = z.iter().zip(&x.injections).enumerate();
        let parts = rows.map(|(i, (z, c))| {
            let columns = raised.iter().enumerate().map(|(j, (factor, z))| {
                let block = gram.clone().narrow(0, first(i), channels[i]);
                let block = block.narrow(1, first(j), channels[j]);
                (*factor, graph.convolve(*z, block))
            });
            let columns: Combination = columns.collect();
            let image = graph.combine(&columns);
            let size = graph_size(graph, *z);
            vec![graph.resample(image, size), (-1.0, *c)]
        });
        Some(parts.collect())
    }
}

fn graph_size(graph: &Builder, value: Value) -> [usize; 2] {
    let [_, height, width] = graph.picture(value);
    [height, width]
}

fn finest(z: &Branches) -> [usize; 2] {
    let [_, _, height, width] = z[0].dims();
    [height, width]
}
