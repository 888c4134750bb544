//! What a map depends on apart from the state.

use burn::module::Module;
use burn::tensor::{Bool, Int, Tensor};
use deq_kernels::vectors::Rows;

/// Everything except the state that a map depends on: inputs, parameters, masks.
///
/// The solver works on [`plain`](Self::plain) copies, off the tape. Its memory therefore does not
/// grow with the number of steps, and the backward solve can run inside Burn's `backward()`.
///
/// Implemented for tensors of any kind, `()`, `Option`, `Vec`, arrays, tuples of up to four,
/// [`WithModule`] and [`Shared`]. For your own struct, call the methods field by field.
pub trait Input: Clone + Send + 'static {
    /// The same values without autodiff; reparameterisations are folded.
    fn plain(&self) -> Self;

    /// Whether autodiff is enabled for any part of it.
    fn is_autodiff(&self) -> bool;

    /// The part that belongs to these samples, for [freezing](crate::Freezing). A tensor whose
    /// first dimension is the batch counts as one entry per sample, any other tensor counts as
    /// shared by all samples. Wrap a shared tensor in [`Shared`] if its first dimension could equal
    /// the batch. `None`, the default, means that the samples cannot be separated; no sample is
    /// then frozen.
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
