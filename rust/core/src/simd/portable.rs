//! Any CPU: arrays of sixteen, which the compiler vectorises with the baseline instructions of the
//! target (NEON on aarch64, SSE2 on x86-64). Multiply-add is fused only if the target has an
//! instruction for it.

use super::{Kernel, LANES, Simd};

/// The instruction set without requirements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Portable;

/// Sixteen f32.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes([f32; LANES]);

/// Sixteen i32.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Integers([i32; LANES]);

#[inline(always)]
fn zip(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    Lanes(std::array::from_fn(|i| f(a.0[i], b.0[i])))
}

#[inline(always)]
fn mask(f: impl Fn(usize) -> bool) -> u16 {
    (0..LANES).fold(0, |bits, i| bits | (u16::from(f(i)) << i))
}

impl Simd for Portable {
    type F32 = Lanes;
    type I32 = Integers;
    // A vector is four registers of 128 bits, of which there are 32 with NEON and 16 with SSE2.
    const DOT_PRODUCTS: bool = false;
    const TWO_PANELS: bool = false;
    const GROUP: usize = if cfg!(target_arch = "aarch64") { 6 } else { 2 };

    #[inline(always)]
    fn whole_panel(rows: usize) -> bool {
        cfg!(target_arch = "aarch64") && rows == 1
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        fn apart<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.run(simd)
        }
        apart(self, kernel)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Lanes {
        Lanes([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Lanes {
        // SAFETY: the caller gives 16 readable f32.
        Lanes(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Lanes {
        let mut v = [0.0; LANES];
        for (i, lane) in v.iter_mut().enumerate().take(n) {
            // SAFETY: i < n, and the caller gives n readable f32.
            *lane = unsafe { *p.add(i) };
        }
        Lanes(v)
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Lanes {
        // SAFETY: the caller gives 16 readable bytes.
        let bytes = unsafe { p.cast::<[u8; LANES]>().read_unaligned() };
        Lanes(bytes.map(f32::from))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Lanes) {
        // SAFETY: the caller gives 16 writable f32.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Lanes) {
        for (i, lane) in v.0.iter().enumerate().take(n) {
            // SAFETY: i < n, and the caller gives n writable f32.
            unsafe { *p.add(i) = *lane }
        }
    }
    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            Lanes(std::array::from_fn(|i| a.0[i].mul_add(b.0[i], c.0[i])))
        } else {
            Lanes(std::array::from_fn(|i| a.0[i] * b.0[i] + c.0[i]))
        }
    }
    #[inline(always)]
    fn at_least(self, v: Lanes, low: Lanes) -> Lanes {
        zip(v, low, |v, low| if v < low { low } else { v })
    }
    #[inline(always)]
    fn at_most(self, v: Lanes, high: Lanes) -> Lanes {
        zip(v, high, |v, high| if v > high { high } else { v })
    }
    #[inline(always)]
    fn nonzero(self, v: Lanes) -> u16 {
        mask(|i| v.0[i] != 0.0)
    }
    #[inline(always)]
    fn not_at_most(self, v: Lanes, limit: Lanes) -> u16 {
        mask(|i| v.0[i] > limit.0[i] || v.0[i].is_nan() || limit.0[i].is_nan())
    }
    #[inline(always)]
    fn keep(self, mask: u16, v: Lanes) -> Lanes {
        Lanes(std::array::from_fn(|i| if mask & (1 << i) != 0 { v.0[i] } else { 0.0 }))
    }
    #[inline(always)]
    fn sum(self, v: Lanes) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|i| v.0[i] + v.0[i + 8]);
        let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }
    #[inline(always)]
    fn splat_i32(self, x: i32) -> Integers {
        Integers([x; LANES])
    }
    #[inline(always)]
    unsafe fn load_i32(self, p: *const u32) -> Integers {
        // SAFETY: the caller gives 16 readable u32.
        Integers(unsafe { p.cast::<[i32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store_i32(self, p: *mut u32, v: Integers) {
        // SAFETY: the caller gives 16 writable u32.
        unsafe { p.cast::<[i32; LANES]>().write_unaligned(v.0) }
    }
    #[inline(always)]
    fn add_i32(self, a: Integers, b: Integers) -> Integers {
        Integers(std::array::from_fn(|i| a.0[i].wrapping_add(b.0[i])))
    }
    #[inline(always)]
    fn dot_bytes(self, sum: Integers, x: Integers, w: Integers) -> Integers {
        let mut sums = sum.0;
        for (i, sum) in sums.iter_mut().enumerate() {
            let (x, w) = (x.0[i].to_ne_bytes(), w.0[i].to_ne_bytes());
            for (x, w) in x.into_iter().zip(w) {
                *sum = sum.wrapping_add(i32::from(x) * i32::from(w as i8));
            }
        }
        Integers(sums)
    }
    #[inline(always)]
    fn nonzero_i32(self, v: Integers) -> u16 {
        mask(|i| v.0[i] != 0)
    }
    #[inline(always)]
    fn nonzero_bytes(self, v: Integers) -> u64 {
        let mut mask = 0;
        for (i, lane) in v.0.iter().enumerate() {
            for (j, byte) in lane.to_ne_bytes().into_iter().enumerate() {
                mask |= u64::from(byte != 0) << (4 * i + j);
            }
        }
        mask
    }
    #[inline(always)]
    fn above(self, v: Integers, limit: Integers) -> u16 {
        mask(|i| v.0[i] > limit.0[i])
    }
    #[inline(always)]
    fn to_f32(self, v: Integers) -> Lanes {
        Lanes(v.0.map(|v| v as f32))
    }
    #[inline(always)]
    fn to_bytes(self, v: Lanes) -> Integers {
        // A cast from float to u8 saturates.
        Integers(v.0.map(|v| if v.is_nan() { 255 } else { i32::from(v.round_ties_even() as u8) }))
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: Integers) {
        // SAFETY: the caller gives 16 writable bytes.
        unsafe { p.cast::<[u8; LANES]>().write_unaligned(v.0.map(|v| v as u8)) }
    }
    #[inline(always)]
    unsafe fn any_full_of_16(self, p: *const u8) -> bool {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe { p.cast::<[u8; LANES]>().read_unaligned() }.contains(&u8::MAX)
    }
    #[inline(always)]
    fn sum_i32(self, v: Integers) -> i32 {
        v.0.iter().fold(0, |sum, v| sum.wrapping_add(*v))
    }
    #[inline(always)]
    fn sum4_i32(self, v: [Integers; 4]) -> [i32; 4] {
        v.map(|v| self.sum_i32(v))
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> Integers {
        // SAFETY: the caller gives 16 readable bytes.
        let bytes = unsafe { p.cast::<[u8; LANES]>().read_unaligned() };
        Integers(bytes.map(i32::from))
    }
    #[inline(always)]
    fn interleave(self, v: [Integers; 4]) -> [Integers; 4] {
        std::array::from_fn(|k| {
            Integers(std::array::from_fn(|lane| {
                // Byte 16 L + 4 k + j is byte j of word 4 L + k.
                let byte = |v: Integers| v.0[lane / 4 * 4 + k].to_ne_bytes()[lane % 4];
                i32::from_ne_bytes(v.map(byte))
            }))
        })
    }
    #[inline(always)]
    unsafe fn compress_bytes(self, p: *mut u8, mask: u16, v: Integers) {
        // SAFETY: the caller gives 16 writable bytes.
        unsafe { compress(p, mask, v.0.map(|lane| lane as u8)) }
    }
    #[inline(always)]
    unsafe fn compress(self, p: *mut f32, mask: u16, v: Lanes) {
        // SAFETY: the caller gives 16 writable f32.
        unsafe { compress(p, mask, v.0) }
    }
    #[inline(always)]
    unsafe fn compress_words(self, p: *mut u32, mask: u16, v: Integers) {
        // SAFETY: the caller gives 16 writable u32.
        unsafe { compress(p, mask, v.0.map(|lane| lane as u32)) }
    }
    #[inline(always)]
    unsafe fn compress_shorts(self, p: *mut u16, mask: u16, v: Integers) {
        // SAFETY: the caller gives 16 writable u16.
        unsafe { compress(p, mask, v.0.map(|lane| lane as u16)) }
    }
    #[inline(always)]
    unsafe fn compress_index(self, p: *mut u32, mask: u16, base: u32) {
        // SAFETY: the caller gives 16 writable u32.
        unsafe { compress(p, mask, std::array::from_fn(|i| base + i as u32)) }
    }
    #[inline(always)]
    unsafe fn gather(self, from: &[f32], index: Integers) -> Lanes {
        // SAFETY: the caller's indices are within `from`.
        Lanes(index.0.map(|i| unsafe { *from.get_unchecked(i as usize) }))
    }
    #[inline(always)]
    fn transpose_fours(self, rows: [Lanes; 4]) -> [Lanes; 4] {
        std::array::from_fn(|c| Lanes(std::array::from_fn(|i| rows[i % 4].0[i / 4 * 4 + c])))
    }
    #[inline(always)]
    unsafe fn load_fours(self, p: *const f32, stride: usize) -> Lanes {
        // SAFETY: the caller gives these values.
        Lanes(std::array::from_fn(|i| unsafe { *p.add(i / 4 * stride + i % 4) }))
    }
    #[inline(always)]
    unsafe fn store_fours(self, p: *mut f32, stride: usize, value: Lanes) {
        for (i, lane) in value.0.into_iter().enumerate() {
            // SAFETY: the caller gives these values.
            unsafe { *p.add(i / 4 * stride + i % 4) = lane }
        }
    }
    #[inline(always)]
    fn prefetch<T>(self, _p: *const T) {}
    #[inline(always)]
    fn prefetch_l2<T>(self, _p: *const T) {}
}

/// Packs the lanes whose bit is set to the front; writes up to the last lane.
///
/// # Safety
/// `p` must be valid for writing 16 values.
#[inline(always)]
unsafe fn compress<T: Copy>(p: *mut T, mask: u16, lanes: [T; LANES]) {
    let mut packed = 0;
    for (i, lane) in lanes.into_iter().enumerate() {
        // SAFETY: packed <= i < 16, and the caller gives 16 writable values.
        unsafe { *p.add(packed) = lane };
        packed += usize::from((mask >> i) & 1);
    }
}
