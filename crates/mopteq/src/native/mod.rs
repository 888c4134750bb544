//! The native CPU path: convolutions and whole steps of an objective on Burn's CPU backend.
//!
//! An equilibrium model spends its life in the same few convolutions with the same weights. So the
//! weights are put in order once a solve, and a step of the objective is computed sample by sample
//! without intermediate tensors. It applies to plain `f32`
//! tensors on Flex; everything else takes the portable path of Burn's operations, of which this is a
//! copy to rounding.

mod bands;
mod cell;
mod normalise;
mod packed;
mod pool;
mod pullback;
mod raster;

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData};
use burn_deq::{Input, custom_gradient};
use rayon::prelude::*;

pub(crate) use cell::{Finish, Recipe};
use cell::{Job, Kernels, Sample, Scratch};
pub(crate) use normalise::normalise;
use packed::{Packed, add_kernel_gradient};
pub(crate) use pool::pool;

use crate::context::{Branches, Context};

/// Larger kernels would run past the space that a plane has at its end.
const LARGEST_KERNEL: usize = 15;
/// Samples whose kernel gradients are added up by one task: a fixed number, so that the sum does
/// not depend on the number of threads.
const SAMPLES_A_TASK: usize = 8;

/// A plain `f32` tensor on Flex, with its elements in row-major order.
#[derive(Clone, Debug)]
pub(crate) struct Floats {
    tensor: FloatTensor<Flex>,
    dims: [usize; 4],
}

impl Floats {
    fn new(tensor: &Tensor<4>) -> Option<Self> {
        if tensor.is_autodiff() || tensor.dtype() != DType::F32 {
            return None;
        }
        let dims = tensor.dims();
        let tensor = tensor.clone().try_into_primitive::<Flex>().ok()?;
        let tensor = if tensor.is_contiguous() {
            tensor
        } else {
            tensor.to_contiguous()
        };
        Some(Self { tensor, dims })
    }

    fn all(tensors: &Branches) -> Option<Vec<Self>> {
        tensors.iter().map(Self::new).collect()
    }

    fn elements(&self) -> &[f32] {
        self.tensor
            .as_slice()
            .expect("the elements of a contiguous tensor of this type")
    }

    fn sample(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// The plane of a channel of every sample.
    fn planes(&self, channel: usize) -> impl Iterator<Item = &[f32]> {
        let [_, channels, height, width] = self.dims;
        let planes = self.elements().chunks_exact((height * width).max(1));
        planes.skip(channel).step_by(channels.max(1))
    }

    /// The sum over samples and pixels.
    fn sum_of_channels(&self) -> Vec<f32> {
        let [_, channels, height, width] = self.dims;
        let mut sums = vec![0.0; channels];
        for sample in self.elements().chunks_exact(self.sample().max(1)) {
            let planes = sample.chunks_exact((height * width).max(1));
            for (sum, plane) in sums.iter_mut().zip(planes) {
                // In short lines: a sum of many numbers one by one is not accurate in f32.
                *sum += plane.chunks(32).map(|c| c.iter().sum::<f32>()).sum::<f32>();
            }
        }
        sums
    }
}

fn tensor(elements: Vec<f32>, dims: [usize; 4], like: &Tensor<4>) -> Tensor<4> {
    Tensor::from_data(
        TensorData::new(elements, dims),
        &like.device().without_autodiff(),
    )
}

/// Whether a convolution of this kind has a native path.
fn convolves(x: [usize; 4], kernel: [usize; 4]) -> bool {
    let ([_, channels, height, width], [out, channels_in, k, l]) = (x, kernel);
    k == l
        && k % 2 == 1
        && k <= LARGEST_KERNEL
        && channels == channels_in
        && [out, channels, height, width].iter().all(|n| *n > 0)
}

/// Stride-1 convolution with zero padding that keeps the resolution, and a bias `[out]`, with their
/// gradients; `None` where only the portable path applies.
pub(crate) fn convolve(
    x: &Tensor<4>,
    kernel: &Tensor<4>,
    bias: Option<&Tensor<1>>,
) -> Option<Tensor<4>> {
    if !convolves(x.dims(), kernel.dims()) {
        return None;
    }
    let plain = |t: &Tensor<4>| Floats::new(&t.clone().without_autodiff());
    let (from, weights) = (plain(x)?, plain(kernel)?);
    let [out, channels, k, _] = weights.dims;
    let shift = match bias {
        Some(bias) => Some(plain(&bias.clone().reshape([1, -1, 1, 1]))?),
        None => None,
    };
    let packed = Packed::new(weights.elements(), [out, channels, k]);
    let y = convolve_batch(&packed, &from, shift.as_ref(), x);
    let none = || Tensor::zeros([1], &y.device());
    let inputs = (
        x.clone(),
        kernel.clone(),
        bias.cloned().unwrap_or_else(none),
    );
    let pullback = move |g: Tensor<4>, [x, kernel, bias]: [bool; 3]| {
        // The gradient of a mean, for example, is a view.
        let gradient = Floats::new(&g).expect("the gradient is where the output is");
        let x = x.then(|| {
            let transposed = Packed::transposed(weights.elements(), [out, channels, k]);
            convolve_batch(&transposed, &gradient, None, &g)
        });
        let kernel = kernel.then(|| {
            let sum = kernel_gradient(&from, &gradient, k);
            tensor(sum, weights.dims, &g)
        });
        let bias = bias.then(|| {
            let sum = tensor(gradient.sum_of_channels(), [1, out, 1, 1], &g);
            sum.reshape([out])
        });
        (x, kernel, bias)
    };
    Some(custom_gradient(inputs, y, pullback))
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Lends a task this thread's memory. The memory is taken out meanwhile, for a thread that waits for
/// others may be given another task.
fn lend<T: Default, R>(
    memory: &'static std::thread::LocalKey<RefCell<T>>,
    task: impl FnOnce(&mut T) -> R,
) -> R {
    let mut lent = memory.take();
    let result = task(&mut lent);
    memory.set(lent);
    result
}

/// So many numbers of this memory, from the start of a line of the cache on. The memory grows if need
/// be; what stands there is left.
fn room(memory: &mut Vec<f32>, numbers: usize) -> &mut [f32] {
    const LINE: usize = 64;
    let most = LINE / size_of::<f32>();
    if memory.len() < numbers + most {
        memory.resize(numbers + most, 0.0);
    }
    // It need not be possible: then it is only slower.
    let start = memory.as_ptr().align_offset(LINE).min(most);
    &mut memory[start..start + numbers]
}

fn convolve_batch(
    kernel: &Packed,
    x: &Floats,
    shift: Option<&Floats>,
    like: &Tensor<4>,
) -> Tensor<4> {
    let [batch, _, height, width] = x.dims;
    let dims = [batch, kernel.channels_out(), height, width];
    let mut out = vec![0.0; dims.iter().product()];
    let each = |(x, out): (&[f32], &mut [f32])| {
        kernel.convolve([height, width], x, out);
        let planes = out.chunks_exact_mut(height * width);
        for (plane, shift) in planes.zip(shift.map_or(&[][..], Floats::elements)) {
            plane.iter_mut().for_each(|y| *y += shift);
        }
    };
    if batch == 1 {
        each((x.elements(), &mut out));
    } else {
        out.par_chunks_exact_mut(dims[1..].iter().product())
            .zip(x.elements().par_chunks_exact(x.sample()))
            .for_each(|(out, x)| each((x, out)));
    }
    tensor(out, dims, like)
}

fn kernel_gradient(x: &Floats, g: &Floats, k: usize) -> Vec<f32> {
    let [_, channels, height, width] = x.dims;
    let size = g.dims[1] * channels * k * k;
    let sums: Vec<Vec<f32>> = x
        .elements()
        .par_chunks(SAMPLES_A_TASK * x.sample())
        .zip(g.elements().par_chunks(SAMPLES_A_TASK * g.sample()))
        .map(|(xs, gs)| {
            let mut sum = vec![0.0; size];
            let samples = xs.len() / x.sample();
            add_kernel_gradient([height, width], k, samples, xs, gs, &mut sum);
            sum
        })
        .collect();
    let mut total = vec![0.0; size];
    for sum in sums {
        total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
    }
    total
}

/// The kernels of a context in the order in which they are needed, made at first use and shared by
/// its copies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folded(Arc<OnceLock<Option<Vec<Kernels>>>>);

impl Folded {
    fn get(&self, kernels: &Branches) -> Option<&[Kernels]> {
        let fold = |kernel: &Tensor<4>| {
            let weights = Floats::new(kernel)?;
            let [out, channels, k, l] = weights.dims;
            if !convolves([1, channels, 1, 1], [out, channels, k, l]) {
                return None;
            }
            let shape = [out, channels, k];
            Some(Kernels {
                forward: Packed::new(weights.elements(), shape),
                transposed: Packed::transposed(weights.elements(), shape),
                finite: weights.elements().iter().all(|w| w.is_finite()),
            })
        };
        let all = || kernels.iter().map(fold).collect();
        self.0.get_or_init(all).as_deref()
    }
}

/// Slopes of the activation or a mask, branch by branch.
pub(crate) type Factors = Vec<Floats>;

/// An objective on a context, where the native path applies.
struct Setup<'a> {
    recipe: &'a Recipe,
    kernels: &'a [Kernels],
    sizes: Vec<[usize; 2]>,
    z: Vec<Floats>,
    c: Vec<Floats>,
}

impl<'a> Setup<'a> {
    fn new(recipe: &'a Recipe, z: &Branches, x: &'a Context) -> Option<Self> {
        if x.has_cross() {
            return None;
        }
        let (z, c) = (Floats::all(z)?, Floats::all(x.injection())?);
        let kernels = x.folded().get(x.kernels())?;
        let fits = |((z, c), kernel): ((&Floats, &Floats), &Tensor<4>)| {
            let injected = if recipe.injects_into_state() { 1 } else { 0 };
            let [batch, _, height, width] = z.dims;
            convolves(z.dims, kernel.dims())
                && c.dims == [batch, kernel.dims()[injected], height, width]
                && batch == x.injection()[0].dims()[0]
        };
        let branches = z.iter().zip(&c).zip(x.kernels());
        let sizes: Vec<[usize; 2]> = z.iter().map(|z| [z.dims[2], z.dims[3]]).collect();
        let same = z.len() == kernels.len() && z.len() == c.len();
        if !same || !branches.into_iter().all(fits) || !recipe.fits(&sizes) {
            return None;
        }
        Some(Self {
            recipe,
            kernels,
            sizes,
            z,
            c,
        })
    }

    /// Runs a job on every sample. `out` holds the shapes of the result; `job` makes a sample's job
    /// from its injections and factors.
    fn run(
        &self,
        out: &[[usize; 4]],
        factors: [Option<&Factors>; 3],
        job: impl for<'s> Fn(&'s [&'s [f32]], [Option<&'s [&'s [f32]]>; 3]) -> Job<'s> + Sync,
    ) -> Vec<Vec<f32>> {
        let batch = self.z[0].dims[0];
        let mut results: Vec<Vec<f32>> = out
            .iter()
            .map(|dims| vec![0.0; dims.iter().product()])
            .collect();
        let mut parts: Vec<Vec<&mut [f32]>> = (0..batch).map(|_| Vec::new()).collect();
        for result in &mut results {
            let size = result.len() / batch.max(1);
            for (part, result) in parts.iter_mut().zip(result.chunks_exact_mut(size.max(1))) {
                part.push(result);
            }
        }
        fn row(all: &[Floats], n: usize) -> Vec<&[f32]> {
            all.iter()
                .map(|f| &f.elements()[n * f.sample()..(n + 1) * f.sample()])
                .collect()
        }
        let each = |(n, mut out): (usize, Vec<&mut [f32]>)| {
            let (z, c) = (row(&self.z, n), row(&self.c, n));
            let factors = factors.map(|f| f.map(|f| row(f, n)));
            let factors = [0, 1, 2].map(|k: usize| factors[k].as_deref());
            let sample = Sample {
                recipe: self.recipe,
                kernels: self.kernels,
                sizes: &self.sizes,
                z: &z,
                job: job(&c, factors),
            };
            lend(&SCRATCH, |scratch| sample.run(scratch, &mut out));
        };
        if batch == 1 {
            // Not as a task: its convolutions are spread over the cores.
            parts.into_iter().enumerate().for_each(each);
        } else {
            parts.into_par_iter().enumerate().for_each(each);
        }
        results
    }

    fn state_shapes(&self) -> Vec<[usize; 4]> {
        self.z.iter().map(|z| z.dims).collect()
    }
}

fn tensors(results: Vec<Vec<f32>>, shapes: &[[usize; 4]], like: &Branches) -> Branches {
    results
        .into_iter()
        .zip(shapes)
        .zip(like)
        .map(|((r, dims), like)| tensor(r, *dims, like))
        .collect()
}

/// Whether the native path applies to an objective on a context.
pub(crate) fn applies(recipe: &Recipe, z: &Branches, x: &Context) -> bool {
    Setup::new(recipe, z, x).is_some()
}

/// prox(z - step dG/dz), or the derivative of prox there; `None` where only the portable path
/// applies.
pub(crate) fn step(recipe: &Recipe, z: &Branches, x: &Context, finish: Finish) -> Option<Branches> {
    let setup = Setup::new(recipe, z, x)?;
    let shapes = setup.state_shapes();
    let results = setup.run(&shapes, [None; 3], |c, _| Job::Step(c, finish));
    Some(tensors(results, &shapes, z))
}

/// The derivative of prox from the values of a step; `None` where only the portable path applies.
pub(crate) fn mask(recipe: &Recipe, values: &Branches) -> Option<Branches> {
    let of = |value: &Tensor<4>| {
        let values = Floats::new(value)?;
        let mask = values.elements().iter();
        let mask = mask
            .map(|v| f32::from(u8::from(recipe.moves(*v))))
            .collect();
        Some(tensor(mask, values.dims, value))
    };
    values.iter().map(of).collect()
}

/// A step from a plain z with gradients for kernels and injections; its plain value is computed
/// unless it is known. `None` where only the portable path applies.
pub(crate) fn tracked_step(
    recipe: &Recipe,
    z: &Branches,
    x: &Context,
    value: Option<Branches>,
) -> Option<Branches> {
    let plain = x.plain();
    let states = Floats::all(z)?;
    let injections = Floats::all(plain.injection())?;
    let weights = Floats::all(plain.kernels())?;
    let values = match value {
        Some(values) if applies(recipe, z, &plain) => values,
        _ => step(recipe, z, &plain, Finish::Prox)?,
    };
    let branches = states.into_iter().zip(injections).zip(weights);
    // The coupling does not depend on what is tracked, so every branch is an operation of its own.
    let attached = branches
        .zip(values)
        .enumerate()
        .map(|(i, (branch, value))| {
            let ((z, c), weights) = branch;
            let of = pullback::Branch {
                value: Floats::new(&value).expect("a plain value in the place of z"),
                recipe: recipe.clone(),
                z,
                c,
                weights,
            };
            let constant = Tensor::<1>::zeros([1], &value.device());
            let inputs = (x.kernels()[i].clone(), x.injection()[i].clone(), constant);
            custom_gradient(inputs, value, move |u: Tensor<4>, wanted: [bool; 3]| {
                let u_elements = Floats::new(&u).expect("the gradient is where the output is");
                let (kernel, injection) = of.pull_back(&u_elements, [wanted[0], wanted[1]]);
                let kernel = kernel.map(|k| tensor(k, of.weights.dims, &u));
                let injection = injection.map(|c| tensor(c, of.c.dims, &u));
                (kernel, injection, None)
            })
        });
    Some(attached.collect())
}

/// I - step H at a point, between masks.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    slopes: Option<Factors>,
    mask: Option<Factors>,
}

impl Product {
    /// At z; `None` where only the portable path applies.
    pub(crate) fn new(
        recipe: &Recipe,
        z: &Branches,
        x: &Context,
        mask: Option<&Branches>,
    ) -> Option<Self> {
        let setup = Setup::new(recipe, z, x)?;
        let mask = match mask {
            Some(mask) => Some(Floats::all(mask)?),
            None => None,
        };
        let mut slopes = None;
        if recipe.has_slopes() {
            let shapes: Vec<[usize; 4]> = setup.c.iter().map(|c| c.dims).collect();
            let results = setup.run(&shapes, [None; 3], |c, _| Job::Slopes(c));
            slopes = Some(Floats::all(&tensors(results, &shapes, z))?);
        }
        Some(Self { slopes, mask })
    }

    /// The product with u, which has the shape of z, masked before and after as asked; `None` as
    /// for [`new`](Self::new).
    pub(crate) fn apply(
        &self,
        recipe: &Recipe,
        u: &Branches,
        x: &Context,
        [before, after]: [bool; 2],
    ) -> Option<Branches> {
        let setup = Setup::new(recipe, u, x)?;
        let shapes = setup.state_shapes();
        let mask = |wanted: bool| self.mask.as_ref().filter(|_| wanted);
        let factors = [self.slopes.as_ref(), mask(before), mask(after)];
        let results = setup.run(&shapes, factors, |_, [slopes, before, after]| {
            Job::Product {
                slopes,
                before,
                after,
            }
        });
        Some(tensors(results, &shapes, u))
    }
}
