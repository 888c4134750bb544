//! Maps z = f(z, x) and what they can declare about themselves.

use burn::module::Module;
use burn::tensor::kind::Basic;
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::State;
use crate::fast::FastMap;

/// The samples of a batch that a solve keeps.
#[derive(Clone, Debug)]
pub struct Rows {
    indices: Vec<usize>,
    batch: usize,
    tensor: Tensor<1, Int>,
}

impl Rows {
    /// The samples `indices` of a batch of `batch`, for tensors on `device`.
    ///
    /// # Panics
    ///
    /// Panics if an index is not below `batch`.
    pub fn new(indices: Vec<usize>, batch: usize, device: &Device) -> Self {
        assert!(
            indices.iter().all(|i| *i < batch),
            "burn-deq: a row index is not below the batch size {batch}"
        );
        let data: Vec<i64> = indices.iter().map(|i| *i as i64).collect();
        let length = data.len();
        Self {
            tensor: Tensor::from_data(TensorData::new(data, [length]), device),
            indices,
            batch,
        }
    }

    /// The samples' positions in the batch.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// The size of the batch that the samples are taken from.
    pub fn batch(&self) -> usize {
        self.batch
    }

    fn consecutive(&self) -> bool {
        self.indices.windows(2).all(|pair| pair[1] == pair[0] + 1)
    }

    /// These samples of `x`, whose first dimension is the batch.
    pub fn of<const D: usize, K: Basic>(&self, x: Tensor<D, K>) -> Tensor<D, K> {
        match self.indices.first() {
            // A consecutive range is a view on some backends.
            Some(first) if self.consecutive() => x.narrow(0, *first, self.indices.len()),
            _ => x.select(0, self.tensor.clone()),
        }
    }
}

/// Everything except the state that a map depends on: inputs, parameters, masks.
///
/// The solver works on [`plain`](Self::plain) copies, off the tape. So its memory does not grow
/// with the number of steps, and the backward solve can run inside Burn's `backward()`.
///
/// Implemented for tensors of any kind, `()`, `Option`, `Vec`, arrays, tuples of up to four,
/// [`WithModule`] and [`Shared`]. For your own struct, call the methods field by field.
pub trait Input: Clone + Send + 'static {
    /// The same values without autodiff; reparameterisations are folded.
    fn plain(&self) -> Self;

    /// Whether autodiff is enabled for any part of it.
    fn is_autodiff(&self) -> bool;

    /// The part that belongs to these samples, for [freezing](crate::Freezing). A tensor whose
    /// first dimension is the batch counts as one entry per sample, any other tensor as shared by
    /// all samples. Wrap a shared tensor in [`Shared`] if its first dimension could equal the
    /// batch. `None`, the default, says that the samples cannot be told apart; then none is frozen.
    fn select(&self, rows: &Rows) -> Option<Self> {
        let _ = rows;
        None
    }
}

/// An input that all samples share, whatever its first dimension.
#[derive(Clone, Debug)]
pub struct Shared<X>(pub X);

impl<X: Input> Input for Shared<X> {
    fn plain(&self) -> Self {
        Self(self.0.plain())
    }

    fn is_autodiff(&self) -> bool {
        self.0.is_autodiff()
    }

    fn select(&self, _rows: &Rows) -> Option<Self> {
        Some(self.clone())
    }
}

macro_rules! tensor_input {
    ($($kind:ty),+) => {$(
        impl<const D: usize> Input for Tensor<D, $kind> {
            fn plain(&self) -> Self {
                self.clone().without_autodiff()
            }

            fn is_autodiff(&self) -> bool {
                Tensor::is_autodiff(self)
            }

            fn select(&self, rows: &Rows) -> Option<Self> {
                Some(if self.dims()[0] == rows.batch() {
                    rows.of(self.clone())
                } else {
                    self.clone()
                })
            }
        }
    )+};
}

tensor_input!(burn::tensor::Float, Int, Bool);

impl Input for () {
    fn plain(&self) -> Self {}

    fn is_autodiff(&self) -> bool {
        false
    }

    fn select(&self, _rows: &Rows) -> Option<Self> {
        Some(())
    }
}

impl<X: Input> Input for Option<X> {
    fn plain(&self) -> Self {
        self.as_ref().map(X::plain)
    }

    fn is_autodiff(&self) -> bool {
        self.as_ref().is_some_and(X::is_autodiff)
    }

    fn select(&self, rows: &Rows) -> Option<Self> {
        match self {
            Some(x) => x.select(rows).map(Some),
            None => Some(None),
        }
    }
}

impl<X: Input> Input for Vec<X> {
    fn plain(&self) -> Self {
        self.iter().map(X::plain).collect()
    }

    fn is_autodiff(&self) -> bool {
        self.iter().any(X::is_autodiff)
    }

    fn select(&self, rows: &Rows) -> Option<Self> {
        self.iter().map(|x| x.select(rows)).collect()
    }
}

impl<X: Input, const N: usize> Input for [X; N] {
    fn plain(&self) -> Self {
        std::array::from_fn(|i| self[i].plain())
    }

    fn is_autodiff(&self) -> bool {
        self.iter().any(X::is_autodiff)
    }

    fn select(&self, rows: &Rows) -> Option<Self> {
        let parts: Option<Vec<X>> = self.iter().map(|x| x.select(rows)).collect();
        parts?.try_into().ok()
    }
}

macro_rules! tuple_input {
    ($($name:ident $index:tt),+) => {
        impl<$($name: Input),+> Input for ($($name,)+) {
            fn plain(&self) -> Self {
                ($(self.$index.plain(),)+)
            }

            fn is_autodiff(&self) -> bool {
                $(self.$index.is_autodiff())||+
            }

            fn select(&self, rows: &Rows) -> Option<Self> {
                Some(($(self.$index.select(rows)?,)+))
            }
        }
    };
}

tuple_input!(A 0, B 1);
tuple_input!(A 0, B 1, C 2);
tuple_input!(A 0, B 1, C 2, D 3);

/// A module and the other inputs. It passes a module to a map as an argument.
#[derive(Clone, Debug)]
pub struct WithModule<M, X> {
    /// The module whose parameters the map uses.
    pub module: M,
    /// The other inputs.
    pub input: X,
}

impl<M: Module + 'static, X: Input> Input for WithModule<M, X> {
    fn plain(&self) -> Self {
        Self {
            module: self.module.valid().materialize(),
            input: self.input.plain(),
        }
    }

    fn is_autodiff(&self) -> bool {
        self.input.is_autodiff() || self.module.devices().iter().any(|d| d.is_autodiff())
    }

    fn select(&self, rows: &Rows) -> Option<Self> {
        Some(Self {
            module: self.module.clone(),
            input: self.input.select(rows)?,
        })
    }
}

/// What a map guarantees about its Jacobian J = df/dz. Default: nothing.
///
/// If the Jacobian has a [`mask`](Jacobian::mask) D, the guarantee is about D J D. A wrong
/// guarantee gives a wrong result or a stalled backward solve;
/// [`check_declarations`](crate::check_declarations) finds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Structure {
    /// Nothing is known.
    #[default]
    General,
    /// J is symmetric, so MINRES can solve the adjoint system.
    Symmetric,
    /// J is symmetric and I - J is positive definite, so conjugate gradients can solve the adjoint
    /// system. An example is z - step * dG/dz with G strongly convex and sufficiently smooth.
    SymmetricPositiveDefinite,
}

impl Structure {
    /// Whether J is symmetric.
    pub fn is_symmetric(self) -> bool {
        self != Self::General
    }
}

/// A map z = f(z, x) whose fixed point is sought.
///
/// A closure `Fn(S, X) -> S` is a map; [`Declared`] adds declarations to it. Implement the trait
/// for a map that knows its Jacobian in closed form. The backward solve then needs no autodiff,
/// which would evaluate the map again for every product.
///
/// A map must not own tensors that autodiff tracks: everything that it depends on is an argument.
/// The solver checks this and panics at once, because such a tensor would deadlock the backward
/// pass.
pub trait FixedPointMap<S: State, X: Input>: Clone + Send + 'static {
    /// f(z, x), in the shape of z. Sample i of the result belongs to sample i of z.
    fn apply(&self, z: S, x: X) -> S;

    /// The Jacobian J = df/dz at (z, x) in closed form, if the map has one. With `None`, autodiff
    /// computes the products. z and x are plain tensors, except in a regulariser for training
    /// ([`jacobian_norm`](crate::jacobian_norm)), which passes a tracked x.
    fn jacobian(&self, z: S, x: X) -> Option<Box<dyn Jacobian<S>>> {
        let _ = (z, x);
        None
    }

    /// What the map guarantees about J.
    fn structure(&self) -> Structure {
        Structure::General
    }

    /// Whether sample i of f(z, x) depends only on sample i of z and x, so that finished samples
    /// can leave the batch ([`Freezing`](crate::Freezing)).
    fn independent_samples(&self) -> bool {
        false
    }

    /// Faster forms of the map. Default: none.
    fn fast(&self) -> Option<&dyn FastMap<S, X>> {
        None
    }
}

impl<S: State, X: Input, F: Fn(S, X) -> S + Clone + Send + 'static> FixedPointMap<S, X> for F {
    fn apply(&self, z: S, x: X) -> S {
        self(z, x)
    }
}

/// A map with added declarations, such as a closure that cannot declare anything itself.
#[derive(Clone, Copy, Debug)]
pub struct Declared<F> {
    map: F,
    structure: Option<Structure>,
    independent: Option<bool>,
}

impl<F> Declared<F> {
    /// Wraps the map; its own declarations are kept.
    pub fn new(map: F) -> Self {
        Self {
            map,
            structure: None,
            independent: None,
        }
    }

    /// Declares the structure of J.
    pub fn with_structure(self, structure: Structure) -> Self {
        Self {
            structure: Some(structure),
            ..self
        }
    }

    /// Declares whether samples are independent of each other.
    pub fn with_independent_samples(self, independent: bool) -> Self {
        Self {
            independent: Some(independent),
            ..self
        }
    }
}

impl<S: State, X: Input, F: FixedPointMap<S, X>> FixedPointMap<S, X> for Declared<F> {
    fn apply(&self, z: S, x: X) -> S {
        self.map.apply(z, x)
    }

    fn jacobian(&self, z: S, x: X) -> Option<Box<dyn Jacobian<S>>> {
        self.map.jacobian(z, x)
    }

    fn structure(&self) -> Structure {
        self.structure.unwrap_or_else(|| self.map.structure())
    }

    fn independent_samples(&self) -> bool {
        self.independent
            .unwrap_or_else(|| self.map.independent_samples())
    }

    fn fast(&self) -> Option<&dyn FastMap<S, X>> {
        self.map.fast()
    }
}

/// Products with the Jacobian J = df/dz at a point.
pub trait Jacobian<S>: Send {
    /// J'u, the vector-Jacobian product.
    fn vjp(&self, u: S) -> S;

    /// J u, the Jacobian-vector product, if the map knows it in closed form.
    fn jvp(&self, u: S) -> Option<S> {
        let _ = u;
        None
    }

    /// D, in the shape of the state, if J = D A, where D is a diagonal of zeros and ones and A is
    /// symmetric. An example is the projection of a gradient step onto a constraint: relu(A z + c).
    ///
    /// The adjoint system is then solved on the range of D, where it is symmetric:
    /// (I - D A D) v = D g, and u = g + A v.
    fn mask(&self) -> Option<S> {
        None
    }
}

/// A closure over a module as a map: `f(&module, z, x)`.
#[derive(Clone)]
pub(crate) struct ModuleMap<F>(pub(crate) F);

impl<F, M, S, X> FixedPointMap<S, WithModule<M, X>> for ModuleMap<F>
where
    M: Module + 'static,
    S: State,
    X: Input,
    F: Fn(&M, S, X) -> S + Clone + Send + 'static,
{
    fn apply(&self, z: S, x: WithModule<M, X>) -> S {
        (self.0)(&x.module, z, x.input)
    }
}
