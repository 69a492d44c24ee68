//! The highest rates of this machine: loads from a buffer, and multiply-adds of numbers in L1.

#[cfg(target_arch = "x86_64")]
use std::array::from_fn;
use std::hint::black_box;

use super::arithmetic::Arithmetic;
use crate::layout::PANEL;
#[cfg(target_arch = "x86_64")]
use crate::simd::amx::{Amx, Products, TILE};
#[cfg(target_arch = "x86_64")]
use crate::simd::shorts::Shorts;
use crate::simd::{Kernel, LANES, Simd};

/// Reads a buffer `passes` times, four vectors at a time.
pub(crate) struct Load<'a> {
    pub(crate) data: &'a [u32],
    pub(crate) passes: usize,
}

impl Kernel for Load<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut sums = [simd.splat_i32(0); 4];
        for _ in 0..self.passes {
            for four in black_box(self.data).chunks_exact(4 * LANES) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: four vectors.
                    *sum =
                        simd.add_i32(*sum, unsafe { simd.load_i32(four.as_ptr().add(v * LANES)) });
                }
            }
        }
        black_box(sums.map(|sum| simd.sum_i32(sum)));
    }
}

/// Rows whose products are summed together.
pub(crate) const ROWS: usize = 6;

/// Multiplies [`ROWS`] rows with weights `passes` times, as `dense.rs` does: the sums fill the
/// registers, and there are fewer loads than multiply-adds.
pub(crate) struct VectorProducts<'a, A: Arithmetic> {
    /// (inputs, [`ROWS`])
    pub(crate) x: &'a [A::Word],
    /// (inputs, [`PANEL`])
    pub(crate) w: &'a [A::Word],
    pub(crate) passes: usize,
}

impl<A: Arithmetic> Kernel for VectorProducts<'_, A> {
    /// Number of vector multiply-adds.
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        if S::whole_panel(ROWS) { self.vectors::<S, 2>(simd) } else { self.vectors::<S, 1>(simd) }
    }
}

impl<A: Arithmetic> VectorProducts<'_, A> {
    #[inline(always)]
    fn vectors<S: Simd, const V: usize>(self, simd: S) -> usize {
        let inputs = self.x.len() / ROWS;
        assert!(V <= PANEL / LANES && self.w.len() == inputs * PANEL);
        for _ in 0..self.passes {
            let (x, w) = (black_box(self.x.as_ptr()), black_box(self.w.as_ptr()));
            let mut sums = [[A::splat(simd, A::Word::default()); V]; ROWS];
            for i in 0..inputs {
                // SAFETY: `x` has `inputs` times ROWS words, and `w` has `inputs` times PANEL.
                unsafe {
                    let mut weights = [A::splat(simd, A::Word::default()); V];
                    for (v, weight) in weights.iter_mut().enumerate() {
                        *weight = A::load(simd, w.add(i * PANEL + v * LANES));
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = A::splat(simd, *x.add(i * ROWS + r));
                        for (sum, weight) in sums.iter_mut().zip(weights) {
                            *sum = A::mul_add(simd, x, weight, *sum);
                        }
                    }
                }
            }
            for sums in sums {
                for sum in sums {
                    black_box(A::sum(simd, sum));
                }
            }
        }
        self.passes * inputs * ROWS * V
    }
}

/// Multiplies rows of bytes up to 64 with weights `passes` times, as `shorts.rs` does.
#[cfg(target_arch = "x86_64")]
pub(crate) struct ShortProducts<'a> {
    pub(crate) shorts: Shorts,
    /// ([`Shorts::ROWS`], inputs)
    pub(crate) x: &'a [u32],
    /// (inputs, [`PANEL`])
    pub(crate) w: &'a [u32],
    pub(crate) passes: usize,
}

#[cfg(target_arch = "x86_64")]
impl Kernel for ShortProducts<'_> {
    /// Number of vector multiply-adds.
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        const ROWS: usize = Shorts::ROWS;
        let inputs = self.x.len() / ROWS;
        assert_eq!(self.w.len(), inputs * PANEL);
        let mut sums = [0; ROWS * PANEL];
        for _ in 0..self.passes {
            let (x, w) = (black_box(self.x), black_box(self.w.as_ptr()));
            let x: [&[u32]; ROWS] = from_fn(|row| &x[row * inputs..][..inputs]);
            // SAFETY: every word has as many weights as a row has sums.
            unsafe {
                let sums = sums.as_mut_ptr();
                self.shorts.add_small::<false, true, ROWS, 1>(false, &x, inputs, w, PANEL, sums);
            };
            black_box(&sums);
        }
        self.passes * inputs * ROWS
    }
}

/// Multiplies tiles of bytes in L1 `passes` times, as `tiles.rs` does: two tiles of rows with two of
/// weights.
#[cfg(target_arch = "x86_64")]
pub(crate) struct TileProducts<'a> {
    pub(crate) amx: Amx,
    /// (32, steps, 16)
    pub(crate) x: &'a [u32],
    /// (steps, 16, 32)
    pub(crate) w: &'a [u32],
    pub(crate) passes: usize,
}

#[cfg(target_arch = "x86_64")]
impl TileProducts<'_> {
    /// Returns the number of vector multiply-adds that take as many products.
    pub(crate) fn run(self) -> usize {
        let steps = self.x.len() / (2 * TILE * LANES);
        assert_eq!(self.w.len(), steps * TILE * 2 * LANES);
        let tiles = self.amx.tiles(TILE);
        let mut sums = [0; 2 * TILE * 2 * LANES];
        for _ in 0..self.passes {
            let products = Products {
                rows: black_box(self.x.as_ptr()),
                row_stride: 4 * LANES * steps,
                weights: black_box(self.w.as_ptr()),
                weight_stride: 8 * LANES,
                steps,
                last: std::ptr::null(),
                sums: sums.as_mut_ptr(),
                sum_stride: 8 * LANES,
            };
            // SAFETY: 32 rows of 64 bytes for each step, 32 units, and as many sums.
            unsafe { tiles.multiply::<2, 2>(&products) }
            black_box(&sums);
        }
        self.passes * steps * 2 * TILE * TILE * 2
    }
}
