//! AVX-512, with and without VNNI: a vector is one register.

#[allow(clippy::wildcard_imports)] // three dozen intrinsics
use std::arch::x86_64::*;

use super::{Kernel, Simd, compress_by_lanes};

/// Proof that this CPU has AVX-512 F, BW, DQ and VL, AVX2, FMA, BMI1, BMI2 and POPCNT; and AVX-512
/// VNNI if `VNNI`, AVX-512 VBMI2 if `VBMI2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512<const VNNI: bool, const VBMI2: bool>(());

impl Avx512<true, false> {
    /// The token for kernels that do not multiply bytes.
    pub(super) fn without_vnni(self) -> Avx512<false, false> {
        let Avx512(proof) = self;
        Avx512(proof)
    }

    /// The token with VBMI2, if the CPU has it.
    #[inline]
    #[allow(clippy::unused_self)] // the proof of all but VBMI2
    pub(super) fn with_vbmi2(self) -> Option<Avx512<true, true>> {
        is_x86_feature_detected!("avx512vbmi2").then_some(Avx512(()))
    }
}

impl<const VNNI: bool> Avx512<VNNI, false> {
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
            && (!VNNI || is_x86_feature_detected!("avx512vnni"));
        has.then_some(Avx512(()))
    }
}

/// 0 to 31.
static SHORTS: [u16; 32] = {
    let mut shorts = [0; 32];
    let mut i = 0;
    while i < 32 {
        shorts[i] = i as u16;
        i += 1;
    }
    shorts
};

// Every SAFETY below that says "the token" means: `self` exists, so the CPU has the features.
impl<const VNNI: bool, const VBMI2: bool> Simd for Avx512<VNNI, VBMI2> {
    type F32 = __m512;
    type I32 = __m512i;
    const GROUP: usize = 6;
    const DOT_PRODUCTS: bool = VNNI;
    const TWO_PANELS: bool = true;

    #[inline(always)]
    fn whole_panel(_rows: usize) -> bool {
        // 24 of 32 registers.
        true
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,popcnt")]
        #[inline(never)]
        fn without<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,popcnt")]
        #[inline(never)]
        fn with<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi2")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,popcnt")]
        #[inline(never)]
        fn with_both<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: the token.
        unsafe {
            match (VNNI, VBMI2) {
                (true, true) => with_both(self, kernel),
                (true, false) => with(self, kernel),
                (false, _) => without(self, kernel),
            }
        }
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
    fn splat_i32(self, x: i32) -> __m512i {
        // SAFETY: the token.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_i32(self, p: *const u32) -> __m512i {
        // SAFETY: the token; the caller gives 16 readable u32.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_i32(self, p: *mut u32, v: __m512i) {
        // SAFETY: the token; the caller gives 16 writable u32.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    fn add_i32(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the token.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn dot_bytes(self, sum: __m512i, x: __m512i, w: __m512i) -> __m512i {
        // SAFETY: the token. Without VNNI, the even and the odd bytes of x are multiplied
        // separately: a product of u8 and i8 fits 16 bits, but the sum of two products does not.
        unsafe {
            if VNNI {
                return _mm512_dpbusd_epi32(sum, x, w);
            }
            let even = _mm512_set1_epi16(0x00ff);
            let ones = _mm512_set1_epi16(1);
            let a = _mm512_maddubs_epi16(_mm512_and_si512(x, even), w);
            let b = _mm512_maddubs_epi16(_mm512_andnot_si512(even, x), w);
            let a = _mm512_madd_epi16(a, ones);
            let b = _mm512_madd_epi16(b, ones);
            _mm512_add_epi32(sum, _mm512_add_epi32(a, b))
        }
    }
    #[inline(always)]
    fn nonzero_i32(self, v: __m512i) -> u16 {
        // SAFETY: the token.
        unsafe { _mm512_test_epi32_mask(v, v) }
    }
    #[inline(always)]
    fn nonzero_bytes(self, v: __m512i) -> u64 {
        // SAFETY: the token.
        unsafe { _mm512_test_epi8_mask(v, v) }
    }
    #[inline(always)]
    fn above(self, v: __m512i, limit: __m512i) -> u16 {
        // SAFETY: the token.
        unsafe { _mm512_cmpgt_epi32_mask(v, limit) }
    }
    #[inline(always)]
    fn to_f32(self, v: __m512i) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    fn to_bytes(self, v: __m512) -> __m512i {
        // MINPS returns its second operand when either is NaN, so that NaN becomes 255.
        // SAFETY: the token.
        unsafe {
            let v = _mm512_max_ps(_mm512_min_ps(v, _mm512_set1_ps(255.0)), _mm512_setzero_ps());
            _mm512_cvtps_epi32(v)
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: __m512i) {
        // SAFETY: the token; the caller gives 16 writable bytes.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)) }
    }
    #[inline(always)]
    unsafe fn any_full_of_16(self, p: *const u8) -> bool {
        // SAFETY: the token; the caller gives 16 readable bytes.
        unsafe {
            let full = _mm_cmpeq_epi8(_mm_loadu_si128(p.cast()), _mm_set1_epi8(-1));
            _mm_movemask_epi8(full) != 0
        }
    }
    #[inline(always)]
    unsafe fn any_full_of_64(self, p: *const u8) -> bool {
        // SAFETY: the token; the caller gives 64 readable bytes.
        unsafe { _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(p.cast()), _mm512_set1_epi8(-1)) != 0 }
    }
    #[inline(always)]
    unsafe fn store_bytes4(self, p: *mut u8, mut v: [__m512; 4]) {
        // SAFETY: the token; the caller gives 64 writable bytes.
        unsafe {
            // MINPS returns its second operand when either is NaN, so that NaN becomes 255. Values
            // far below 0 are rounded to the smallest integer, and packing turns negative values
            // into 0.
            for v in &mut v {
                *v = _mm512_min_ps(*v, _mm512_set1_ps(255.0));
            }
            let [a, b, c, d] = v;
            let (a, b) = (_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
            let (c, d) = (_mm512_cvtps_epi32(c), _mm512_cvtps_epi32(d));
            // Each quarter holds four bytes of each vector.
            let (ab, cd) = (_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let all = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(ab, cd));
            _mm512_storeu_si512(p.cast(), all);
        }
    }
    #[inline(always)]
    fn sum_i32(self, v: __m512i) -> i32 {
        // SAFETY: the token.
        unsafe { _mm512_reduce_add_epi32(v) }
    }
    #[inline(always)]
    fn sum4_i32(self, [a, b, c, d]: [__m512i; 4]) -> [i32; 4] {
        // SAFETY: the token.
        unsafe {
            // In each quarter: a and b interleaved, then c and d, then all four.
            let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            let all =
                _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            let half =
                _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64::<1>(all));
            let sums =
                _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
            let mut result = [0; 4];
            _mm_storeu_si128(result.as_mut_ptr().cast(), sums);
            result
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> __m512i {
        // SAFETY: the token; the caller gives 16 readable bytes.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    fn interleave(self, [a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
        // SAFETY: the token.
        unsafe {
            let (low, high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
            let (low2, high2) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
            [
                _mm512_unpacklo_epi16(low, low2),
                _mm512_unpackhi_epi16(low, low2),
                _mm512_unpacklo_epi16(high, high2),
                _mm512_unpackhi_epi16(high, high2),
            ]
        }
    }
    #[inline(always)]
    unsafe fn compress_bytes(self, p: *mut u8, mask: u16, v: __m512i) {
        // SAFETY: the token; the caller gives 16 writable bytes.
        unsafe {
            let packed = _mm512_maskz_compress_epi32(mask, v);
            _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(packed));
        }
    }
    #[inline(always)]
    unsafe fn compress(self, p: *mut f32, mask: u16, v: __m512) {
        // Compresses in a register and stores the whole vector, because the memory form of compress
        // is microcoded on Zen 4.
        // SAFETY: the token; the caller gives 16 writable f32.
        unsafe { _mm512_storeu_ps(p, _mm512_maskz_compress_ps(mask, v)) }
    }
    #[inline(always)]
    unsafe fn compress_words(self, p: *mut u32, mask: u16, v: __m512i) {
        // SAFETY: the token; the caller gives 16 writable u32.
        unsafe { _mm512_storeu_si512(p.cast(), _mm512_maskz_compress_epi32(mask, v)) }
    }
    #[inline(always)]
    unsafe fn compress_shorts(self, p: *mut u16, mask: u16, v: __m512i) {
        // SAFETY: the token; the caller gives 16 writable u16.
        unsafe {
            let packed = _mm512_maskz_compress_epi32(mask, v);
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(packed));
        }
    }
    #[inline(always)]
    unsafe fn compress_line(
        self,
        index: *mut u16,
        value: *mut u8,
        mask: u64,
        line: *const u8,
        base: u16,
    ) {
        if !VBMI2 {
            // SAFETY: the caller's promise.
            return unsafe { compress_by_lanes(self, index, value, mask, line, base) };
        }
        let (low, high) = (mask as u32, (mask >> 32) as u32);
        // SAFETY: the token; the caller gives 64 readable bytes, 64 writable u16 and 64 writable
        // bytes, and at most 32 entries precede the second half's.
        unsafe {
            let bytes = _mm512_maskz_compress_epi8(mask, _mm512_loadu_si512(line.cast()));
            _mm512_storeu_si512(value.cast(), bytes);
            let base = _mm512_set1_epi16(base as i16);
            let lanes = _mm512_loadu_si512(SHORTS.as_ptr().cast());
            let first = _mm512_add_epi16(base, lanes);
            let second = _mm512_add_epi16(first, _mm512_set1_epi16(32));
            _mm512_storeu_si512(index.cast(), _mm512_maskz_compress_epi16(low, first));
            let index = index.add(low.count_ones() as usize);
            _mm512_storeu_si512(index.cast(), _mm512_maskz_compress_epi16(high, second));
        }
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
    unsafe fn gather(self, from: &[f32], index: __m512i) -> __m512 {
        // SAFETY: the token; the caller's indices are within `from`.
        unsafe { _mm512_i32gather_ps::<4>(index, from.as_ptr()) }
    }
    #[inline(always)]
    fn transpose_fours(self, [a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
        // SAFETY: the token.
        unsafe {
            let low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
            let high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
            let low2 = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
            let high2 = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
            [
                _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2)),
                _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_fours(self, p: *const f32, stride: usize) -> __m512 {
        // SAFETY: the token; the caller gives readable values.
        unsafe {
            let first = _mm512_castps128_ps512(_mm_loadu_ps(p));
            let second = _mm512_insertf32x4::<1>(first, _mm_loadu_ps(p.add(stride)));
            let third = _mm512_insertf32x4::<2>(second, _mm_loadu_ps(p.add(2 * stride)));
            _mm512_insertf32x4::<3>(third, _mm_loadu_ps(p.add(3 * stride)))
        }
    }
    #[inline(always)]
    unsafe fn store_fours(self, p: *mut f32, stride: usize, value: __m512) {
        // SAFETY: the token; the caller gives writable values.
        unsafe {
            _mm_storeu_ps(p, _mm512_castps512_ps128(value));
            _mm_storeu_ps(p.add(stride), _mm512_extractf32x4_ps::<1>(value));
            _mm_storeu_ps(p.add(2 * stride), _mm512_extractf32x4_ps::<2>(value));
            _mm_storeu_ps(p.add(3 * stride), _mm512_extractf32x4_ps::<3>(value));
        }
    }
    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_l2<T>(self, p: *const T) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
