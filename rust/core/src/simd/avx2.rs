//! AVX2 with FMA, with and without AVX-VNNI: a vector is two registers.

#[allow(clippy::wildcard_imports)] // three dozen intrinsics
use std::arch::x86_64::*;

use super::compress::COMPRESS;
use super::shorts::Shorts;
use super::{Kernel, Simd};

/// Proof that this CPU has AVX2, FMA, BMI1, BMI2 and POPCNT; and AVX-VNNI if `VNNI`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2<const VNNI: bool>(());

impl Avx2<true> {
    /// The token for kernels that do not multiply bytes.
    pub(super) fn without_vnni(self) -> Avx2<false> {
        let Avx2(proof) = self;
        Avx2(proof)
    }
}

impl<const VNNI: bool> Avx2<VNNI> {
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
            && (!VNNI || is_x86_feature_detected!("avxvnni"));
        has.then_some(Avx2(()))
    }
}

/// One register of [`Simd::dot_bytes`].
///
/// # Safety
/// The CPU must have AVX2, and AVX-VNNI if `VNNI`.
#[inline(always)]
unsafe fn dot_bytes<const VNNI: bool>(sum: __m256i, x: __m256i, w: __m256i) -> __m256i {
    // SAFETY: the caller's promise. Without VNNI, the even and the odd bytes of x are multiplied
    // separately: a product of u8 and i8 fits 16 bits, but the sum of two products does not.
    unsafe {
        if VNNI {
            return _mm256_dpbusd_avx_epi32(sum, x, w);
        }
        let even = _mm256_set1_epi16(0x00ff);
        let ones = _mm256_set1_epi16(1);
        let a = _mm256_maddubs_epi16(_mm256_and_si256(x, even), w);
        let b = _mm256_maddubs_epi16(_mm256_andnot_si256(even, x), w);
        let a = _mm256_madd_epi16(a, ones);
        let b = _mm256_madd_epi16(b, ones);
        _mm256_add_epi32(sum, _mm256_add_epi32(a, b))
    }
}

/// Two transposed 4x4 matrices, one in each half of the registers.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn transpose_fours([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
        let high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
        let low2 = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
        let high2 = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
        [
            _mm256_castpd_ps(_mm256_unpacklo_pd(low, low2)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(low, low2)),
            _mm256_castpd_ps(_mm256_unpacklo_pd(high, high2)),
            _mm256_castpd_ps(_mm256_unpackhi_pd(high, high2)),
        ]
    }
}

/// Stores sixteen lanes, each from 0 to 255, as bytes.
///
/// # Safety
/// The CPU must have AVX2, and `p` be valid for writing 16 bytes.
#[inline(always)]
unsafe fn store_low_bytes(p: *mut u8, low: __m256i, high: __m256i) {
    // SAFETY: the caller's promise.
    unsafe {
        // Packing works within halves of registers; the permutation restores the order of the
        // quarters.
        let words = _mm256_packs_epi32(low, high);
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        _mm_storeu_si128(p.cast(), _mm_packus_epi16(low, high));
    }
}

/// One register of [`Simd::interleave`].
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn interleave([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
        let (low2, high2) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
        [
            _mm256_unpacklo_epi16(low, low2),
            _mm256_unpackhi_epi16(low, low2),
            _mm256_unpacklo_epi16(high, high2),
            _mm256_unpackhi_epi16(high, high2),
        ]
    }
}

/// Eight lanes rounded and clamped to 0 to 255: see [`Simd::to_bytes`].
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn rounded(v: __m256) -> __m256i {
    // MINPS returns its second operand when either is NaN, so that NaN becomes 255.
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm256_max_ps(_mm256_min_ps(v, _mm256_set1_ps(255.0)), _mm256_setzero_ps());
        _mm256_cvtps_epi32(v)
    }
}

/// Two vectors as bytes, which are those of [`rounded`]. Smaller values than 0 need no clamp, because
/// packing saturates them.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn packed_bytes(a: (__m256, __m256), b: (__m256, __m256)) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        // The order of operands is that of `rounded`, so that NaN becomes 255.
        let most = _mm256_set1_ps(255.0);
        let w = _mm256_cvtps_epi32(_mm256_min_ps(a.0, most));
        let x = _mm256_cvtps_epi32(_mm256_min_ps(a.1, most));
        let y = _mm256_cvtps_epi32(_mm256_min_ps(b.0, most));
        let z = _mm256_cvtps_epi32(_mm256_min_ps(b.1, most));
        let bytes = _mm256_packus_epi16(_mm256_packs_epi32(w, x), _mm256_packs_epi32(y, z));
        // Packing takes the lower halves of registers first.
        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
    }
}

/// Packs the low halves of the lanes whose bit is set to the front and stores eight.
///
/// # Safety
/// The caller holds an `Avx2`, `mask` is below 256, and `p` is valid for writing 8 u16.
#[inline(always)]
unsafe fn store_shorts(p: *mut u16, v: __m256i, mask: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let order = _mm256_loadu_si256(COMPRESS[mask].as_ptr().cast());
        let packed = _mm256_permutevar8x32_epi32(v, order);
        let packed = _mm256_and_si256(packed, _mm256_set1_epi32(0xffff));
        let (low, high) = (_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
        _mm_storeu_si128(p.cast(), _mm_packus_epi32(low, high));
    }
}

/// Two masks for `maskload` that select the first `n` of sixteen lanes.
#[inline(always)]
unsafe fn partial(n: usize) -> (__m256i, __m256i) {
    // SAFETY: the caller holds an `Avx2`.
    unsafe {
        let count = _mm256_set1_epi32(n as i32);
        let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
        (_mm256_cmpgt_epi32(count, low), _mm256_cmpgt_epi32(count, high))
    }
}

/// Lane masks of the eight bits of `mask`.
#[inline(always)]
unsafe fn spread(mask: u16) -> __m256 {
    // SAFETY: the caller holds an `Avx2`.
    unsafe {
        let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        let set = _mm256_and_si256(_mm256_set1_epi32(i32::from(mask)), bit);
        _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit))
    }
}

// Every SAFETY below that says "the token" means: `self` exists, so the CPU has the features.
impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F32 = (__m256, __m256);
    type I32 = (__m256i, __m256i);
    const GROUP: usize = 6;
    const DOT_PRODUCTS: bool = VNNI;
    const SHORTS: bool = !VNNI;
    const TWO_PANELS: bool = false;

    #[inline(always)]
    fn whole_panel(rows: usize) -> bool {
        // A vector has two of the 16 registers: one row by four vectors fits, or six rows by one.
        rows == 1
    }

    #[inline(always)]
    fn shorts(self) -> Option<Shorts> {
        // SAFETY: the token.
        (!VNNI).then(|| unsafe { Shorts::new() })
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,popcnt")]
        #[inline(never)]
        fn without<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        #[target_feature(enable = "avx2,avxvnni,fma,bmi1,bmi2,popcnt")]
        #[inline(never)]
        fn with<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        // SAFETY: the token.
        unsafe { if VNNI { with(self, kernel) } else { without(self, kernel) } }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F32 {
        // SAFETY: the token.
        unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F32 {
        // SAFETY: the token; the caller gives 16 readable f32.
        unsafe { (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::F32 {
        // SAFETY: the token; masked-off lanes are not accessed.
        unsafe {
            let (low, high) = partial(n);
            (_mm256_maskload_ps(p, low), _mm256_maskload_ps(p.wrapping_add(8), high))
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::F32 {
        // SAFETY: the token; the caller gives 16 readable bytes.
        unsafe {
            let low = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            let high = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast()));
            (_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::F32) {
        // SAFETY: the token; the caller gives 16 writable f32.
        unsafe {
            _mm256_storeu_ps(p, v.0);
            _mm256_storeu_ps(p.add(8), v.1);
        }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::F32) {
        // SAFETY: the token; masked-off lanes are not accessed.
        unsafe {
            let (low, high) = partial(n);
            _mm256_maskstore_ps(p, low, v.0);
            _mm256_maskstore_ps(p.wrapping_add(8), high, v.1);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: the token.
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: the token.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        // SAFETY: the token.
        unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn at_least(self, v: Self::F32, low: Self::F32) -> Self::F32 {
        // MAXPS returns its second operand when either is NaN, so v comes second.
        // SAFETY: the token.
        unsafe { (_mm256_max_ps(low.0, v.0), _mm256_max_ps(low.1, v.1)) }
    }
    #[inline(always)]
    fn at_most(self, v: Self::F32, high: Self::F32) -> Self::F32 {
        // SAFETY: the token; operand order as in `at_least`.
        unsafe { (_mm256_min_ps(high.0, v.0), _mm256_min_ps(high.1, v.1)) }
    }
    #[inline(always)]
    fn nonzero(self, v: Self::F32) -> u16 {
        // SAFETY: the token.
        unsafe {
            let zero = _mm256_setzero_ps();
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(v.0, zero));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(v.1, zero));
            (low | (high << 8)) as u16
        }
    }
    #[inline(always)]
    fn not_at_most(self, v: Self::F32, limit: Self::F32) -> u16 {
        // SAFETY: the token.
        unsafe {
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(v.0, limit.0));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(v.1, limit.1));
            (low | (high << 8)) as u16
        }
    }
    #[inline(always)]
    fn keep(self, mask: u16, v: Self::F32) -> Self::F32 {
        // SAFETY: the token.
        unsafe { (_mm256_and_ps(spread(mask & 0xff), v.0), _mm256_and_ps(spread(mask >> 8), v.1)) }
    }
    #[inline(always)]
    fn sum(self, v: Self::F32) -> f32 {
        // SAFETY: the token.
        unsafe {
            let eight = _mm256_add_ps(v.0, v.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Self::I32 {
        // SAFETY: the token.
        unsafe { (_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn load_i32(self, p: *const u32) -> Self::I32 {
        // SAFETY: the token; the caller gives 16 readable u32.
        unsafe { (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())) }
    }
    #[inline(always)]
    unsafe fn store_i32(self, p: *mut u32, v: Self::I32) {
        // SAFETY: the token; the caller gives 16 writable u32.
        unsafe {
            _mm256_storeu_si256(p.cast(), v.0);
            _mm256_storeu_si256(p.add(8).cast(), v.1);
        }
    }
    #[inline(always)]
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32 {
        // SAFETY: the token.
        unsafe { (_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }
    #[inline(always)]
    fn dot_bytes(self, sum: Self::I32, x: Self::I32, w: Self::I32) -> Self::I32 {
        // SAFETY: the token.
        unsafe { (dot_bytes::<VNNI>(sum.0, x.0, w.0), dot_bytes::<VNNI>(sum.1, x.1, w.1)) }
    }
    #[inline(always)]
    fn nonzero_i32(self, v: Self::I32) -> u16 {
        // SAFETY: the token.
        unsafe {
            let zero = _mm256_setzero_si256();
            let low = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(v.0, zero)));
            let high = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(v.1, zero)));
            !((low | (high << 8)) as u16)
        }
    }
    #[inline(always)]
    fn nonzero_bytes(self, v: Self::I32) -> u64 {
        // SAFETY: the token.
        unsafe {
            let zero = _mm256_setzero_si256();
            let low = _mm256_movemask_epi8(_mm256_cmpeq_epi8(v.0, zero)) as u32;
            let high = _mm256_movemask_epi8(_mm256_cmpeq_epi8(v.1, zero)) as u32;
            !(u64::from(low) | (u64::from(high) << 32))
        }
    }
    #[inline(always)]
    fn above(self, v: Self::I32, limit: Self::I32) -> u16 {
        // SAFETY: the token.
        unsafe {
            let low = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(v.0, limit.0)));
            let high = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(v.1, limit.1)));
            (low | (high << 8)) as u16
        }
    }
    #[inline(always)]
    fn to_f32(self, v: Self::I32) -> Self::F32 {
        // SAFETY: the token.
        unsafe { (_mm256_cvtepi32_ps(v.0), _mm256_cvtepi32_ps(v.1)) }
    }
    #[inline(always)]
    fn to_bytes(self, v: Self::F32) -> Self::I32 {
        // SAFETY: the token.
        unsafe { (rounded(v.0), rounded(v.1)) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: Self::I32) {
        // SAFETY: the token; the caller gives 16 writable bytes.
        unsafe { store_low_bytes(p, v.0, v.1) }
    }
    #[inline(always)]
    unsafe fn store_bytes4(self, p: *mut u8, v: [Self::F32; 4]) {
        let [a, b, c, d] = v;
        // SAFETY: the token; the caller gives 64 writable bytes.
        unsafe {
            _mm256_storeu_si256(p.cast(), packed_bytes(a, b));
            _mm256_storeu_si256(p.add(32).cast(), packed_bytes(c, d));
        }
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
        unsafe {
            let full = _mm256_set1_epi8(-1);
            let low = _mm256_cmpeq_epi8(_mm256_loadu_si256(p.cast()), full);
            let high = _mm256_cmpeq_epi8(_mm256_loadu_si256(p.add(32).cast()), full);
            _mm256_movemask_epi8(_mm256_or_si256(low, high)) != 0
        }
    }
    #[inline(always)]
    fn sum_i32(self, v: Self::I32) -> i32 {
        // SAFETY: the token.
        unsafe {
            let eight = _mm256_add_epi32(v.0, v.1);
            let low = _mm256_castsi256_si128(eight);
            let four = _mm_add_epi32(low, _mm256_extracti128_si256::<1>(eight));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b11_10_11_10>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b01_01_01_01>(two)))
        }
    }
    #[inline(always)]
    fn sum4_i32(self, v: [Self::I32; 4]) -> [i32; 4] {
        // SAFETY: the token.
        unsafe {
            // In each half: a and b interleaved, then c and d, then all four.
            let a = _mm256_add_epi32(v[0].0, v[0].1);
            let b = _mm256_add_epi32(v[1].0, v[1].1);
            let c = _mm256_add_epi32(v[2].0, v[2].1);
            let d = _mm256_add_epi32(v[3].0, v[3].1);
            let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            let all =
                _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
            let sums =
                _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
            let mut result = [0; 4];
            _mm_storeu_si128(result.as_mut_ptr().cast(), sums);
            result
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> Self::I32 {
        // SAFETY: the token; the caller gives 16 readable bytes.
        unsafe {
            let low = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            (low, _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast())))
        }
    }
    #[inline(always)]
    fn interleave(self, [a, b, c, d]: [Self::I32; 4]) -> [Self::I32; 4] {
        // SAFETY: the token.
        let (first, second) =
            unsafe { (interleave([a.0, b.0, c.0, d.0]), interleave([a.1, b.1, c.1, d.1])) };
        let [a, b, c, d] = first;
        let [e, f, g, h] = second;
        [(a, e), (b, f), (c, g), (d, h)]
    }
    #[inline(always)]
    unsafe fn compress_bytes(self, p: *mut u8, mask: u16, v: Self::I32) {
        let mut packed = [0.0_f32; 16];
        // SAFETY: the token; `packed` has space for 16 values of 32 bits; the caller gives 16
        // writable bytes.
        unsafe {
            let v = (_mm256_castsi256_ps(v.0), _mm256_castsi256_ps(v.1));
            self.compress(packed.as_mut_ptr(), mask, v);
            let low = _mm256_loadu_si256(packed.as_ptr().cast());
            let high = _mm256_loadu_si256(packed.as_ptr().add(8).cast());
            let byte = _mm256_set1_epi32(0xff);
            let (low, high) = (_mm256_and_si256(low, byte), _mm256_and_si256(high, byte));
            store_low_bytes(p, low, high);
        }
    }
    #[inline(always)]
    unsafe fn compress(self, p: *mut f32, mask: u16, v: Self::F32) {
        let (low, high) = (usize::from(mask & 0xff), usize::from(mask >> 8));
        // SAFETY: the token; at most 8 + 8 floats are written from p on, and the caller gives 16.
        unsafe {
            let order = _mm256_loadu_si256(COMPRESS[low].as_ptr().cast());
            _mm256_storeu_ps(p, _mm256_permutevar8x32_ps(v.0, order));
            let order = _mm256_loadu_si256(COMPRESS[high].as_ptr().cast());
            let p = p.add(low.count_ones() as usize);
            _mm256_storeu_ps(p, _mm256_permutevar8x32_ps(v.1, order));
        }
    }
    #[inline(always)]
    unsafe fn compress_words(self, p: *mut u32, mask: u16, v: Self::I32) {
        // SAFETY: the token; lanes are moved as they are, and the caller gives 16 writable u32.
        unsafe {
            let v = (_mm256_castsi256_ps(v.0), _mm256_castsi256_ps(v.1));
            self.compress(p.cast(), mask, v);
        }
    }
    #[inline(always)]
    unsafe fn compress_shorts(self, p: *mut u16, mask: u16, v: Self::I32) {
        let (low, high) = (usize::from(mask & 0xff), usize::from(mask >> 8));
        // SAFETY: the token; at most 8 + 8 integers are written from p on, and the caller gives 16.
        unsafe {
            store_shorts(p, v.0, low);
            store_shorts(p.add(low.count_ones() as usize), v.1, high);
        }
    }
    #[inline(always)]
    unsafe fn compress_index(self, p: *mut u32, mask: u16, base: u32) {
        let (low, high) = (usize::from(mask & 0xff), usize::from(mask >> 8));
        // SAFETY: the token; at most 8 + 8 integers are written from p on, and the caller gives 16.
        unsafe {
            let order = _mm256_loadu_si256(COMPRESS[low].as_ptr().cast());
            let first = _mm256_add_epi32(order, _mm256_set1_epi32(base as i32));
            _mm256_storeu_si256(p.cast(), first);
            let order = _mm256_loadu_si256(COMPRESS[high].as_ptr().cast());
            let second = _mm256_add_epi32(order, _mm256_set1_epi32(base as i32 + 8));
            _mm256_storeu_si256(p.add(low.count_ones() as usize).cast(), second);
        }
    }
    #[inline(always)]
    unsafe fn gather(self, from: &[f32], index: Self::I32) -> Self::F32 {
        // SAFETY: the token; the caller's indices are within `from`.
        unsafe {
            let low = _mm256_i32gather_ps::<4>(from.as_ptr(), index.0);
            (low, _mm256_i32gather_ps::<4>(from.as_ptr(), index.1))
        }
    }
    #[inline(always)]
    fn transpose_fours(self, rows: [Self::F32; 4]) -> [Self::F32; 4] {
        // SAFETY: the token.
        let (low, high) = unsafe {
            (transpose_fours(rows.map(|row| row.0)), transpose_fours(rows.map(|row| row.1)))
        };
        std::array::from_fn(|c| (low[c], high[c]))
    }
    #[inline(always)]
    unsafe fn load_fours(self, p: *const f32, stride: usize) -> Self::F32 {
        // SAFETY: the token; the caller gives readable values.
        unsafe {
            let [a, b, c, d] = std::array::from_fn(|i| _mm_loadu_ps(p.add(i * stride)));
            (_mm256_set_m128(b, a), _mm256_set_m128(d, c))
        }
    }
    #[inline(always)]
    unsafe fn store_fours(self, p: *mut f32, stride: usize, (low, high): Self::F32) {
        // SAFETY: the token; the caller gives writable values.
        unsafe {
            _mm_storeu_ps(p, _mm256_castps256_ps128(low));
            _mm_storeu_ps(p.add(stride), _mm256_extractf128_ps::<1>(low));
            _mm_storeu_ps(p.add(2 * stride), _mm256_castps256_ps128(high));
            _mm_storeu_ps(p.add(3 * stride), _mm256_extractf128_ps::<1>(high));
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
