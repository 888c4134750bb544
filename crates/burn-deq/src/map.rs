//! Maps z = f(z, x): what is solved, and what a map may know of itself.

use burn::module::Module;
use burn::tensor::{Bool, Int, Tensor};

use crate::State;

/// Everything a map depends on besides the state: inputs, parameters, masks.
///
/// The solver works on [`plain`](Self::plain) copies, off the tape, so that its memory does not
/// grow with the number of steps and the backward solve can run inside Burn's `backward()`.
///
/// Implemented for tensors of any kind, `()`, `Option`, `Vec`, arrays, tuples of up to four, and
/// [`WithModule`]. For a struct of one's own, call the two methods field by field.
pub trait Input: Clone + Send + 'static {
    /// The same values without any autodiff association; reparameterisations are folded.
    fn plain(&self) -> Self;

    /// Whether autodiff is enabled for any part of it.
    fn is_autodiff(&self) -> bool;
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
        }
    )+};
}

tensor_input!(burn::tensor::Float, Int, Bool);

impl Input for () {
    fn plain(&self) -> Self {}

    fn is_autodiff(&self) -> bool {
        false
    }
}

impl<X: Input> Input for Option<X> {
    fn plain(&self) -> Self {
        self.as_ref().map(X::plain)
    }

    fn is_autodiff(&self) -> bool {
        self.as_ref().is_some_and(X::is_autodiff)
    }
}

impl<X: Input> Input for Vec<X> {
    fn plain(&self) -> Self {
        self.iter().map(X::plain).collect()
    }

    fn is_autodiff(&self) -> bool {
        self.iter().any(X::is_autodiff)
    }
}

impl<X: Input, const N: usize> Input for [X; N] {
    fn plain(&self) -> Self {
        std::array::from_fn(|i| self[i].plain())
    }

    fn is_autodiff(&self) -> bool {
        self.iter().any(X::is_autodiff)
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
        }
    };
}

tuple_input!(A 0, B 1);
tuple_input!(A 0, B 1, C 2);
tuple_input!(A 0, B 1, C 2, D 3);

/// A module and the rest of the input: how a module enters a map as an argument.
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
}

/// What a map guarantees of its Jacobian J = df/dz. Nothing, by default.
///
/// A wrong guarantee gives a wrong result or a backward solve that stalls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Structure {
    /// Nothing is known.
    #[default]
    General,
    /// J is symmetric and I - J is positive definite, as for z - step * dG/dz with G strongly
    /// convex and smooth enough: the adjoint system can be solved by conjugate gradients.
    SymmetricPositiveDefinite,
}

/// A map z = f(z, x) whose fixed point is wanted.
///
/// A closure `Fn(S, X) -> S` is a map. Implement the trait by hand for a map that knows its
/// Jacobian in closed form: that saves the backward solve two thirds of its time.
///
/// A map must not own tensors that are tracked by autodiff: what it depends on is an argument.
/// The solver checks that and panics at once, for such a tensor would deadlock the backward pass.
pub trait FixedPointMap<S: State, X: Input>: Clone + Send + 'static {
    /// f(z, x), in the shape of z. Sample i of the result belongs to sample i of z.
    fn apply(&self, z: S, x: X) -> S;

    /// The Jacobian J = df/dz at (z, x) in closed form, if the map has one. The arguments are
    /// plain tensors. `None` lets autodiff supply the products.
    fn jacobian(&self, z: S, x: X) -> Option<Box<dyn Jacobian<S>>> {
        let _ = (z, x);
        None
    }

    /// What the map guarantees of J.
    fn structure(&self) -> Structure {
        Structure::General
    }
}

impl<S: State, X: Input, F: Fn(S, X) -> S + Clone + Send + 'static> FixedPointMap<S, X> for F {
    fn apply(&self, z: S, x: X) -> S {
        self(z, x)
    }
}

/// Products with the Jacobian J = df/dz at a point.
pub trait Jacobian<S>: Send {
    /// J'u, the vector-Jacobian product.
    fn vjp(&self, u: S) -> S;
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
