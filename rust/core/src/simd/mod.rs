//! Instruction sets behind one small trait.
//!
//! A vector always has sixteen f32 lanes: one register with AVX-512, two with AVX2, and in the
//! portable set an array that the compiler turns into the registers of the target (NEON on
//! aarch64). Every kernel is therefore written once, panels have one layout, masks are always
//! `u16`, and results differ between instruction sets only if one of them has no fused
//! multiply-add.
//!
//! The type of an instruction set can only be made on a CPU that has it ([`Isa::detect`]), so a
//! value of the type proves that its instructions may run. Only the outermost function per
//! instruction set ([`Simd::run`]) has `target_feature`. All functions below it are
//! `inline(always)`, so that they are compiled inside that function, with its features.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod compress;
mod portable;
#[cfg(target_arch = "x86_64")]
pub(crate) mod shorts;

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// Lanes per vector, in every instruction set.
pub(crate) const LANES: usize = 16;

/// An instruction set: vectors of sixteen f32 lanes and the few operations that the kernels need.
///
/// Pointers of `load` and `store` need no alignment.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen f32.
    type F32: Copy;
    /// Sixteen 32-bit integers, or sixty-four bytes.
    type I32: Copy;
    /// Rows that the dense kernel processes together, at most 6.
    const GROUP: usize;

    /// Whether a multiply-add of bytes is one instruction, so that loads are more expensive than
    /// products.
    const DOT_PRODUCTS: bool;

    /// Whether [`shorts`] multiply dense rows of bytes faster.
    #[cfg(target_arch = "x86_64")]
    const SHORTS: bool = false;

    /// Whether the sums of one row by two panels fit the registers, together with their operands.
    const TWO_PANELS: bool;

    /// Whether the sums of `rows` rows by four vectors fit the registers. If not, the dense kernel
    /// processes one vector at a time, or two of two rows.
    fn whole_panel(rows: usize) -> bool;

    /// The products of [`Simd::SHORTS`].
    #[cfg(target_arch = "x86_64")]
    fn shorts(self) -> Option<shorts::Shorts> {
        None
    }

    /// Runs `kernel` in a function compiled for this instruction set.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F32;
    /// Sixteen floats from `p`.
    ///
    /// # Safety
    /// `p` must be valid for reading 16 f32.
    unsafe fn load(self, p: *const f32) -> Self::F32;
    /// `n` floats from `p`, followed by zeros.
    ///
    /// # Safety
    /// `n < 16` and `p` valid for reading `n` f32.
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::F32;
    /// Sixteen bytes from `p` as floats.
    ///
    /// # Safety
    /// `p` must be valid for reading 16 bytes.
    unsafe fn load_u8(self, p: *const u8) -> Self::F32;
    /// Sixteen floats to `p`.
    ///
    /// # Safety
    /// `p` must be valid for writing 16 f32.
    unsafe fn store(self, p: *mut f32, v: Self::F32);
    /// The first `n` lanes to `p`.
    ///
    /// # Safety
    /// `n < 16` and `p` valid for writing `n` f32.
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::F32);

    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, fused if the instruction set can.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger of `low` and `v`; NaN in `v` stays NaN.
    fn at_least(self, v: Self::F32, low: Self::F32) -> Self::F32;
    /// The smaller of `high` and `v`; NaN in `v` stays NaN.
    fn at_most(self, v: Self::F32, high: Self::F32) -> Self::F32;
    /// Bit i set where lane i is not zero; NaN counts as not zero.
    fn nonzero(self, v: Self::F32) -> u16;
    /// Bit i is set where not (`v <= limit`): greater, or NaN.
    fn not_at_most(self, v: Self::F32, limit: Self::F32) -> u16;
    /// `v` where the mask's bit is set, else zero.
    fn keep(self, mask: u16, v: Self::F32) -> Self::F32;
    /// Sum of the lanes, in a fixed order.
    fn sum(self, v: Self::F32) -> f32;

    /// All lanes `x`.
    fn splat_i32(self, x: i32) -> Self::I32;
    /// Sixteen integers from `p`.
    ///
    /// # Safety
    /// `p` must be valid for reading 16 u32.
    unsafe fn load_i32(self, p: *const u32) -> Self::I32;
    /// Sixteen integers to `p`.
    ///
    /// # Safety
    /// `p` must be valid for writing 16 u32.
    unsafe fn store_i32(self, p: *mut u32, v: Self::I32);
    /// `a + b`, wrapping.
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// Adds to each lane the four products of its bytes in `x`, unsigned, and in `w`, signed.
    /// Exact: no intermediate saturates.
    fn dot_bytes(self, sum: Self::I32, x: Self::I32, w: Self::I32) -> Self::I32;
    /// Bit i set where lane i is not zero.
    fn nonzero_i32(self, v: Self::I32) -> u16;
    /// Bit i set where byte i is not zero.
    fn nonzero_bytes(self, v: Self::I32) -> u64;
    /// Bit i is set where lane i of `v` is greater than lane i of `limit`, signed.
    fn above(self, v: Self::I32, limit: Self::I32) -> u16;
    /// Each lane as f32, rounded to nearest.
    fn to_f32(self, v: Self::I32) -> Self::F32;
    /// Each lane rounded to the nearest integer (ties to even) and clamped to 0 to 255. NaN becomes
    /// 255.
    fn to_bytes(self, v: Self::F32) -> Self::I32;
    /// The low byte of each lane to `p`.
    ///
    /// # Safety
    /// `p` must be valid for writing 16 bytes.
    unsafe fn store_bytes(self, p: *mut u8, v: Self::I32);
    /// Four vectors to `p`, as the bytes that [`Simd::to_bytes`] makes.
    ///
    /// # Safety
    /// `p` must be valid for writing 64 bytes.
    #[inline(always)]
    unsafe fn store_bytes4(self, p: *mut u8, v: [Self::F32; 4]) {
        for (j, v) in v.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { self.store_bytes(p.add(j * LANES), self.to_bytes(v)) }
        }
    }
    /// Whether one of the sixteen bytes at `p` is 255.
    ///
    /// # Safety
    /// `p` must be valid for reading 16 bytes.
    unsafe fn any_full_of_16(self, p: *const u8) -> bool;
    /// Whether one of the sixty-four bytes at `p` is 255.
    ///
    /// # Safety
    /// `p` must be valid for reading 64 bytes.
    #[inline(always)]
    unsafe fn any_full_of_64(self, p: *const u8) -> bool {
        let mut any = false;
        for from in (0..64).step_by(LANES) {
            // SAFETY: the caller's promise.
            any |= unsafe { self.any_full_of_16(p.add(from)) };
        }
        any
    }
    /// Sixteen bytes from `p`, one per lane.
    ///
    /// # Safety
    /// `p` must be valid for reading 16 bytes.
    unsafe fn load_bytes(self, p: *const u8) -> Self::I32;
    /// Interleaves the bytes of four vectors, four bytes per lane. Lane 4 L + j of result k has
    /// byte 16 L + 4 k + j of each vector, in order (L and j below 4). If byte 16 L + 4 k + j
    /// belongs to unit 16 k + 4 L + j, result k has the units from 16 k on.
    fn interleave(self, v: [Self::I32; 4]) -> [Self::I32; 4];
    /// Sum of the lanes, wrapping.
    fn sum_i32(self, v: Self::I32) -> i32;
    /// Sums of the lanes of four vectors, wrapping.
    fn sum4_i32(self, v: [Self::I32; 4]) -> [i32; 4];
    /// Packs the lanes whose bit is set to the front and stores the low bytes of all sixteen.
    ///
    /// # Safety
    /// `p` must be valid for writing 16 bytes, whatever the mask.
    unsafe fn compress_bytes(self, p: *mut u8, mask: u16, v: Self::I32);

    /// Packs the lanes whose bit is set to the front and stores a whole vector.
    ///
    /// # Safety
    /// `p` must be valid for writing 16 f32, whatever the mask.
    unsafe fn compress(self, p: *mut f32, mask: u16, v: Self::F32);
    /// As [`Simd::compress`], for integers.
    ///
    /// # Safety
    /// `p` must be valid for writing 16 u32, whatever the mask.
    unsafe fn compress_words(self, p: *mut u32, mask: u16, v: Self::I32);
    /// As [`Simd::compress`], for the low sixteen bits of the lanes.
    ///
    /// # Safety
    /// `p` must be valid for writing 16 u16, whatever the mask.
    unsafe fn compress_shorts(self, p: *mut u16, mask: u16, v: Self::I32);
    /// For each set bit i, packs `base + i` to the front of `index`, and byte i of the 64 at `line`
    /// to the front of `value`.
    ///
    /// # Safety
    /// `index` must be valid for writing 64 u16 and `value` for 64 bytes, whatever the mask; `line`
    /// for reading 64 bytes.
    #[inline(always)]
    unsafe fn compress_line(
        self,
        index: *mut u16,
        value: *mut u8,
        mask: u64,
        line: *const u8,
        base: u16,
    ) {
        // SAFETY: the caller's promise.
        unsafe { compress_by_lanes(self, index, value, mask, line, base) }
    }
    /// Packs `base + i` for each set bit i to the front and stores a whole vector.
    ///
    /// # Safety
    /// `p` must be valid for writing 16 u32, whatever the mask.
    unsafe fn compress_index(self, p: *mut u32, mask: u16, base: u32);
    /// The entries of `from` at the lanes of `index`.
    ///
    /// # Safety
    /// Every lane must be below the length of `from`.
    unsafe fn gather(self, from: &[f32], index: Self::I32) -> Self::F32;
    /// Four transposed 4x4 matrices: lane `4 m + r` of result c is lane `4 m + c` of row r.
    fn transpose_fours(self, rows: [Self::F32; 4]) -> [Self::F32; 4];
    /// Loads four values from each of `p`, `p + stride`, `p + 2 stride` and `p + 3 stride`.
    ///
    /// # Safety
    /// All of them must be readable.
    unsafe fn load_fours(self, p: *const f32, stride: usize) -> Self::F32;
    /// Stores four values at each of `p`, `p + stride`, `p + 2 stride` and `p + 3 stride`, in this
    /// order: where they overlap, later ones overwrite earlier ones.
    ///
    /// # Safety
    /// All of them must be writable.
    unsafe fn store_fours(self, p: *mut f32, stride: usize, value: Self::F32);
    /// Hints that the cache line at `p` is needed soon. Any address is allowed.
    fn prefetch<T>(self, p: *const T);
    /// As [`Simd::prefetch`], into L2 only.
    fn prefetch_l2<T>(self, p: *const T);
}

/// [`Simd::compress_line`], sixteen bytes at a time.
///
/// # Safety
/// As [`Simd::compress_line`].
#[inline(always)]
unsafe fn compress_by_lanes<S: Simd>(
    simd: S,
    index: *mut u16,
    value: *mut u8,
    mask: u64,
    line: *const u8,
    base: u16,
) {
    let lanes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut end = 0;
    for from in (0..64).step_by(LANES) {
        let mask = (mask >> from) as u16;
        // SAFETY: at most `from` entries precede, so there is space for 16 more; the caller gives
        // 64 readable bytes.
        unsafe {
            let column = simd.splat_i32(i32::from(base) + from as i32);
            let columns = simd.add_i32(simd.load_i32(lanes.as_ptr()), column);
            simd.compress_shorts(index.add(end), mask, columns);
            simd.compress_bytes(value.add(end), mask, simd.load_bytes(line.add(from)));
        }
        end += mask.count_ones() as usize;
    }
}

/// Work that runs inside a function compiled for one instruction set.
pub(crate) trait Kernel {
    /// The result of the work.
    type Output;
    /// Does the work. Implementations are `inline(always)`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Inner);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inner {
    /// The kernels of `Avx512Vnni`, and products of tiles.
    #[cfg(target_arch = "x86_64")]
    Avx512Amx(avx512::Avx512<true, false>, amx::Amx),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(avx512::Avx512<true, false>),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512<false, false>),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(avx2::Avx2<true>),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2<false>),
    Portable(portable::Portable),
}

impl Isa {
    /// All names, best first.
    const NAMES: [&str; 6] = ["avx512amx", "avx512vnni", "avx512", "avxvnni", "avx2", "portable"];

    /// The instruction sets of this machine, best first.
    pub fn available() -> Vec<Isa> {
        Isa::NAMES.into_iter().filter_map(Isa::named).collect()
    }

    /// The instruction set with this name, if this machine has it. Only `avx512amx` asks the system
    /// for tiles.
    fn named(name: &str) -> Option<Isa> {
        let inner = match name {
            #[cfg(target_arch = "x86_64")]
            "avx512amx" => {
                let vectors = avx512::Avx512::new()?;
                Inner::Avx512Amx(vectors, amx::Amx::new()?)
            }
            #[cfg(target_arch = "x86_64")]
            "avx512vnni" => Inner::Avx512Vnni(avx512::Avx512::new()?),
            #[cfg(target_arch = "x86_64")]
            "avx512" => Inner::Avx512(avx512::Avx512::new()?),
            #[cfg(target_arch = "x86_64")]
            "avxvnni" => Inner::AvxVnni(avx2::Avx2::new()?),
            #[cfg(target_arch = "x86_64")]
            "avx2" => Inner::Avx2(avx2::Avx2::new()?),
            "portable" => Inner::Portable(portable::Portable),
            _ => return None,
        };
        Some(Isa(inner))
    }

    /// The best instruction set of this machine.
    pub fn best() -> Isa {
        Isa::available()[0]
    }

    /// The instruction set with this name (`avx512amx`, `avx512vnni`, `avx512`, `avxvnni`, `avx2`,
    /// `portable`), if this machine has it.
    ///
    /// # Errors
    /// [`Error::Isa`] when the name is unknown or the machine lacks it.
    pub fn by_name(name: &str) -> Result<Isa> {
        Isa::named(name).ok_or_else(|| {
            let available: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
            Error::Isa { available: available.join(", "), got: name.to_owned() }
        })
    }

    /// The instruction set of this process: `LRGATE_ISA` if it is set, otherwise the best one. The
    /// variable is read once.
    ///
    /// # Errors
    /// [`Error::Isa`] when `LRGATE_ISA` is unknown or missing on this machine.
    pub fn detect() -> Result<Isa> {
        static ACTIVE: OnceLock<Result<Isa>> = OnceLock::new();
        ACTIVE
            .get_or_init(|| match std::env::var_os("LRGATE_ISA").filter(|name| !name.is_empty()) {
                Some(name) => Isa::by_name(&name.to_string_lossy()),
                None => Ok(Isa::best()),
            })
            .clone()
    }

    /// Name, as in `LRGATE_ISA`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512Amx(..) => "avx512amx",
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512Vnni(_) => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Inner::AvxVnni(_) => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2(_) => "avx2",
            Inner::Portable(_) => "portable",
        }
    }

    /// Whether products of bytes may use AMX tiles.
    pub(crate) fn has_tiles(self) -> bool {
        self.name() == "avx512amx"
    }

    /// [`Simd::DOT_PRODUCTS`].
    pub(crate) fn dot_products(self) -> bool {
        fn of<S: Simd>(_: S) -> bool {
            S::DOT_PRODUCTS
        }
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512Amx(isa, _) | Inner::Avx512Vnni(isa) => of(isa),
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512(isa) => of(isa),
            #[cfg(target_arch = "x86_64")]
            Inner::AvxVnni(isa) => of(isa),
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2(isa) => of(isa),
            Inner::Portable(isa) => of(isa),
        }
    }

    /// As [`Isa::run`], with special instructions for lists of bytes if the CPU has them: for
    /// kernels that spend most of their time in [`Simd::compress_line`].
    #[inline]
    pub(crate) fn run_lister<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512Amx(isa, _) | Inner::Avx512Vnni(isa) => match isa.with_vbmi2() {
                Some(isa) => isa.run(kernel),
                None => isa.run(kernel),
            },
            _ => self.run(kernel),
        }
    }

    /// Runs a kernel that multiplies no bytes. It is compiled once for instruction sets that differ
    /// only in products of bytes.
    #[inline]
    pub(crate) fn run_floats<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512Amx(isa, _) | Inner::Avx512Vnni(isa) => isa.without_vnni().run(kernel),
            #[cfg(target_arch = "x86_64")]
            Inner::AvxVnni(isa) => isa.without_vnni().run(kernel),
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512(isa) => isa.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2(isa) => isa.run(kernel),
            Inner::Portable(isa) => isa.run(kernel),
        }
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512Amx(isa, _) | Inner::Avx512Vnni(isa) => isa.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512(isa) => isa.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Inner::AvxVnni(isa) => isa.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2(isa) => isa.run(kernel),
            Inner::Portable(isa) => isa.run(kernel),
        }
    }

    /// The vectors and the tiles, if this instruction set has tiles.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn with_tiles(self) -> Option<(impl Simd, amx::Amx)> {
        if let Inner::Avx512Amx(isa, amx) = self.0 { Some((isa, amx)) } else { None }
    }

    /// The vectors and the products of [`Simd::SHORTS`], if this instruction set has them.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn with_shorts(self) -> Option<(impl Simd, shorts::Shorts)> {
        if let Inner::Avx2(isa) = self.0 { isa.shorts().map(|shorts| (isa, shorts)) } else { None }
    }
}
