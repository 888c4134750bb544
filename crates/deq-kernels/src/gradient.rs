//! Backend-specific operations: values whose backward pass is a closure.
//!
//! `y = grad_hook(x, h)` returns x unchanged. In the backward pass, it passes `h(dL/dy)` to x
//! instead of dL/dy. The implicit gradient uses this: y is one tracked application of the map, and
//! h solves u = J'u + g (Bai, Kolter and Koltun 2019, arXiv:1909.01377, theorem 1; their code also
//! re-attaches and hooks).
//!
//! [`custom_gradient`] attaches a value that was computed off the tape to the tensors that it was
//! computed from.

#[cfg(any(feature = "flex", feature = "cube", feature = "remote"))]
pub use dispatched::custom_gradient;
#[cfg(any(feature = "flex", feature = "cube", feature = "remote"))]
pub use dispatched::{grad_hook, joint_hook, parts};

#[cfg(any(feature = "flex", feature = "cube", feature = "remote"))]
mod dispatched {
    use std::sync::{Arc, Mutex};

    use burn::backend::autodiff::checkpoint::base::Checkpointer;
    use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{
        Autodiff, Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor,
        backend_extension,
    };
    use burn::tensor::GradientCheckpointingStrategy;
    use burn::tensor::Tensor;

    type Closure = Box<dyn FnOnce(DispatchTensor) -> DispatchTensor + Send>;
    type Pullback =
        Box<dyn FnOnce(DispatchTensor, [bool; 3]) -> [Option<DispatchTensor>; 3] + Send>;

    /// The closure of one hook. Burn clones the state of a backward step but runs it once, so the
    /// closure is shared and taken out when it runs.
    pub struct Once<F>(Arc<Mutex<Option<F>>>);

    impl<F> Clone for Once<F> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<F> std::fmt::Debug for Once<F> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Once")
        }
    }

    impl<F> Once<F> {
        fn new(closure: F) -> Self {
            Self(Arc::new(Mutex::new(Some(closure))))
        }

        fn take(&self) -> F {
            let closure = self.0.lock().unwrap_or_else(|e| e.into_inner()).take();
            closure.expect("Burn runs a backward step once")
        }
    }

    #[backend_extension(
        Flex: cfg(feature = "flex"),
        Cube: cfg(feature = "cube"),
        Remote: cfg(feature = "remote"),
        Autodiff
    )]
    pub trait GradHookBackend: Backend {
        fn grad_hook(tensor: FloatTensor<Self>, hook: Once<Closure>) -> FloatTensor<Self>;

        fn custom_gradient(
            first: FloatTensor<Self>,
            second: FloatTensor<Self>,
            third: FloatTensor<Self>,
            output: FloatTensor<Self>,
            pullback: Once<Pullback>,
        ) -> FloatTensor<Self>;
    }

    /// Off the tape, both operations return their value.
    macro_rules! plain {
        ($($feature:literal $backend:ty),+) => {$(
            #[cfg(feature = $feature)]
            impl GradHookBackend for $backend {
                fn grad_hook(tensor: FloatTensor<Self>, _hook: Once<Closure>) -> FloatTensor<Self> {
                    tensor
                }

                fn custom_gradient(
                    _first: FloatTensor<Self>,
                    _second: FloatTensor<Self>,
                    _third: FloatTensor<Self>,
                    output: FloatTensor<Self>,
                    _pullback: Once<Pullback>,
                ) -> FloatTensor<Self> {
                    output
                }
            }
        )+};
    }
    plain! {
        "flex" burn::backend::Flex,
        "cube" burn::backend::Cube,
        "remote" burn::backend::Remote
    }

    #[derive(Debug)]
    struct HookBackward;

    impl<B: Backend> Backward<B, 1> for HookBackward
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        type State = Once<Closure>;

        fn backward(
            self,
            ops: Ops<Self::State, 1>,
            grads: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let hook = ops.state;
            unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
                lower::<B>(hook.take()(lift::<B>(gradient)))
            });
        }
    }

    fn lift<B: Backend>(gradient: FloatTensor<B>) -> DispatchTensor
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        let gradient = BackendTensor::Float(gradient);
        <DispatchTensor as DispatchKindConversion<B>>::from_backend(gradient)
    }

    fn lower<B: Backend>(gradient: DispatchTensor) -> FloatTensor<B>
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        match <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(gradient) {
            Ok(tensor) => tensor.float(),
            Err(reason) => {
                panic!("a backward pass changed the backend of the gradient: {reason}")
            }
        }
    }

    #[derive(Debug)]
    struct CustomBackward;

    impl<B: Backend> Backward<B, 3> for CustomBackward
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        type State = Once<Pullback>;

        fn backward(
            self,
            ops: Ops<Self::State, 3>,
            grads: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let gradient = lift::<B>(grads.consume::<B>(&ops.node));
            let wanted = [0, 1, 2].map(|k: usize| ops.parents[k].is_some());
            let results = ops.state.take()(gradient, wanted);
            for (parent, result) in ops.parents.into_iter().zip(results) {
                if let (Some(parent), Some(result)) = (parent, result) {
                    grads.register::<B>(parent.id, lower::<B>(result));
                }
            }
        }
    }

    impl<B: Backend, C: CheckpointStrategy> GradHookBackend for Autodiff<B, C>
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        fn grad_hook(tensor: FloatTensor<Self>, hook: Once<Closure>) -> FloatTensor<Self> {
            let (primitive, guard) = tensor.into_parts();
            match Backward::<B, 1>::prepare::<C>(HookBackward, [guard])
                .compute_bound()
                .stateful()
            {
                OpsKind::Tracked(prep) => prep.finish(hook, primitive),
                OpsKind::UnTracked(prep) => prep.finish(primitive),
            }
        }

        fn custom_gradient(
            first: FloatTensor<Self>,
            second: FloatTensor<Self>,
            third: FloatTensor<Self>,
            output: FloatTensor<Self>,
            pullback: Once<Pullback>,
        ) -> FloatTensor<Self> {
            let output = output.into_primitive();
            let parents = [first.node(), second.node(), third.node()];
            match Backward::<B, 3>::prepare::<C>(CustomBackward, parents)
                .compute_bound()
                .stateful()
            {
                OpsKind::Tracked(prep) => prep.finish(pullback, output),
                OpsKind::UnTracked(prep) => prep.finish(output),
            }
        }
    }

    /// Returns `x`; the backward pass replaces the gradient with `hook(gradient)`.
    ///
    /// The closure must own no tensor tracked in the graph of `x`, because that graph is locked
    /// while its backward pass runs. The gradient that it receives is a tensor without autodiff.
    ///
    /// # Shapes
    ///
    /// The hook's input and output have the shape of `x`.
    pub fn grad_hook<const D: usize>(
        x: Tensor<D>,
        hook: impl FnOnce(Tensor<D>) -> Tensor<D> + Send + 'static,
    ) -> Tensor<D> {
        let closure: Closure = Box::new(move |g| hook(Tensor::from_dispatch(g)).into_dispatch());
        let hook = Once::new(closure);
        Tensor::from_dispatch(Dispatch::grad_hook(x.into_dispatch(), hook))
    }

    /// Gradients on their way between operations.
    type Stored = Arc<Mutex<Vec<Option<Tensor<2>>>>>;

    fn take(all: &Stored, i: usize) -> Option<Tensor<2>> {
        all.lock().unwrap_or_else(|e| e.into_inner())[i].take()
    }

    /// The one-element tensor that connects operations with several inputs or outputs on the tape.
    fn number(like: &Tensor<2>) -> Tensor<1> {
        Tensor::zeros([1], &like.device().without_autodiff())
    }

    /// `values` as outputs of the operation that computed `node`. The backward pass of `node` then
    /// calls `gather` with their gradients, before it continues to the inputs of `node`.
    ///
    /// Burn's operations have one output, so every output is a separate operation that stores its
    /// gradient. `number` is an arbitrary one-element tensor that serves as the gradient of `node`.
    fn fan_out(
        node: Tensor<1>,
        number: Tensor<1>,
        values: Vec<Tensor<2>>,
        gather: impl FnOnce(Vec<Tensor<2>>) + Send + 'static,
    ) -> Vec<Tensor<2>> {
        let left = Stored::new(Mutex::new(vec![None; values.len()]));
        let (likes, outputs) = (values.clone(), left.clone());
        let node = grad_hook(node, move |number| {
            // An output that the loss does not depend on has stored nothing.
            let gradient = |(i, like): (usize, &Tensor<2>)| {
                take(&outputs, i).unwrap_or_else(|| like.zeros_like())
            };
            gather(likes.iter().enumerate().map(gradient).collect());
            number
        });
        let leave = |(i, value): (usize, Tensor<2>)| {
            let (left, number) = (left.clone(), number.clone());
            let inputs = (node.clone(), number.clone(), number.clone());
            let pullback = move |g: Tensor<2>, _wanted| {
                left.lock().unwrap_or_else(|e| e.into_inner())[i] = Some(g);
                (Some(number), None, None)
            };
            custom_gradient(inputs, value, pullback)
        };
        values.into_iter().enumerate().map(leave).collect()
    }

    /// Attaches several tensors, computed from `x` off the tape, to `x`: `pullback` receives the
    /// gradients of all of them at once and returns the gradient of `x`.
    ///
    /// # Shapes
    ///
    /// The pullback's inputs have the shapes of `values`, its output that of `x`.
    pub fn parts(
        x: Tensor<2>,
        values: Vec<Tensor<2>>,
        pullback: impl FnOnce(Vec<Tensor<2>>) -> Tensor<2> + Send + 'static,
    ) -> Vec<Tensor<2>> {
        let found = Stored::new(Mutex::new(vec![None]));
        let number = number(&x);
        let enter = {
            let found = found.clone();
            move |_g: Tensor<1>, _wanted| (take(&found, 0), None, None)
        };
        let inputs = (x, number.clone(), number.clone());
        let node = custom_gradient(inputs, number.clone(), enter);
        fan_out(node, number, values, move |gradients| {
            let gradient = pullback(gradients);
            found.lock().unwrap_or_else(|e| e.into_inner())[0] = Some(gradient);
        })
    }

    /// Returns several tensors; the backward pass replaces their gradients with `hook(gradients)`.
    /// The hook receives all gradients at once.
    ///
    /// A one-element node connects the inputs with the outputs. The outputs store their gradients,
    /// the node runs the hook, and the inputs take its results. Nothing is copied.
    ///
    /// # Shapes
    ///
    /// The hook's inputs and outputs have the shapes of `inputs`.
    pub fn joint_hook(
        inputs: Vec<Tensor<2>>,
        hook: impl FnOnce(Vec<Tensor<2>>) -> Vec<Tensor<2>> + Send + 'static,
    ) -> Vec<Tensor<2>> {
        let found = Stored::new(Mutex::new(vec![None; inputs.len()]));
        let values: Vec<_> = inputs
            .iter()
            .cloned()
            .map(Tensor::without_autodiff)
            .collect();
        let Some(number) = inputs.first().map(number) else {
            return Vec::new();
        };
        let enter = |(i, input): (usize, Tensor<2>)| {
            let found = found.clone();
            let inputs = (input, number.clone(), number.clone());
            let pullback = move |_g: Tensor<1>, _wanted| (take(&found, i), None, None);
            custom_gradient(inputs, number.clone(), pullback)
        };
        let entered = inputs.into_iter().enumerate().map(enter);
        let Some(node) = entered.reduce(|a, b| a + b) else {
            return Vec::new();
        };
        let inputs = found.clone();
        fan_out(node, number, values, move |gradients| {
            let gradients = hook(gradients).into_iter().map(Some).collect();
            *inputs.lock().unwrap_or_else(|e| e.into_inner()) = gradients;
        })
    }

    /// Attaches `output`, which was computed off the tape, to the three tensors it was computed
    /// from: an operation with a custom backward pass, on any backend. With fewer inputs, pass
    /// constants for the others.
    ///
    /// `pullback` maps the gradient with respect to the output to those with respect to the inputs,
    /// in their shapes. The flags say which gradients are needed; the others are ignored. All its
    /// tensors are plain.
    ///
    /// # Example
    ///
    /// ```
    /// use burn::prelude::*;
    /// use deq_kernels::custom_gradient;
    ///
    /// # let device = Device::flex();
    /// let [a, b, c] = [2.0, 5.0, 1.0].map(|v| Tensor::<1>::full([1], v, &device));
    /// let [x, y] = [&a, &b].map(|t| t.clone().autodiff().require_grad());
    /// let value = a.clone() * b.clone() + c.clone();
    /// let value = custom_gradient((x.clone(), y.clone(), c), value, move |g, _wanted| {
    ///     (Some(g.clone() * b), Some(g * a), None)
    /// });
    /// let gradients = value.backward();
    /// assert_eq!(x.grad(&gradients).unwrap().into_scalar::<f32>(), 5.0);
    /// assert_eq!(y.grad(&gradients).unwrap().into_scalar::<f32>(), 2.0);
    /// ```
    ///
    /// If no input is associated with autodiff, the result is `output`.
    ///
    /// # Panics
    ///
    /// Panics in the backward pass if the pullback returns tensors of another backend.
    pub fn custom_gradient<const A: usize, const B: usize, const C: usize, const D: usize>(
        (first, second, third): (Tensor<A>, Tensor<B>, Tensor<C>),
        output: Tensor<D>,
        pullback: impl FnOnce(
            Tensor<D>,
            [bool; 3],
        ) -> (Option<Tensor<A>>, Option<Tensor<B>>, Option<Tensor<C>>)
        + Send
        + 'static,
    ) -> Tensor<D> {
        let pullback: Pullback = Box::new(move |g, wanted| {
            let (first, second, third) = pullback(Tensor::from_dispatch(g), wanted);
            [
                first.map(Tensor::into_dispatch),
                second.map(Tensor::into_dispatch),
                third.map(Tensor::into_dispatch),
            ]
        });
        let strategy = first
            .gradient_checkpointing_strategy()
            .or(second.gradient_checkpointing_strategy())
            .or(third.gradient_checkpointing_strategy());
        let Some(strategy) = strategy else {
            return output;
        };
        Tensor::from_dispatch(Dispatch::custom_gradient(
            associated(first, strategy),
            associated(second, strategy),
            associated(third, strategy),
            associated(output, strategy),
            Once::new(pullback),
        ))
    }

    /// The tensor, associated with autodiff.
    fn associated<const D: usize>(
        x: Tensor<D>,
        strategy: GradientCheckpointingStrategy,
    ) -> DispatchTensor {
        if x.is_autodiff() {
            return x.into_dispatch();
        }
        x.autodiff()
            .with_gradient_checkpointing_strategy(strategy)
            .into_dispatch()
    }
}

#[cfg(not(any(feature = "flex", feature = "cube", feature = "remote")))]
pub use without_backend::{custom_gradient, grad_hook, joint_hook, parts};

/// The same functions in a build without a backend, where no tensor exists to call them with.
#[cfg(not(any(feature = "flex", feature = "cube", feature = "remote")))]
mod without_backend {
    use burn::tensor::Tensor;

    /// Panics.
    pub fn grad_hook<const D: usize>(
        _x: Tensor<D>,
        _hook: impl FnOnce(Tensor<D>) -> Tensor<D> + Send + 'static,
    ) -> Tensor<D> {
        refuse()
    }

    /// Panics.
    pub fn parts(
        _x: Tensor<2>,
        _values: Vec<Tensor<2>>,
        _pullback: impl FnOnce(Vec<Tensor<2>>) -> Tensor<2> + Send + 'static,
    ) -> Vec<Tensor<2>> {
        refuse()
    }

    /// Panics.
    pub fn joint_hook(
        _inputs: Vec<Tensor<2>>,
        _hook: impl FnOnce(Vec<Tensor<2>>) -> Vec<Tensor<2>> + Send + 'static,
    ) -> Vec<Tensor<2>> {
        refuse()
    }

    /// Panics.
    pub fn custom_gradient<const A: usize, const B: usize, const C: usize, const D: usize>(
        _inputs: (Tensor<A>, Tensor<B>, Tensor<C>),
        _output: Tensor<D>,
        _pullback: impl FnOnce(
            Tensor<D>,
            [bool; 3],
        ) -> (Option<Tensor<A>>, Option<Tensor<B>>, Option<Tensor<C>>)
        + Send
        + 'static,
    ) -> Tensor<D> {
        refuse()
    }

    fn refuse() -> ! {
        panic!(
            "this build has no backend: enable the feature of burn-deq with the name of your \
             backend (flex, wgpu, vulkan, metal, cuda, rocm or cpu)"
        )
    }
}
