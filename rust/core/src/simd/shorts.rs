//! Products of bytes with AVX2 alone. Its instructions sum two products in 16 bits, which saturates
//! for large bytes of a row.

#[allow(clippy::wildcard_imports)] // a dozen intrinsics
use std::arch::x86_64::*;

use super::LANES;

/// Proof that this CPU has AVX2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shorts(());

/// The high bit of each byte of a word. Without it, sums of two products do not saturate, nor do those
/// of the high bits alone.
const HIGH: u32 = 0x8080_8080;

/// Words between the weights that are multiplied and those that are prefetched.
const AHEAD: usize = 8;

/// Words that are looked at together.
const EIGHT: usize = 8;

impl Shorts {
    /// The most rows whose sums by one vector, with their operands, fit the registers.
    pub(crate) const ROWS: usize = 4;

    /// # Safety
    /// The CPU must have AVX2.
    pub(super) unsafe fn new() -> Shorts {
        Shorts(())
    }

    /// Lists the words of a row that have a byte of 128 or more, and returns their number.
    ///
    /// `list` has an entry for each word.
    #[inline(always)]
    #[allow(clippy::unused_self)] // the proof
    pub(crate) fn list(self, row: &[u32], list: &mut [u16]) -> usize {
        assert!(row.len() <= list.len() && row.len() <= 1 << 16);
        let (mut count, whole) = (0, row.len() / EIGHT * EIGHT);
        for from in (0..whole).step_by(EIGHT) {
            // SAFETY: the token, and eight words.
            let mut high = unsafe {
                let words = _mm256_loadu_si256(row.as_ptr().add(from).cast());
                let high = _mm256_and_si256(words, _mm256_set1_epi32(HIGH as i32));
                let none = _mm256_cmpeq_epi32(high, _mm256_setzero_si256());
                !_mm256_movemask_ps(_mm256_castsi256_ps(none)) & 0xff
            };
            while high != 0 {
                list[count] = (from as u32 + high.trailing_zeros()) as u16;
                count += 1;
                high &= high - 1;
            }
        }
        for (word, x) in row.iter().enumerate().skip(whole) {
            if x & HIGH != 0 {
                list[count] = word as u16;
                count += 1;
            }
        }
        count
    }

    /// Multiplies the high bits of the words of a list with V vectors of signed bytes each.
    ///
    /// The weights of a word are `stride` words after those of the word before it.
    ///
    /// # Safety
    /// The row must have the words, which must have V readable vectors of weights. V vectors of sums
    /// must be writable.
    #[inline(always)]
    #[allow(clippy::unused_self)] // the proof
    pub(crate) unsafe fn multiply_high<const V: usize>(
        self,
        row: &[u32],
        list: &[u16],
        weights: *const u32,
        stride: usize,
        sums: *mut u32,
    ) {
        // SAFETY: the token, and the caller's promise.
        unsafe {
            let mut totals = [[_mm256_setzero_si256(); 2]; V];
            for word in list {
                let word = usize::from(*word);
                let weights = weights.add(word * stride);
                let x = _mm256_set1_epi32((*row.get_unchecked(word) & HIGH) as i32);
                for (v, totals) in totals.iter_mut().enumerate() {
                    let w = load(weights.add(v * LANES));
                    totals[0] = add_short(totals[0], x, w[0]);
                    totals[1] = add_short(totals[1], x, w[1]);
                }
            }
            for (v, totals) in totals.into_iter().enumerate() {
                store(sums.add(v * LANES), totals);
            }
        }
    }

    /// Multiplies the words of R rows, without their high bits, with V vectors of signed bytes each,
    /// and adds the products to the sums, or to zero if `add` is false.
    ///
    /// The weights of a word are `stride` words after those of the word before it, and the sums of a
    /// row as many after those of the row before it.
    ///
    /// # Safety
    /// The rows must have `words` words, which must have V readable vectors of weights. V vectors of
    /// sums must be writable for each row.
    #[inline(always)]
    #[allow(clippy::unused_self)] // the proof
    pub(crate) unsafe fn add_low<const R: usize, const V: usize>(
        self,
        add: bool,
        rows: &[&[u32]; R],
        words: usize,
        mut weights: *const u32,
        stride: usize,
        sums: *mut u32,
    ) {
        // SAFETY: the token, and the caller's promise.
        unsafe {
            let mut totals = [[[_mm256_setzero_si256(); 2]; V]; R];
            for (r, totals) in totals.iter_mut().enumerate().filter(|_| add) {
                for (v, total) in totals.iter_mut().enumerate() {
                    *total = load(sums.add(r * stride + v * LANES));
                }
            }
            let low = _mm256_set1_epi32(!HIGH as i32);
            for word in 0..words {
                if V == 1 {
                    // One of the four lines of a word is read, which hardware predicts too late.
                    let ahead = weights.wrapping_add(AHEAD * stride);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                }
                let mut x = [_mm256_setzero_si256(); R];
                for (x, row) in x.iter_mut().zip(rows) {
                    let word = _mm256_set1_epi32(*row.get_unchecked(word) as i32);
                    *x = _mm256_and_si256(word, low);
                }
                for v in 0..V {
                    let w = load(weights.add(v * LANES));
                    for (total, x) in totals.iter_mut().zip(x) {
                        total[v][0] = add_short(total[v][0], x, w[0]);
                        total[v][1] = add_short(total[v][1], x, w[1]);
                    }
                }
                weights = weights.wrapping_add(stride);
            }
            for (r, totals) in totals.into_iter().enumerate() {
                for (v, total) in totals.into_iter().enumerate() {
                    store(sums.add(r * stride + v * LANES), total);
                }
            }
        }
    }

    /// Multiplies whole words, otherwise as [`Shorts::add_low`]: even and odd bytes with 16 bits each,
    /// or of one row lower and high bits.
    ///
    /// # Safety
    /// As [`Shorts::add_low`].
    #[inline(always)]
    #[allow(clippy::unused_self)] // the proof
    pub(crate) unsafe fn multiply<const R: usize, const V: usize>(
        self,
        rows: &[&[u32]; R],
        words: usize,
        mut weights: *const u32,
        stride: usize,
        sums: *mut u32,
    ) {
        // SAFETY: the token, and the caller's promise.
        unsafe {
            let mut totals = [[[_mm256_setzero_si256(); 2]; V]; R];
            for word in 0..words {
                let mut x = [[_mm256_setzero_si256(); 2]; R];
                for (x, row) in x.iter_mut().zip(rows) {
                    let word = _mm256_set1_epi32(*row.get_unchecked(word) as i32);
                    *x = if R == 1 {
                        let high = _mm256_set1_epi32(HIGH as i32);
                        [_mm256_andnot_si256(high, word), _mm256_and_si256(high, word)]
                    } else {
                        let even = _mm256_and_si256(word, _mm256_set1_epi16(0xff));
                        [even, _mm256_srli_epi16::<8>(word)]
                    };
                }
                for v in 0..V {
                    for (half, w) in load(weights.add(v * LANES)).into_iter().enumerate() {
                        if R == 1 {
                            // Weights would be split for one row alone.
                            let total = &mut totals[0][v][half];
                            *total = add_short(*total, x[0][0], w);
                            *total = add_short(*total, x[0][1], w);
                            continue;
                        }
                        let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w));
                        let odd = _mm256_srai_epi16::<8>(w);
                        for (total, x) in totals.iter_mut().zip(x) {
                            let even = _mm256_madd_epi16(x[0], even);
                            let both = _mm256_add_epi32(even, _mm256_madd_epi16(x[1], odd));
                            total[v][half] = _mm256_add_epi32(total[v][half], both);
                        }
                    }
                }
                weights = weights.wrapping_add(stride);
            }
            for (r, totals) in totals.into_iter().enumerate() {
                for (v, total) in totals.into_iter().enumerate() {
                    store(sums.add(r * stride + v * LANES), total);
                }
            }
        }
    }
}

/// A vector: two registers.
///
/// # Safety
/// The CPU must have AVX2, and `p` be valid for reading 16 words.
#[inline(always)]
unsafe fn load(p: *const u32) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(LANES / 2).cast())] }
}

/// # Safety
/// The CPU must have AVX2, and `p` be valid for writing 16 words.
#[inline(always)]
unsafe fn store(p: *mut u32, [low, high]: [__m256i; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        _mm256_storeu_si256(p.cast(), low);
        _mm256_storeu_si256(p.add(LANES / 2).cast(), high);
    }
}

/// Adds the products of bytes of which two fit 16 bits.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn add_short(sum: __m256i, x: __m256i, w: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let pairs = _mm256_maddubs_epi16(x, w);
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}
