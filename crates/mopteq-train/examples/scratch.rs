use burn::module::Module;
use burn::prelude::*;
use burn::tensor::{Distribution, module::conv2d, ops::ConvOptions};
use burn_deq::FixedPointMap;
use mopteq::*;
use std::time::Instant;
fn time<T>(name: &str, n: usize, mut f: impl FnMut() -> T) {
    f();
    let t = Instant::now();
    for _ in 0..n {
        f();
    }
    println!(
        "{name}: {:.2} ms",
        t.elapsed().as_secs_f64() * 1e3 / n as f64
    );
}
fn main() {
    let d = Device::flex();
    let b = 50;
    let x = Tensor::<4>::random([b, 16, 16, 16], Distribution::Normal(0., 1.), &d);
    let w = Tensor::<4>::random([16, 16, 3, 3], Distribution::Normal(0., 0.05), &d);
    let o = || ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
    time("conv 16->16 16x16 b50", 20, || {
        conv2d(x.clone(), w.clone(), None, o())
    });
    let x32 = Tensor::<4>::random([32, 32, 32, 32], Distribution::Normal(0., 1.), &d);
    let w32 = Tensor::<4>::random([32, 32, 3, 3], Distribution::Normal(0., 0.05), &d);
    time("conv 32->32 32x32 b32", 10, || {
        conv2d(x32.clone(), w32.clone(), None, o())
    });
    time("pool", 20, || scaled_pool(x.clone(), 2));
    time("up", 20, || scaled_upsample(x.clone(), 2));
    time("relu", 20, || x.clone().clamp_min(0.0));
    time("add", 20, || x.clone() + x.clone());
    time("gt", 20, || x.clone().greater_elem(0.0).float());

    use burn::tensor::module::interpolate;
    use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
    let y = Tensor::<4>::random([b, 16, 8, 8], Distribution::Normal(0., 1.), &d);
    time("up 8->16", 20, || scaled_upsample(y.clone(), 2));
    time("up interp", 20, || {
        interpolate(
            y.clone(),
            InterpolateOptions::new(InterpolateMode::Nearest).with_scale_factor([2.0, 2.0]),
        )
    });
    time("up repeat", 20, || {
        let [b, c, h, w] = y.dims();
        let t = y
            .clone()
            .reshape([b * c * h, 1, w, 1])
            .repeat_dim(3, 2)
            .reshape([b * c * h, 1, 2 * w]);
        Tensor::cat(vec![t.clone(), t], 1).reshape([b, c, 2 * h, 2 * w])
    });
    let m1 = Tensor::<2>::random([64, 256], Distribution::Normal(0., 1.), &d);
    time("up matmul", 20, || {
        let [b, c, h, w] = y.dims();
        y.clone()
            .reshape([b * c, h * w])
            .matmul(m1.clone())
            .reshape([b, c, 2 * h, 2 * w])
    });
    time("up deconv", 20, || {
        let [b, c, h, w] = y.dims();
        let k = Tensor::<4>::ones([1, 1, 2, 2], &d);
        burn::tensor::module::conv_transpose2d(
            y.clone().reshape([b * c, 1, h, w]),
            k,
            None,
            burn::tensor::ops::ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1),
        )
        .reshape([b, c, 2 * h, 2 * w])
    });
    let n = 5376;
    let h = Tensor::<3>::random([b, 6, n], Distribution::Normal(0., 1.), &d);
    let p = Tensor::<3>::random([b, 2, n], Distribution::Normal(0., 1.), &d);
    let g = Tensor::<3>::random([b, 1, 6], Distribution::Normal(0., 1.), &d);
    time("gram pair", 20, || {
        p.clone().matmul(h.clone().swap_dims(1, 2))
    });
    time("gram T", 20, || h.clone().matmul(p.clone().swap_dims(1, 2)));
    time("mix", 20, || g.clone().matmul(h.clone()));
    let v = Tensor::<2>::random([b, n], Distribution::Normal(0., 1.), &d);
    time("sq sumdim", 20, || (v.clone() * v.clone()).sum_dim(1));
    time("cat pair", 20, || {
        Tensor::cat(
            vec![
                v.clone().unsqueeze_dim::<3>(1),
                v.clone().unsqueeze_dim::<3>(1),
            ],
            1,
        )
    });
    let mut hh = Some(h.clone() + 1.0);
    time("slice_assign", 20, || {
        let t = hh.take().unwrap();
        hh = Some(t.slice_assign([0..b, 1..2, 0..n], v.clone().unsqueeze_dim::<3>(1)));
    });
    time("split", 20, || {
        v.clone().split_with_sizes(vec![4096, 1024, 256], 1)
    });
    time("packcat", 20, || {
        Tensor::cat(
            vec![
                Tensor::<2>::zeros([b, 4096], &d),
                Tensor::zeros([b, 1024], &d),
                Tensor::zeros([b, 256], &d),
            ],
            1,
        )
    });
    for family in [Family::S, Family::P] {
        let m = MOptEqsConfig::digits(10, 1, [28, 28])
            .with_family(family)
            .init(&d)
            .unwrap();
        println!("{family:?} params {}", m.num_params());
        let img = Tensor::<4>::random([b, 1, 28, 28], Distribution::Normal(0., 1.), &d);
        let ctx = m.context(img.clone());
        let obj = m.config().objective();
        let z = m.equilibrium(&ctx);
        println!(
            "{:?} steps mean {} evals {}",
            family,
            z.forward.mean_steps(),
            z.forward.evaluations
        );
        let z = z.state;
        time("  T", 20, || obj.apply(z.clone(), ctx.clone()));
        let j = obj.jacobian(z.clone(), ctx.clone()).unwrap();
        time("  J'u", 20, || j.vjp(z.clone()));
        time("  context", 20, || m.context(img.clone()));
        time("  solve", 10, || m.equilibrium(&ctx));
        for sv in [
            burn_deq::Solver::plain(),
            burn_deq::Solver::anderson(2),
            burn_deq::Solver::anderson(6),
        ] {
            let e = burn_deq::EquilibriumConfig::new()
                .with_forward(sv.clone().with_relative(1e-12).with_max_steps(8))
                .init();
            let z0: Vec<Tensor<4>> = z.iter().map(|z| z.zeros_like()).collect();
            time(
                &format!("   8 evals {sv:?}")
                    .chars()
                    .take(40)
                    .collect::<String>(),
                5,
                || e.solve_map(&obj, ctx.clone(), z0.clone()),
            );
        }
        let m = m.train();
        let img = img.clone().autodiff();
        time("  forward", 10, || m.forward(img.clone()).logits);
        let mut rep = None;
        time("  train fwd+bwd", 10, || {
            let p = m.forward(img.clone());
            let g = p.logits.powf_scalar(2.0).sum().backward();
            rep = p.adjoint.report();
            g
        });
        let r = rep.unwrap();
        println!(
            "  adj steps {} evals {} conv {}",
            r.mean_steps(),
            r.evaluations,
            r.all_converged()
        );
    }
}
