//! States: the iterates of a fixed-point iteration.
//!
//! A state is a vector in a product space: one tensor, or several branches of different shapes, all
//! with the batch as their first dimension. Solvers see it packed as one `[batch, n]` tensor, so a
//! step takes a handful of operations, whatever the number of branches.

use burn::tensor::Tensor;
use deq_kernels::vectors::{join, split};
use deq_kernels::{grad_hook, joint_hook};

/// One or several tensors whose first dimension is the batch.
///
/// Implemented for `Tensor<D>`, `Vec` and arrays of states, and tuples of up to four states.
pub trait State: Clone + Send + 'static {
    /// The shapes that packing removes.
    type Layout: Clone + std::fmt::Debug + PartialEq + Send + 'static;

    /// Appends the state's tensors, flattened to `[batch, n_i]`, and returns their shapes.
    fn disassemble(self, parts: &mut Vec<Tensor<2>>) -> Self::Layout;

    /// Takes as many parts as [`disassemble`](Self::disassemble) appended and restores their
    /// shapes.
    ///
    /// # Panics
    ///
    /// Panics if there are fewer parts than the layout requires.
    fn assemble(parts: &mut std::vec::IntoIter<Tensor<2>>, layout: &Self::Layout) -> Self;
}

impl<const D: usize> State for Tensor<D> {
    type Layout = [usize; D];

    fn disassemble(self, parts: &mut Vec<Tensor<2>>) -> Self::Layout {
        let dims = self.dims();
        let batch = dims[0];
        let width = dims[1..].iter().product::<usize>();
        parts.push(self.reshape([batch, width]));
        dims
    }

    fn assemble(parts: &mut std::vec::IntoIter<Tensor<2>>, layout: &Self::Layout) -> Self {
        let part = parts.next().expect("a part for every tensor of the layout");
        // The batch size comes from the part, because a solver may have dropped finished samples.
        let mut dims = *layout;
        dims[0] = part.dims()[0];
        part.reshape(dims)
    }
}

impl<S: State> State for Vec<S> {
    type Layout = Vec<S::Layout>;

    fn disassemble(self, parts: &mut Vec<Tensor<2>>) -> Self::Layout {
        self.into_iter().map(|s| s.disassemble(parts)).collect()
    }

    fn assemble(parts: &mut std::vec::IntoIter<Tensor<2>>, layout: &Self::Layout) -> Self {
        layout.iter().map(|l| S::assemble(parts, l)).collect()
    }
}

impl<S: State, const N: usize> State for [S; N] {
    type Layout = [S::Layout; N];

    fn disassemble(self, parts: &mut Vec<Tensor<2>>) -> Self::Layout {
        self.map(|s| s.disassemble(parts))
    }

    fn assemble(parts: &mut std::vec::IntoIter<Tensor<2>>, layout: &Self::Layout) -> Self {
        std::array::from_fn(|i| S::assemble(parts, &layout[i]))
    }
}

macro_rules! tuple_state {
    ($($name:ident $index:tt),+) => {
        impl<$($name: State),+> State for ($($name,)+) {
            type Layout = ($($name::Layout,)+);

            fn disassemble(self, parts: &mut Vec<Tensor<2>>) -> Self::Layout {
                ($(self.$index.disassemble(parts),)+)
            }

            fn assemble(
                parts: &mut std::vec::IntoIter<Tensor<2>>,
                layout: &Self::Layout,
            ) -> Self {
                ($($name::assemble(parts, &layout.$index),)+)
            }
        }
    };
}

tuple_state!(A 0, B 1);
tuple_state!(A 0, B 1, C 2);
tuple_state!(A 0, B 1, C 2, D 3);

/// Converts a packed `[batch, n]` tensor back to the state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packing<L> {
    widths: Vec<usize>,
    layout: L,
}

impl<L> Packing<L> {
    /// Elements of each tensor of the state.
    pub(crate) fn widths(&self) -> &[usize] {
        &self.widths
    }

    /// Concatenates the state's tensors to one `[batch, n]` tensor.
    ///
    /// # Panics
    ///
    /// Panics if the state holds no tensor, or if its tensors have different batch sizes.
    pub(crate) fn pack<S: State<Layout = L>>(state: S) -> (Tensor<2>, Self) {
        let mut parts = Vec::new();
        let layout = state.disassemble(&mut parts);
        let batch = parts
            .first()
            .expect("burn-deq: a state must hold at least one tensor")
            .dims()[0];
        assert!(
            parts.iter().all(|p| p.dims()[0] == batch),
            "burn-deq: the first dimension of every tensor of a state must be the batch, but they are {:?}",
            parts.iter().map(|p| p.dims()[0]).collect::<Vec<_>>()
        );
        let widths = parts.iter().map(|p| p.dims()[1]).collect();
        let packed = match parts.len() {
            1 => parts.remove(0),
            _ => join(parts, 1),
        };
        (packed, Self { widths, layout })
    }

    /// The inverse of [`pack`](Self::pack).
    pub(crate) fn unpack<S: State<Layout = L>>(&self, packed: Tensor<2>) -> S {
        let parts = match self.widths.len() {
            1 => vec![packed],
            _ => split(packed, &self.widths),
        };
        S::assemble(&mut parts.into_iter(), &self.layout)
    }

    /// Returns the state that a map returned. The backward pass replaces its packed gradient with
    /// `hook(gradient)`. The state itself is not packed.
    pub(crate) fn hook<S: State<Layout = L>>(
        &self,
        state: S,
        hook: impl FnOnce(Tensor<2>) -> Tensor<2> + Send + 'static,
    ) -> S
    where
        L: PartialEq + std::fmt::Debug,
    {
        let mut parts = Vec::new();
        let layout = state.disassemble(&mut parts);
        let widths: Vec<usize> = parts.iter().map(|p| p.dims()[1]).collect();
        self.check(&widths, &layout);
        let parts = match parts.len() {
            1 => vec![grad_hook(parts.remove(0), hook)],
            _ => joint_hook(parts, move |gradients| {
                split(hook(join(gradients, 1)), &widths)
            }),
        };
        S::assemble(&mut parts.into_iter(), &self.layout)
    }

    fn check(&self, widths: &[usize], layout: &L)
    where
        L: std::fmt::Debug,
    {
        assert!(
            *widths == self.widths,
            "burn-deq: the map was given a state of shape {:?} and returned {layout:?}",
            self.layout,
        );
    }

    /// Packs what a map returned. It must have the shape of the map's input state.
    pub(crate) fn repack<S: State<Layout = L>>(&self, state: S) -> Tensor<2>
    where
        L: PartialEq + std::fmt::Debug,
    {
        let (packed, returned) = Self::pack(state);
        self.check(&returned.widths, &returned.layout);
        packed
    }
}
