//! Products of bytes with AVX2 alone. Its instruction sums two products in 16 bits, which saturates for
//! large bytes. A row is split so that no sum does: most words are small enough whole, and parts of the
//! others are multiplied on their own.

#[allow(clippy::wildcard_imports)] // a dozen intrinsics
use std::arch::x86_64::*;
use std::array::from_fn;

use super::LANES;

/// Proof that this CPU has AVX2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shorts(());

/// A part of a word that is multiplied on its own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rest {
    /// Position in the row.
    word: u32,
    bytes: u32,
}

/// The largest sum of bytes whose products with any signed bytes sum to 16 bits.
const MOST: u32 = 256;

/// The largest sum of two signed bytes' absolute values, likewise, with any unsigned bytes.
const MOST_SIGNED: i16 = 128;

/// The high bit of each byte of a word, which turns bytes around an offset of 128 into signed bytes.
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

    /// Splits a row into small bytes and a list of the rest. The products of small bytes of words 2k
    /// and 2k + 1 with any weights have sums of 16 bits. Returns the length of the list, or None if it
    /// would be longer than `most`.
    ///
    /// `small` has an entry for each word, and `rest` four more than `most`.
    #[inline(always)]
    #[allow(clippy::unused_self)] // the proof
    pub(crate) fn split(
        self,
        row: &[u32],
        small: &mut [u32],
        rest: &mut [Rest],
        most: usize,
    ) -> Option<usize> {
        assert_eq!(row.len(), small.len());
        let mut count = 0;
        for (part, words) in row.chunks(EIGHT).enumerate() {
            let (first, small) = (part * EIGHT, &mut small[part * EIGHT..][..words.len()]);
            // SAFETY: the token, and eight words.
            if words.len() == EIGHT && unsafe { copy_if_small(words, small) } {
                continue;
            }
            for (pair, (words, small)) in words.chunks(2).zip(small.chunks_mut(2)).enumerate() {
                small.copy_from_slice(words);
                // Without its high bit, a byte is below 128; without the next one too, below 64.
                for bits in [HIGH, HIGH >> 1] {
                    let [low, high] = sums_of_halves(small);
                    if low.max(high) <= MOST {
                        break;
                    }
                    for (i, word) in small.iter_mut().enumerate().filter(|(_, x)| **x & bits != 0) {
                        let at = (first + 2 * pair + i) as u32;
                        rest[count] = Rest { word: at, bytes: *word & bits };
                        count += 1;
                        *word &= !bits;
                    }
                }
                if count > most {
                    return None;
                }
            }
        }
        Some(count)
    }

    /// As [`Shorts::split`], for bytes around an offset of 128, which is subtracted. The products of
    /// the small signed bytes of one word with any weights plus 128 have sums of 16 bits. Returns the
    /// length of the list, and the sum of all signed bytes.
    ///
    /// `small` and `rest` have an entry for each word.
    #[inline(always)]
    #[allow(clippy::unused_self)] // the proof
    pub(crate) fn center(self, row: &[u32], small: &mut [u32], rest: &mut [Rest]) -> (usize, i32) {
        assert_eq!(row.len(), small.len());
        let (mut count, mut sum) = (0, 0);
        for (part, (words, small)) in row.chunks(EIGHT).zip(small.chunks_mut(EIGHT)).enumerate() {
            let mut eight = [HIGH; EIGHT];
            eight[..words.len()].copy_from_slice(words);
            // SAFETY: the token.
            let signed = unsafe { signed(&eight) };
            small.copy_from_slice(&signed.small[..words.len()]);
            sum += signed.sum;
            let mut large = signed.large;
            while large != 0 {
                let i = large.trailing_zeros() as usize;
                rest[count] = Rest { word: (part * EIGHT + i) as u32, bytes: signed.rest[i] };
                count += 1;
                large &= large - 1;
            }
        }
        (count, sum)
    }

    /// Multiplies the words of a list with V vectors of weights each, and adds the products to the
    /// sums. The words are signed bytes if SIGNED, and 128 is added to the weights.
    ///
    /// The weights of a word are `stride` words after those of the word before it.
    ///
    /// # Safety
    /// Every word of the list must have V readable vectors of weights. V vectors of sums must be
    /// writable.
    #[inline(always)]
    #[allow(clippy::unused_self)] // the proof
    pub(crate) unsafe fn add_rest<const SIGNED: bool, const V: usize>(
        self,
        rest: &[Rest],
        weights: *const u32,
        stride: usize,
        sums: *mut u32,
    ) {
        // SAFETY: the token, and the caller's promise.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut totals: [_; V] = from_fn(|v| load(sums.add(v * LANES)));
            for Rest { word, bytes } in rest {
                let weights = weights.add(*word as usize * stride);
                let x = _mm256_set1_epi32(*bytes as i32);
                for (v, totals) in totals.iter_mut().enumerate() {
                    for (total, w) in totals.iter_mut().zip(load(weights.add(v * LANES))) {
                        let products = products::<SIGNED>(x, biased::<SIGNED>(w));
                        *total = _mm256_add_epi32(*total, _mm256_madd_epi16(products, ones));
                    }
                }
            }
            for (v, totals) in totals.into_iter().enumerate() {
                store(sums.add(v * LANES), totals);
            }
        }
    }

    /// Multiplies the small bytes of R rows with V vectors of weights each, and adds the products to
    /// the sums, or to zero if `add` is false. The bytes are of [`Shorts::split`], or if SIGNED of
    /// [`Shorts::center`], and 128 is added to the weights.
    ///
    /// The weights of a word are `stride` words after those of the word before it, and the sums of a
    /// row as many after those of the row before it.
    ///
    /// # Safety
    /// The rows must have `words` words, which must have V readable vectors of weights. V vectors of
    /// sums must be writable for each row.
    #[inline(always)]
    #[allow(clippy::unused_self)] // the proof
    pub(crate) unsafe fn add_small<const SIGNED: bool, const R: usize, const V: usize>(
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
            let ones = _mm256_set1_epi16(1);
            let mut totals = [[[_mm256_setzero_si256(); 2]; V]; R];
            for (r, totals) in totals.iter_mut().enumerate().filter(|_| add) {
                for (v, total) in totals.iter_mut().enumerate() {
                    *total = load(sums.add(r * stride + v * LANES));
                }
            }
            for word in (0..words / 2 * 2).step_by(2) {
                if V == 1 {
                    // One of the four lines of a word is read, which hardware predicts too late.
                    for ahead in [AHEAD, AHEAD + 1] {
                        _mm_prefetch::<_MM_HINT_T0>(weights.wrapping_add(ahead * stride).cast());
                    }
                }
                for v in 0..V {
                    let w = [load(weights.add(v * LANES)), load(weights.add(stride + v * LANES))]
                        .map(|w| w.map(|w| biased::<SIGNED>(w)));
                    for (totals, row) in totals.iter_mut().zip(rows) {
                        let x: [_; 2] =
                            from_fn(|i| _mm256_set1_epi32(*row.get_unchecked(word + i) as i32));
                        for (half, total) in totals[v].iter_mut().enumerate() {
                            let first = products::<SIGNED>(x[0], w[0][half]);
                            let second = products::<SIGNED>(x[1], w[1][half]);
                            let both = if SIGNED {
                                let first = _mm256_madd_epi16(first, ones);
                                _mm256_add_epi32(first, _mm256_madd_epi16(second, ones))
                            } else {
                                _mm256_madd_epi16(_mm256_add_epi16(first, second), ones)
                            };
                            *total = _mm256_add_epi32(*total, both);
                        }
                    }
                }
                weights = weights.wrapping_add(2 * stride);
            }
            if words % 2 == 1 {
                for v in 0..V {
                    let w = load(weights.add(v * LANES)).map(|w| biased::<SIGNED>(w));
                    for (totals, row) in totals.iter_mut().zip(rows) {
                        let x = _mm256_set1_epi32(*row.get_unchecked(words - 1) as i32);
                        for (total, w) in totals[v].iter_mut().zip(w) {
                            let sums = _mm256_madd_epi16(products::<SIGNED>(x, w), ones);
                            *total = _mm256_add_epi32(*total, sums);
                        }
                    }
                }
            }
            store_all(totals, sums, stride);
        }
    }

    /// The products of whole words: even and odd bytes with 16 bits each, or of one row, for which that
    /// would convert the weights, lower and high bits. Otherwise as [`Shorts::add_small`].
    ///
    /// # Safety
    /// As [`Shorts::add_small`].
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
            let ones = _mm256_set1_epi16(1);
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
                            for x in x[0] {
                                let sums = _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), ones);
                                totals[0][v][half] = _mm256_add_epi32(totals[0][v][half], sums);
                            }
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
            store_all(totals, sums, stride);
        }
    }
}

/// The sums of the lower and of the upper two bytes of words.
fn sums_of_halves(words: &[u32]) -> [u32; 2] {
    const EVEN: u32 = 0x00ff_00ff;
    let sums = words.iter().map(|x| (x & EVEN) + (x >> 8 & EVEN)).sum::<u32>();
    [sums & 0xffff, sums >> 16]
}

/// Copies eight words, and returns whether the bytes of each two have products with sums of 16 bits.
///
/// # Safety
/// The CPU must have AVX2, and both slices must have eight words.
#[inline(always)]
unsafe fn copy_if_small(words: &[u32], out: &mut [u32]) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let x = _mm256_loadu_si256(words.as_ptr().cast());
        _mm256_storeu_si256(out.as_mut_ptr().cast(), x);
        let sums = _mm256_maddubs_epi16(x, _mm256_set1_epi8(1));
        let sums = _mm256_add_epi16(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
        let large = _mm256_cmpgt_epi16(sums, _mm256_set1_epi16(MOST as i16));
        _mm256_testz_si256(large, large) != 0
    }
}

/// Eight words around an offset of 128.
struct Signed {
    /// The words less 128 by byte, halved where their products may have sums of more than 16 bits.
    small: [u32; EIGHT],
    /// A mask of the words that are halved.
    large: i32,
    /// The other halves.
    rest: [u32; EIGHT],
    /// The sum of the signed bytes.
    sum: i32,
}

/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn signed(words: &[u32; EIGHT]) -> Signed {
    let (mut small, mut rest, mut sums) = ([0; EIGHT], [0; EIGHT], [0; EIGHT]);
    // SAFETY: the caller's promise, and eight words.
    unsafe {
        let one = _mm256_set1_epi8(1);
        let words = _mm256_loadu_si256(words.as_ptr().cast());
        let all = _mm256_xor_si256(words, _mm256_set1_epi32(HIGH as i32));
        // Bytes have no shift of their own.
        let half = _mm256_and_si256(_mm256_srli_epi16::<1>(words), _mm256_set1_epi8(0x7f));
        let half = _mm256_sub_epi8(half, _mm256_set1_epi8(64));
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(all), one);
        let large = _mm256_cmpgt_epi16(pairs, _mm256_set1_epi16(MOST_SIGNED));
        let fits = _mm256_cmpeq_epi32(large, _mm256_setzero_si256());
        let pairs = _mm256_maddubs_epi16(one, all);
        let store = |to: &mut [u32; EIGHT], x| _mm256_storeu_si256(to.as_mut_ptr().cast(), x);
        store(&mut small, _mm256_blendv_epi8(half, all, fits));
        store(&mut rest, _mm256_sub_epi8(all, half));
        store(&mut sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        let large = !_mm256_movemask_ps(_mm256_castsi256_ps(fits)) & 0xff;
        let sum = sums.iter().map(|sum| *sum as i32).sum();
        Signed { small, large, rest, sum }
    }
}

/// Sums of two products of bytes, which must fit 16 bits: of unsigned x and signed w, or the other
/// way round if SIGNED.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn products<const SIGNED: bool>(x: __m256i, w: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { if SIGNED { _mm256_maddubs_epi16(w, x) } else { _mm256_maddubs_epi16(x, w) } }
}

/// Signed bytes plus 128 if SIGNED.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn biased<const SIGNED: bool>(w: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { if SIGNED { _mm256_xor_si256(w, _mm256_set1_epi32(HIGH as i32)) } else { w } }
}

/// Stores the sums of R rows, which are `stride` words apart.
///
/// # Safety
/// The CPU must have AVX2, and V vectors be writable for each row.
#[inline(always)]
unsafe fn store_all<const R: usize, const V: usize>(
    totals: [[[__m256i; 2]; V]; R],
    sums: *mut u32,
    stride: usize,
) {
    for (r, totals) in totals.into_iter().enumerate() {
        for (v, total) in totals.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { store(sums.add(r * stride + v * LANES), total) }
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
