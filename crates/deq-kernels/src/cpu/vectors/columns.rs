//! Packing and unpacking in the host's memory, in one pass.

use burn::tensor::{DType, Tensor, TensorData};

use super::floats::Floats;
use super::real::Real;
use crate::cpu::memory::produce;

/// Concatenates the tensors along a dimension in one pass, if the host can read them.
pub(crate) fn join(parts: &[Tensor<2>], dim: usize) -> Option<Tensor<2>> {
    fn rows<T: Real>(parts: &[Floats], widths: &[usize], count: usize) -> TensorData {
        let width: usize = widths.iter().sum();
        let ([joined], _) = produce::<T, 1, _>(count, width, |i, [row]| {
            for (part, width) in parts.iter().zip(widths) {
                row.extend(&part.elements()[i * width..(i + 1) * width]);
            }
        });
        TensorData::new(joined, [count, width])
    }
    let first = parts.first()?;
    let ([batch, width], dtype) = (first.dims(), first.dtype());
    let fits = |p: &Tensor<2>| p.dtype() == dtype && p.dims()[1 - dim] == [batch, width][1 - dim];
    if !parts.iter().all(fits) {
        return None;
    }
    let floats: Vec<Floats> = parts.iter().map(Floats::new).collect::<Option<_>>()?;
    // Concatenating along the batch is concatenating parts of a single row.
    let (widths, rows_of): (Vec<usize>, _) = match dim {
        0 => (parts.iter().map(|p| p.dims()[0] * width).collect(), 1),
        _ => (parts.iter().map(|p| p.dims()[1]).collect(), batch),
    };
    let data = match dtype {
        DType::F32 => rows::<f32>(&floats, &widths, rows_of),
        _ => rows::<f64>(&floats, &widths, rows_of),
    };
    let shape = match dim {
        0 => [parts.iter().map(|p| p.dims()[0]).sum(), width],
        _ => [batch, widths.iter().sum()],
    };
    let joined = Tensor::<2>::from_data(data, (&first.device(), dtype));
    Some(joined.reshape(shape))
}

/// Splits the columns of a tensor into parts of these widths, if the host can read it. Makes one
/// pass and copies, because views would be copied more slowly later.
pub(crate) fn split(x: &Tensor<2>, widths: &[usize]) -> Option<Vec<Tensor<2>>> {
    fn columns<T: Real>(x: &Floats, width: usize, from: usize, count: usize) -> Vec<T> {
        let x: &[T] = x.elements();
        let rows = x.len() / width.max(1);
        let ([part], _) = produce::<T, 1, _>(rows, count, |i, [row]| {
            let from = i * width + from;
            row.extend(&x[from..from + count]);
        });
        part
    }
    let floats = Floats::new(x)?;
    let ([batch, width], dtype, device) = (x.dims(), x.dtype(), x.device());
    let mut from = 0;
    let part = |count: &usize| {
        let data = match dtype {
            DType::F32 => TensorData::new(
                columns::<f32>(&floats, width, from, *count),
                [batch, *count],
            ),
            _ => TensorData::new(
                columns::<f64>(&floats, width, from, *count),
                [batch, *count],
            ),
        };
        from += count;
        Tensor::from_data(data, (&device, dtype))
    };
    Some(widths.iter().map(part).collect())
}
