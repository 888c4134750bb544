//! Maps z = f(z, x) and what they can declare about themselves.

use burn::module::Module;

use crate::fast::FastMap;
use crate::input::{Input, WithModule};
use crate::linearisation::{Jacobian, Structure};
use crate::state::State;

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
