//! AVX-512: one register is a vector.

#[allow(clippy::wildcard_imports)] // three dozen intrinsics
use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// Proof that this CPU has AVX-512 F, BW, DQ and VL, and AVX2, FMA, BMI1, BMI2 and POPCNT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt");
        has.then_some(Avx512(()))
    }
}

// Every SAFETY below that says "the token" means: `self` exists, so the CPU has the features.
impl Simd for Avx512 {
    type F32 = __m512;
    const GROUP: usize = 6;

    #[inline(always)]
    fn whole_panel(_rows: usize) -> bool {
        // 24 of 32 registers.
        true
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,popcnt")]
        fn inner<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: the token.
        unsafe { inner(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the token; the caller gives 16 readable f32.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: the token; masked-off lanes are not accessed.
        unsafe { _mm512_maskz_loadu_ps((1u16 << n) - 1, p) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m512 {
        // SAFETY: the token; the caller gives 16 readable bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the token; the caller gives 16 writable f32.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: the token; masked-off lanes are not accessed.
        unsafe { _mm512_mask_storeu_ps(p, (1u16 << n) - 1, v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn at_least(self, v: __m512, low: __m512) -> __m512 {
        // MAXPS returns its second operand when either is NaN, so v comes second.
        // SAFETY: the token.
        unsafe { _mm512_max_ps(low, v) }
    }
    #[inline(always)]
    fn at_most(self, v: __m512, high: __m512) -> __m512 {
        // SAFETY: the token; operand order as in `at_least`.
        unsafe { _mm512_min_ps(high, v) }
    }
    #[inline(always)]
    fn nonzero(self, v: __m512) -> u16 {
        // SAFETY: the token.
        unsafe { _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(v, _mm512_setzero_ps()) }
    }
    #[inline(always)]
    fn not_at_most(self, v: __m512, limit: __m512) -> u16 {
        // SAFETY: the token.
        unsafe { _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(v, limit) }
    }
    #[inline(always)]
    fn keep(self, mask: u16, v: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_maskz_mov_ps(mask, v) }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: the token.
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    unsafe fn compress(self, p: *mut f32, mask: u16, v: __m512) {
        // In a register, then a whole store: the memory form of compress is microcoded on Zen 4.
        // SAFETY: the token; the caller gives 16 writable f32.
        unsafe { _mm512_storeu_ps(p, _mm512_maskz_compress_ps(mask, v)) }
    }
    #[inline(always)]
    unsafe fn compress_index(self, p: *mut u32, mask: u16, base: u32) {
        // SAFETY: the token; the caller gives 16 writable u32.
        unsafe {
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let index = _mm512_add_epi32(lanes, _mm512_set1_epi32(base as i32));
            _mm512_storeu_si512(p.cast(), _mm512_maskz_compress_epi32(mask, index));
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}
