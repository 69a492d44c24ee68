//! The two kinds of numbers that kernels multiply: f32, and bytes packed four to a word.
//!
//! A word has 32 bits in both cases: one f32, or four 8-bit inputs. A vector has sixteen words.
//! Panels, unit rows, lists and the loops over them are therefore written once for both. They
//! differ only in the multiply-add, which for bytes adds four products to each lane.

use std::slice;

use crate::simd::Simd;

/// The arithmetic of a kernel.
pub(crate) trait Arithmetic: 'static {
    /// 32 bits of a row or of weights.
    type Word: Copy + Default + Send + Sync;
    /// One finished sum.
    type Sum: Copy + Default;
    /// Sixteen words, or sixteen sums.
    type Vector<S: Simd>: Copy;

    /// Whether the order of additions does not affect the sum.
    const EXACT: bool;

    /// 32-bit integers viewed as words.
    fn words(integers: &mut [u32]) -> &mut [Self::Word];
    /// Sixteen words, each `x`.
    fn splat<S: Simd>(simd: S, x: Self::Word) -> Self::Vector<S>;
    /// # Safety
    /// `p` must be valid for reading 16 words.
    unsafe fn load<S: Simd>(simd: S, p: *const Self::Word) -> Self::Vector<S>;
    /// The first `n` words from `p`, followed by zeros.
    ///
    /// # Safety
    /// `n < 16` and `p` valid for reading `n` words.
    unsafe fn load_partial<S: Simd>(simd: S, p: *const Self::Word, n: usize) -> Self::Vector<S>;
    /// # Safety
    /// `p` must be valid for writing 16 words.
    unsafe fn store<S: Simd>(simd: S, p: *mut Self::Word, v: Self::Vector<S>);
    /// `a + b` for sums.
    fn add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    /// `sum + x w`, lane by lane.
    fn mul_add<S: Simd>(
        simd: S,
        x: Self::Vector<S>,
        w: Self::Vector<S>,
        sum: Self::Vector<S>,
    ) -> Self::Vector<S>;
    /// Sum of the lanes.
    fn sum<S: Simd>(simd: S, v: Self::Vector<S>) -> Self::Sum;
    /// The sums of the lanes of four vectors.
    fn sum4<S: Simd>(simd: S, v: [Self::Vector<S>; 4]) -> [Self::Sum; 4];
    /// Bit i is set if word i is not all zero.
    fn nonzero<S: Simd>(simd: S, v: Self::Vector<S>) -> u16;
}

/// f32: one input per word.
pub(crate) struct Floats;

impl Arithmetic for Floats {
    type Word = f32;
    type Sum = f32;
    type Vector<S: Simd> = S::F32;
    const EXACT: bool = false;

    #[inline(always)]
    fn words(integers: &mut [u32]) -> &mut [f32] {
        // SAFETY: both have the same size and alignment, and any bits are valid for either.
        unsafe { slice::from_raw_parts_mut(integers.as_mut_ptr().cast(), integers.len()) }
    }
    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: f32) -> S::F32 {
        simd.splat(x)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, p: *const f32) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load(p) }
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(simd: S, p: *const f32, n: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_partial(p, n) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, p: *mut f32, v: S::F32) {
        // SAFETY: the caller's promise.
        unsafe { simd.store(p, v) }
    }
    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::F32, b: S::F32) -> S::F32 {
        simd.add(a, b)
    }
    #[inline(always)]
    fn mul_add<S: Simd>(simd: S, x: S::F32, w: S::F32, sum: S::F32) -> S::F32 {
        simd.mul_add(x, w, sum)
    }
    #[inline(always)]
    fn sum<S: Simd>(simd: S, v: S::F32) -> f32 {
        simd.sum(v)
    }
    #[inline(always)]
    fn sum4<S: Simd>(simd: S, [a, b, c, d]: [S::F32; 4]) -> [f32; 4] {
        [simd.sum(a), simd.sum(b), simd.sum(c), simd.sum(d)]
    }
    #[inline(always)]
    fn nonzero<S: Simd>(simd: S, v: S::F32) -> u16 {
        simd.nonzero(v)
    }
}

/// Unsigned bytes times signed bytes, four inputs per word, summed in i32.
pub(crate) struct Bytes;

impl Arithmetic for Bytes {
    type Word = u32;
    type Sum = i32;
    type Vector<S: Simd> = S::I32;
    const EXACT: bool = true;

    #[inline(always)]
    fn words(integers: &mut [u32]) -> &mut [u32] {
        integers
    }
    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: u32) -> S::I32 {
        simd.splat_i32(x as i32)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, p: *const u32) -> S::I32 {
        // SAFETY: the caller's promise.
        unsafe { simd.load_i32(p) }
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(simd: S, p: *const u32, n: usize) -> S::I32 {
        let mut words = [0; crate::simd::LANES];
        // SAFETY: the caller's promise, and `n < 16`.
        unsafe {
            words[..n].copy_from_slice(std::slice::from_raw_parts(p, n));
            simd.load_i32(words.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, p: *mut u32, v: S::I32) {
        // SAFETY: the caller's promise.
        unsafe { simd.store_i32(p, v) }
    }
    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::I32, b: S::I32) -> S::I32 {
        simd.add_i32(a, b)
    }
    #[inline(always)]
    fn mul_add<S: Simd>(simd: S, x: S::I32, w: S::I32, sum: S::I32) -> S::I32 {
        simd.dot_bytes(sum, x, w)
    }
    #[inline(always)]
    fn sum<S: Simd>(simd: S, v: S::I32) -> i32 {
        simd.sum_i32(v)
    }
    #[inline(always)]
    fn sum4<S: Simd>(simd: S, v: [S::I32; 4]) -> [i32; 4] {
        simd.sum4_i32(v)
    }
    #[inline(always)]
    fn nonzero<S: Simd>(simd: S, v: S::I32) -> u16 {
        simd.nonzero_i32(v)
    }
}
