//! How a step is divided among cubes. The plan is fixed for the sizes of a model, so its kernels
//! are compiled only once.

use crate::formula::{Activation, Kernel, Prox, StepFormula};

use super::kernels::{BLOCK, GRADIENT_BLOCK, GRADIENT_COLUMNS, ROWS};
use super::tensors::Limits;

/// Largest number of rows of a tile.
const TILE_ROWS: usize = 8;
/// Largest number of pixels of a tile.
const TILE_PIXELS: usize = 256;

/// One branch: its sizes, its tiles, and the offsets of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Branch {
    pub(super) channels: usize,
    pub(super) hidden: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Rows and columns of a tile.
    pub(super) tile: [usize; 2],
    pub(super) first_tile: usize,
    /// Columns of a tile of the kernel gradient.
    pub(super) strip: usize,
    /// Units' blocks of the kernel gradient that one cube computes, and its first cube.
    pub(super) first_gradient: usize,
    /// Where the branch begins in a state, in W z, and in the packed kernels.
    pub(super) state: usize,
    pub(super) image: usize,
    pub(super) natural: usize,
    /// Where its kernel and its transpose begin in the laid-out kernels.
    pub(super) weights: usize,
    pub(super) transposed: usize,
}

impl Branch {
    pub(super) fn tiles(&self) -> usize {
        self.height.div_ceil(self.tile[0]) * self.width.div_ceil(self.tile[1])
    }

    pub(super) fn pixels(&self) -> usize {
        self.height * self.width
    }

    pub(super) fn weights_len(&self, kernel: usize) -> usize {
        self.hidden * self.channels * kernel * kernel
    }

    /// Elements of shared memory that a tile of W z needs, with its border.
    fn shared(&self, kernel: usize) -> usize {
        self.hidden * (self.tile[0] + kernel - 1) * (self.tile[1] + kernel - 1)
    }

    /// Size of a channel of z in shared memory while kernel gradients are computed: odd, so that
    /// units that read different channels use different banks.
    pub(super) fn gradient_plane(&self, kernel: usize) -> usize {
        (kernel * (self.strip + kernel - 1)) | 1
    }

    fn gradient_shared(&self, kernel: usize) -> usize {
        self.channels * self.gradient_plane(kernel)
            + self.hidden.next_multiple_of(GRADIENT_BLOCK) * self.strip
    }

    /// Blocks of the kernel gradient, one for a unit.
    pub(super) fn gradient_blocks(&self) -> usize {
        self.hidden.div_ceil(GRADIENT_BLOCK) * self.channels
    }

    pub(super) fn gradient_cubes(&self, units: usize) -> usize {
        self.gradient_blocks().div_ceil(units)
    }
}

/// All branches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    pub(super) branches: Vec<Branch>,
    /// Side of the kernels.
    pub(super) kernel: usize,
    /// Elements of a sample's state, of its W z, of all kernels, and of the laid-out kernels.
    pub(super) state: usize,
    pub(super) image: usize,
    pub(super) natural: usize,
    pub(super) laid_out: usize,
    /// Cubes per sample.
    pub(super) tiles: usize,
    /// Elements of shared memory.
    pub(super) shared: usize,
    pub(super) gradient_cubes: usize,
    pub(super) gradient_shared: usize,
    /// Parts of the rows of a branch, each computed by its own cubes.
    pub(super) gradient_parts: usize,
    /// Units per cube: of a step, and of a kernel gradient.
    pub(super) units: usize,
    pub(super) gradient_units: usize,
}

impl Plan {
    /// The plan for kernels `[hidden, channels, k, k]` and branches with these heights and widths;
    /// `None` if a tile does not fit the shared memory.
    pub(super) fn new(
        kernels: &[[usize; 4]],
        sizes: &[[usize; 2]],
        limits: &Limits,
    ) -> Option<Self> {
        let size = kernels.first()?[2];
        let same = |k: &[usize; 4]| k[2] == size && k[3] == size && k[0] > 0 && k[1] > 0;
        if size % 2 == 0 || size > 7 || !kernels.iter().all(same) || kernels.len() != sizes.len() {
            return None;
        }
        let units = limits.units.min(128);
        let mut plan = Self {
            branches: Vec::new(),
            kernel: size,
            state: 0,
            image: 0,
            natural: 0,
            laid_out: 0,
            tiles: 0,
            shared: 1,
            gradient_cubes: 0,
            gradient_shared: 1,
            gradient_parts: 1,
            units,
            gradient_units: power_of_two(limits.units.min(256)),
        };
        for ([hidden, channels, ..], [height, width]) in kernels.iter().zip(sizes) {
            plan.push([*hidden, *channels], [*height, *width], limits.shared)?;
        }
        Some(plan)
    }

    fn push(
        &mut self,
        [hidden, channels]: [usize; 2],
        [height, width]: [usize; 2],
        shared: usize,
    ) -> Option<()> {
        if height == 0 || width == 0 {
            return None;
        }
        let k = self.kernel;
        let mut branch = Branch {
            channels,
            hidden,
            height,
            width,
            tile: [height.min(TILE_PIXELS), width.min(TILE_PIXELS)],
            first_tile: self.tiles,
            strip: width.next_multiple_of(GRADIENT_COLUMNS),
            first_gradient: self.gradient_cubes,
            state: self.state,
            image: self.image,
            natural: self.natural,
            weights: self.laid_out,
            transposed: self.laid_out + channels * k * k * hidden.next_multiple_of(BLOCK),
        };
        while branch.tile[0] > ROWS
            && (branch.tile[0] * branch.tile[1] > TILE_PIXELS && branch.tile[0] > TILE_ROWS
                || branch.shared(k) > shared)
        {
            branch.tile[0] = branch.tile[0].div_ceil(2).next_multiple_of(ROWS);
        }
        while branch.tile[1] > 1 && branch.shared(k) > shared {
            branch.tile[1] = branch.tile[1].div_ceil(2);
        }
        while branch.strip > GRADIENT_COLUMNS && branch.gradient_shared(k) > shared {
            branch.strip = branch.strip.div_ceil(2).next_multiple_of(GRADIENT_COLUMNS);
        }
        if branch.shared(k) > shared || branch.gradient_shared(k) > shared {
            return None;
        }
        self.tiles += branch.tiles();
        self.state += channels * branch.pixels();
        self.image += hidden * branch.pixels();
        self.natural += hidden * channels * k * k;
        self.laid_out = branch.transposed + hidden * k * k * channels.next_multiple_of(BLOCK);
        self.shared = self.shared.max(branch.shared(k));
        self.gradient_shared = self.gradient_shared.max(branch.gradient_shared(k));
        self.gradient_parts = self.gradient_parts.max(height.div_ceil(TILE_ROWS).min(8));
        self.gradient_cubes += branch.gradient_cubes(self.gradient_units);
        self.branches.push(branch);
        Some(())
    }
}

impl Plan {
    /// The plan of the transposed convolutions, with the same laid-out kernels.
    pub(super) fn transposed(&self) -> Self {
        let mut plan = self.clone();
        plan.state = self.image;
        plan.image = self.state;
        for branch in &mut plan.branches {
            std::mem::swap(&mut branch.channels, &mut branch.hidden);
            std::mem::swap(&mut branch.state, &mut branch.image);
            branch.weights = branch.transposed;
        }
        plan
    }
}

/// The largest power of two up to n.
pub(super) fn power_of_two(n: usize) -> usize {
    1 << n.max(1).ilog2()
}

/// What a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// prox(v).
    Step,
    /// The derivative of prox at v.
    Mask,
    /// (I - step H) u, multiplied by a mask before and after as requested. For a potential, the
    /// factors are its slopes.
    Product { before: bool, after: bool },
    /// s'(W z + c).
    Activated,
    /// s''(W z + c).
    Slopes,
    /// s W u, with factors s.
    Scaled,
    /// W z.
    Image,
}

impl Job {
    /// Whether the result has the shape of W z.
    pub(super) fn makes_image(self) -> bool {
        matches!(
            self,
            Self::Activated | Self::Slopes | Self::Scaled | Self::Image
        )
    }

    /// Whether anything follows z - step (...) without the couplings.
    pub(super) fn finishes(self, formula: &Formula) -> bool {
        let constrains = self.activates() && formula.constrain != Constrain::Nothing;
        let masks = matches!(self, Self::Product { after: true, .. });
        constrains || masks || self == Self::Mask || !formula.pairs.is_empty()
    }

    /// Whether it multiplies x by a mask first.
    pub(super) fn masks_before(self) -> bool {
        matches!(self, Self::Product { before: true, .. })
    }

    /// Whether it applies s' between W and its transpose.
    pub(super) fn activates(self) -> bool {
        matches!(self, Self::Step | Self::Mask | Self::Activated)
    }
}

/// s', with numbers as bits, because the parameters that a kernel is compiled for must be
/// comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Between {
    Nothing,
    /// The difference from c.
    Subtract,
    Relu,
    LeakyRelu(u32),
    Softplus,
    Tanh,
}

impl Between {
    pub(super) fn is_activation(self) -> bool {
        !matches!(self, Self::Nothing | Self::Subtract)
    }
}

/// The proximal map, with numbers as bits, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Constrain {
    Nothing,
    NonNegative,
    Interval(u32, u32),
    /// The threshold.
    Shrink(u32),
    /// The threshold, on the side of positive values only.
    ShrinkPositive(u32),
}

/// A coupling of the finer with the coarser branch of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    pub(super) fine: usize,
    pub(super) coarse: usize,
    /// Rows and columns of a cell.
    pub(super) cell: [usize; 2],
    /// step lambda.
    strength: u32,
    /// 1 / sqrt(elements of a cell).
    scale: u32,
}

impl Pair {
    pub(super) fn strength(&self) -> f32 {
        f32::from_bits(self.strength)
    }

    pub(super) fn scale(&self) -> f32 {
        f32::from_bits(self.scale)
    }
}

/// The numbers of a formula.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Formula {
    /// 1 - step q.
    keep: u32,
    /// The factor of W' ...
    scale: u32,
    step: u32,
    pub(super) proximity: bool,
    pub(super) between: Between,
    pub(super) constrain: Constrain,
    pub(super) pairs: Vec<Pair>,
}

impl Formula {
    pub(super) fn new(formula: &StepFormula, plan: &Plan) -> Self {
        let bits = |x: f64| (x as f32).to_bits();
        let between = match formula.activation() {
            None if formula.kernel == Kernel::Reconstruction => Between::Subtract,
            None => Between::Nothing,
            Some(Activation::Relu) => Between::Relu,
            Some(Activation::LeakyRelu { slope }) => Between::LeakyRelu(bits(slope)),
            Some(Activation::Softplus) => Between::Softplus,
            Some(Activation::Tanh) => Between::Tanh,
        };
        let sign = if formula.activation().is_some() {
            1.0
        } else {
            -1.0
        };
        let branches = &plan.branches;
        let pairs = formula.couplings.iter().flat_map(|coupling| {
            coupling.pairs(branches.len()).map(move |(i, j)| {
                let (fine, coarse) = if branches[i].pixels() >= branches[j].pixels() {
                    (i, j)
                } else {
                    (j, i)
                };
                let cell = [
                    branches[fine].height / branches[coarse].height,
                    branches[fine].width / branches[coarse].width,
                ];
                Pair {
                    fine,
                    coarse,
                    cell,
                    strength: bits(formula.step * coupling.strength),
                    scale: (1.0 / ((cell[0] * cell[1]) as f32).sqrt()).to_bits(),
                }
            })
        });
        Self {
            keep: bits(1.0 - formula.step * formula.quadratic),
            scale: bits(formula.step * sign),
            step: bits(formula.step),
            proximity: formula.proximity,
            between,
            constrain: match formula.prox {
                None => Constrain::Nothing,
                Some(Prox::NonNegative) => Constrain::NonNegative,
                Some(Prox::Interval { low, high }) => Constrain::Interval(bits(low), bits(high)),
                Some(Prox::L1 { weight }) => {
                    Constrain::Shrink((formula.step as f32 * weight as f32).to_bits())
                }
                Some(Prox::Sparse { weight }) => {
                    Constrain::ShrinkPositive((formula.step as f32 * weight as f32).to_bits())
                }
            },
            pairs: pairs.collect(),
        }
    }

    /// v = W'W z.
    pub(super) fn square() -> Self {
        Self {
            keep: 0.0f32.to_bits(),
            scale: 1.0f32.to_bits(),
            step: 1.0f32.to_bits(),
            proximity: false,
            between: Between::Nothing,
            constrain: Constrain::Nothing,
            pairs: Vec::new(),
        }
    }

    pub(super) fn keep(&self) -> f32 {
        f32::from_bits(self.keep)
    }

    pub(super) fn scale(&self) -> f32 {
        f32::from_bits(self.scale)
    }

    pub(super) fn step(&self) -> f32 {
        f32::from_bits(self.step)
    }
}
