//! The one backend-specific operation: an identity whose backward pass is a closure.
//!
//! `y = grad_hook(x, h)` returns x unchanged and, in the backward pass, sends `h(dL/dy)` to x in
//! place of dL/dy. The implicit backward is exactly that: y is one tracked application of the map,
//! and h solves u = J'u + g (Bai, Kolter and Koltun 2019, arXiv:1909.01377, theorem 1; the same
//! "re-attach and hook" shape as in the code of that paper).

use burn::tensor::Tensor;

#[cfg(any(feature = "flex", feature = "cube"))]
pub(crate) use dispatched::grad_hook;

#[cfg(any(feature = "flex", feature = "cube"))]
mod dispatched {
    use std::sync::{Arc, Mutex};

    use super::*;
    use burn::backend::autodiff::checkpoint::base::Checkpointer;
    use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
    use burn::backend::autodiff::grads::Gradients;
    use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{
        Autodiff, Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor,
        backend_extension,
    };

    type Closure = Box<dyn FnOnce(DispatchTensor) -> DispatchTensor + Send>;

    /// The closure of one hook. Burn clones the state of a backward step but runs it once, so the
    /// closure is shared and taken out when it runs.
    #[derive(Clone)]
    pub struct GradHook(Arc<Mutex<Option<Closure>>>);

    impl std::fmt::Debug for GradHook {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("GradHook")
        }
    }

    impl GradHook {
        fn run(&self, gradient: DispatchTensor) -> DispatchTensor {
            let closure = self.0.lock().unwrap_or_else(|e| e.into_inner()).take();
            match closure {
                Some(closure) => closure(gradient),
                None => panic!("burn-deq: the backward pass of an equilibrium ran twice"),
            }
        }
    }

    #[backend_extension(
        Flex: cfg(feature = "flex"),
        Cube: cfg(feature = "cube"),
        Autodiff
    )]
    pub trait GradHookBackend: Backend {
        fn grad_hook(tensor: FloatTensor<Self>, hook: GradHook) -> FloatTensor<Self>;
    }

    #[cfg(feature = "flex")]
    impl GradHookBackend for burn::backend::Flex {
        fn grad_hook(tensor: FloatTensor<Self>, _hook: GradHook) -> FloatTensor<Self> {
            tensor
        }
    }

    #[cfg(feature = "cube")]
    impl GradHookBackend for burn::backend::Cube {
        fn grad_hook(tensor: FloatTensor<Self>, _hook: GradHook) -> FloatTensor<Self> {
            tensor
        }
    }

    #[derive(Debug)]
    struct HookBackward;

    impl<B: Backend> Backward<B, 1> for HookBackward
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        type State = GradHook;

        fn backward(
            self,
            ops: Ops<Self::State, 1>,
            grads: &mut Gradients,
            _checkpointer: &mut Checkpointer,
        ) {
            let hook = ops.state;
            unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
                let gradient = <DispatchTensor as DispatchKindConversion<B>>::from_backend(
                    BackendTensor::Float(gradient),
                );
                match <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(
                    hook.run(gradient),
                ) {
                    Ok(tensor) => tensor.float(),
                    Err(reason) => panic!(
                        "burn-deq: the backward solve changed the backend of the gradient: {reason}"
                    ),
                }
            });
        }
    }

    impl<B: Backend, C: CheckpointStrategy> GradHookBackend for Autodiff<B, C>
    where
        DispatchTensor: DispatchKindConversion<B>,
    {
        fn grad_hook(tensor: FloatTensor<Self>, hook: GradHook) -> FloatTensor<Self> {
            let (primitive, guard) = tensor.into_parts();
            match Backward::<B, 1>::prepare::<C>(HookBackward, [guard])
                .compute_bound()
                .stateful()
            {
                OpsKind::Tracked(prep) => prep.finish(hook, primitive),
                OpsKind::UnTracked(prep) => prep.finish(primitive),
            }
        }
    }

    /// Identity on `x`; its backward pass replaces the gradient by `hook(gradient)`.
    ///
    /// The closure must own nothing that is tracked in the graph of `x`: that graph is locked while
    /// its backward pass runs. Everything that reaches it here has been stripped of autodiff.
    pub(crate) fn grad_hook<const D: usize>(
        x: Tensor<D>,
        hook: impl FnOnce(Tensor<D>) -> Tensor<D> + Send + 'static,
    ) -> Tensor<D> {
        let closure: Closure = Box::new(move |g| hook(Tensor::from_dispatch(g)).into_dispatch());
        let hook = GradHook(Arc::new(Mutex::new(Some(closure))));
        Tensor::from_dispatch(Dispatch::grad_hook(x.into_dispatch(), hook))
    }
}

#[cfg(not(any(feature = "flex", feature = "cube")))]
pub(crate) fn grad_hook<const D: usize>(
    _x: Tensor<D>,
    _hook: impl FnOnce(Tensor<D>) -> Tensor<D> + Send + 'static,
) -> Tensor<D> {
    panic!(
        "burn-deq was built without a backend: enable the feature of burn-deq that bears the name \
         of the backend in use (flex, wgpu, vulkan, metal, cuda, rocm or cpu)"
    )
}
