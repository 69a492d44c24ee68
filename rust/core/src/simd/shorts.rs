//! Products of bytes with AVX2 alone. Its instruction sums two products in 16 bits, which saturates for
//! large bytes. A row is split so that no sum does: most words are small enough whole, and parts of the
//! others are multiplied on their own.

#[allow(clippy::wildcard_imports)] // a dozen intrinsics
use std::arch::x86_64::*;
use std::array::from_fn;

use super::LANES;
use super::compress::COMPRESS;

/// Proof that this CPU has AVX2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shorts(());

/// A part of a word that is multiplied on its own.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Rest {
    /// Position in the row.
    word: u32,
    bytes: u32,
}

/// The result of [`Shorts::center`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Centered {
    /// The length of the list.
    pub(crate) length: usize,
    /// The sum of all signed bytes.
    pub(crate) sum: i32,
    /// Whether the products of words 2k and 2k + 1 together have sums of 16 bits.
    pub(crate) joined: bool,
}

/// The largest sum of bytes whose products with any signed bytes sum to 16 bits.
const MOST: i16 = 256;

/// The largest sum of positive signed bytes, and of the absolute values of negative ones, whose products
/// with any unsigned bytes sum to 16 bits.
const MOST_SIGNED: i16 = 128;

/// The high bit of each byte of a word, which turns bytes around an offset of 128 into signed bytes.
const HIGH: u32 = 0x8080_8080;

/// Words between the weights that are multiplied and those that are prefetched.
const AHEAD: usize = 8;

/// Words that are looked at together.
const EIGHT: usize = 8;

/// A mask of eight words.
const ALL: i32 = 0xff;

/// A mask of words 2k + 1.
const SECOND: i32 = 0xaa;

impl Shorts {
    /// The most rows whose sums by one vector, with their operands, fit the registers.
    pub(crate) const ROWS: usize = 4;

    /// The room that a list needs beyond its length: eight words add at most sixteen entries, and eight
    /// are written at a time.
    pub(crate) const MORE: usize = 2 * EIGHT;

    /// # Safety
    /// The CPU must have AVX2.
    pub(super) unsafe fn new() -> Shorts {
        Shorts(())
    }

    /// Splits a row into small bytes and a list of the rest. The products of small bytes of words 2k
    /// and 2k + 1 with any weights have sums of 16 bits. Returns the length of the list, or None if it
    /// would be longer than `most`.
    ///
    /// `small` has an entry for each word, and `rest` [`Shorts::MORE`] more than `most`.
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
        let mut list = List { rest, length: 0 };
        for (part, (words, small)) in row.chunks(EIGHT).zip(small.chunks_mut(EIGHT)).enumerate() {
            // SAFETY: the token, and eight words at most.
            unsafe {
                let mut x = load_eight(words, 0);
                // Without its high bit, a byte is below 128; without the next one too, below 64.
                for bits in [HIGH, HIGH >> 1] {
                    let sums = _mm256_maddubs_epi16(x, _mm256_set1_epi8(1));
                    let fits = fit(of_pairs(sums), MOST);
                    if mask(fits) == ALL {
                        break;
                    }
                    let bits = _mm256_and_si256(x, _mm256_set1_epi32(bits as i32));
                    let large = _mm256_andnot_si256(fits, bits);
                    let none = _mm256_cmpeq_epi32(large, _mm256_setzero_si256());
                    list.add(part * EIGHT, !mask(none) & ALL, large);
                    x = _mm256_xor_si256(x, large);
                }
                store_eight(x, small);
            }
            if list.length > most {
                return None;
            }
        }
        Some(list.length)
    }

    /// As [`Shorts::split`], for bytes around an offset of 128, which is subtracted. The products of
    /// the small signed bytes of one word with any weights plus 128 have sums of 16 bits. So have those
    /// of words 2k and 2k + 1 together, if at most `most` words had to be moved to the list for that.
    ///
    /// `small` has an entry for each word. `rest` has one for each word, `most` and [`Shorts::MORE`] more.
    #[inline(always)]
    #[allow(clippy::unused_self)] // the proof
    pub(crate) fn center(
        self,
        row: &[u32],
        small: &mut [u32],
        rest: &mut [Rest],
        most: usize,
    ) -> Centered {
        assert_eq!(row.len(), small.len());
        let (mut list, mut moved) = (List { rest, length: 0 }, 0);
        // SAFETY: the token, and eight words at most.
        unsafe {
            let (ones, high) = (_mm256_set1_epi8(1), _mm256_set1_epi32(HIGH as i32));
            let mut sums = _mm256_setzero_si256();
            for (part, (words, small)) in row.chunks(EIGHT).zip(small.chunks_mut(EIGHT)).enumerate()
            {
                let words = load_eight(words, HIGH);
                let all = _mm256_xor_si256(words, high);
                let pairs = _mm256_maddubs_epi16(ones, all);
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                // Bytes have no shift of their own.
                let half = _mm256_andnot_si256(high, _mm256_srli_epi16::<1>(words));
                let half = _mm256_sub_epi8(half, _mm256_set1_epi8(64));
                let fits = fit(sums_by_sign::<false>(all), MOST_SIGNED);
                list.add(part * EIGHT, !mask(fits) & ALL, _mm256_sub_epi8(all, half));
                let mut x = _mm256_blendv_epi8(half, all, fits);
                if moved <= most {
                    let fits = fit(sums_by_sign::<true>(x), MOST_SIGNED);
                    let second = _mm256_and_si256(x, _mm256_set1_epi64x(!0 << 32));
                    let large = _mm256_andnot_si256(fits, second);
                    let which = !mask(fits) & SECOND;
                    list.add(part * EIGHT, which, large);
                    moved += which.count_ones() as usize;
                    x = _mm256_xor_si256(x, large);
                }
                store_eight(x, small);
            }
            Centered { length: list.length, sum: sum_of_eight(sums), joined: moved <= most }
        }
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
    /// [`Shorts::center`], and 128 is added to the weights. If JOINED, the products of two words have
    /// sums of 16 bits, as those of [`Shorts::split`] and [`Centered::joined`] have.
    ///
    /// The weights of a word are `stride` words after those of the word before it, and the sums of a
    /// row as many after those of the row before it.
    ///
    /// # Safety
    /// The rows must have `words` words, which must have V readable vectors of weights. V vectors of
    /// sums must be writable for each row.
    #[inline(always)]
    #[allow(clippy::unused_self)] // the proof
    pub(crate) unsafe fn add_small<
        const SIGNED: bool,
        const JOINED: bool,
        const R: usize,
        const V: usize,
    >(
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
                            let both = if JOINED {
                                _mm256_madd_epi16(_mm256_add_epi16(first, second), ones)
                            } else {
                                let first = _mm256_madd_epi16(first, ones);
                                _mm256_add_epi32(first, _mm256_madd_epi16(second, ones))
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

/// A list of the parts of a row that are multiplied on their own.
struct List<'a> {
    rest: &'a mut [Rest],
    length: usize,
}

impl List<'_> {
    /// Adds those of eight words that are in the mask. There must be room for all eight.
    ///
    /// # Safety
    /// The CPU must have AVX2.
    #[inline(always)]
    unsafe fn add(&mut self, first: usize, which: i32, words: __m256i) {
        let rest = &mut self.rest[self.length..][..EIGHT];
        // SAFETY: the caller's promise, and eight entries of two words.
        unsafe {
            let order = _mm256_loadu_si256(COMPRESS[which as usize].as_ptr().cast());
            let at = _mm256_add_epi32(order, _mm256_set1_epi32(first as i32));
            let words = _mm256_permutevar8x32_epi32(words, order);
            let (low, high) = (_mm256_unpacklo_epi32(at, words), _mm256_unpackhi_epi32(at, words));
            let rest = rest.as_mut_ptr();
            _mm256_storeu_si256(rest.cast(), _mm256_permute2x128_si256::<0x20>(low, high));
            let last = _mm256_permute2x128_si256::<0x31>(low, high);
            _mm256_storeu_si256(rest.add(EIGHT / 2).cast(), last);
        }
        self.length += which.count_ones() as usize;
    }
}

/// Eight words, of which those that are missing are `fill`.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn load_eight(words: &[u32], fill: u32) -> __m256i {
    let mut eight = [fill; EIGHT];
    let words = if words.len() == EIGHT {
        words
    } else {
        eight[..words.len()].copy_from_slice(words);
        &eight
    };
    // SAFETY: the caller's promise, and eight words.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// Stores the first of eight words.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn store_eight(x: __m256i, to: &mut [u32]) {
    let mut eight = [0; EIGHT];
    // SAFETY: the caller's promise, and eight words.
    unsafe {
        if to.len() == EIGHT {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), x);
        } else {
            _mm256_storeu_si256(eight.as_mut_ptr().cast(), x);
            to.copy_from_slice(&eight[..to.len()]);
        }
    }
}

/// For each two signed bytes, the larger of two sums: of the positive bytes, and of the absolute values
/// of the negative ones. If PAIRS, the sums are of words 2k and 2k + 1 together.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn sums_by_sign<const PAIRS: bool>(x: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let (zero, ones) = (_mm256_setzero_si256(), _mm256_set1_epi8(1));
        let positive = _mm256_maddubs_epi16(_mm256_max_epi8(x, zero), ones);
        let negative = _mm256_abs_epi8(_mm256_min_epi8(x, zero));
        let negative = _mm256_maddubs_epi16(negative, ones);
        if PAIRS {
            _mm256_max_epi16(of_pairs(positive), of_pairs(negative))
        } else {
            _mm256_max_epi16(positive, negative)
        }
    }
}

/// Adds the sums of words 2k and 2k + 1. Both get the result.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn of_pairs(sums: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_add_epi16(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums)) }
}

/// The words whose sums are all at most `most`.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn fit(sums: __m256i, most: i16) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let large = _mm256_cmpgt_epi16(sums, _mm256_set1_epi16(most));
        _mm256_cmpeq_epi32(large, _mm256_setzero_si256())
    }
}

/// The sign bit of each word.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn mask(words: __m256i) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_movemask_ps(_mm256_castsi256_ps(words)) }
}

/// The sum of eight lanes.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn sum_of_eight(x: __m256i) -> i32 {
    let mut all = [0_i32; EIGHT];
    // SAFETY: the caller's promise, and eight numbers.
    unsafe { _mm256_storeu_si256(all.as_mut_ptr().cast(), x) };
    all.into_iter().sum()
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
