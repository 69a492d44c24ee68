//! AMX: products of tiles of bytes. A tile is a register of 16 rows of 64 bytes.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Rows of a tile.
pub(crate) const TILE: usize = 16;

/// Bytes of a row of a tile.
const LINE: usize = 64;

/// The configuration of tiles as the CPU reads it.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Proof that this CPU multiplies tiles of bytes, and that the system lets this process use tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Amx(());

impl Amx {
    /// Asks the system for the use of tiles, once per process: it has to store them for every thread
    /// that uses them. Linux has granted it since 5.16, unless a thread has an alternative stack for
    /// signals that is too small for the tiles, or a filter of system calls forbids it. The
    /// grant is for good.
    pub(super) fn new() -> Option<Amx> {
        static GRANTED: OnceLock<bool> = OnceLock::new();
        GRANTED.get_or_init(|| cpu_has_tiles() && granted()).then_some(Amx(()))
    }

    /// Makes the tiles of this thread ready for products of `rows` rows, at most [`TILE`].
    #[allow(clippy::unused_self)] // the proof
    pub(crate) fn tiles(self, rows: usize) -> Tiles {
        assert!(0 < rows && rows <= TILE);
        let mut config =
            Config { palette: 1, start: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.row_bytes[..8].fill(LINE as u16);
        // Sums and rows of inputs; then the weights.
        config.rows[..6].fill(rows as u8);
        config.rows[6..8].fill(TILE as u8);
        // SAFETY: the token, and a valid configuration of palette 1, whose tiles have at most 16
        // rows of 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) }
        Tiles(PhantomData)
    }
}

fn cpu_has_tiles() -> bool {
    const TILES_AND_BYTES: u32 = 1 << 24 | 1 << 25;
    #[allow(unused_unsafe)] // it is safe in newer versions of Rust
    // SAFETY: every x86-64 CPU has the instruction, and leaf 7 if it says so.
    let edx = unsafe { if __cpuid_count(0, 0).eax < 7 { 0 } else { __cpuid_count(7, 0).edx } };
    edx & TILES_AND_BYTES == TILES_AND_BYTES
}

#[cfg(target_os = "linux")]
fn granted() -> bool {
    /// `ARCH_REQ_XCOMP_PERM`, for the state of tiles.
    const REQUEST: (libc::c_long, libc::c_long) = (0x1023, 18);
    // SAFETY: the call has no pointers, and an older system refuses it.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST.0, REQUEST.1) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn granted() -> bool {
    false
}

/// The configured tiles of this thread. They are released when it is dropped, so that the system
/// need not store them.
pub(crate) struct Tiles(PhantomData<*const ()>);

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: `self` exists, so the CPU has tiles.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// Rows of unsigned bytes times 16 V units of signed bytes, four inputs per word.
pub(crate) struct Products {
    /// The first row, and the bytes between rows.
    pub(crate) rows: *const u32,
    pub(crate) row_stride: usize,
    /// The weights of the first four inputs, and the bytes between those of four inputs.
    pub(crate) weights: *const u32,
    pub(crate) weight_stride: usize,
    /// How many times 64 inputs are multiplied.
    pub(crate) steps: usize,
    /// The weights of 64 further inputs, or null.
    pub(crate) last: *const u32,
    /// The first sum, and the bytes between the sums of rows.
    pub(crate) sums: *mut u32,
    pub(crate) sum_stride: usize,
}

/// The body of a product of R by V tiles: sums are in tiles 0 to 3, inputs in 4 and 5, weights in 6
/// and 7. After all steps the loop runs once more with the weights of `last`, if there are any.
macro_rules! multiply {
    ($of:expr, zero: [$($zero:literal),*], add: [$($add:literal),*], store: [$($store:literal),*]) => {
        asm!(
            $($zero,)*
            "test {steps}, {steps}",
            "jz 3f",
            "2:",
            $($add,)*
            "add {x}, 64",
            "add {lower}, 64",
            "add {w}, {step}",
            "dec {steps}",
            "jnz 2b",
            "3:",
            "test {last}, {last}",
            "jz 4f",
            "mov {w}, {last}",
            "xor {last:e}, {last:e}",
            "mov {steps:e}, 1",
            "jmp 2b",
            "4:",
            $($store,)*
            x = inout(reg) $of.rows => _,
            lower = inout(reg) $of.rows.wrapping_byte_add(TILE * $of.row_stride) => _,
            xs = in(reg) $of.row_stride,
            w = inout(reg) $of.weights => _,
            ws = in(reg) $of.weight_stride,
            step = in(reg) TILE * $of.weight_stride,
            steps = inout(reg) $of.steps => _,
            last = inout(reg) $of.last => _,
            out = in(reg) $of.sums,
            outs = in(reg) $of.sum_stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

impl Tiles {
    /// Writes the sums of R times as many rows as the tiles have, by 16 V units. R and V are 1 or 2.
    ///
    /// # Safety
    /// All rows, weights and sums must be valid for their use. For each step, and for `last`, rows
    /// have 64 bytes, and weights 16 lines of 64 V bytes. With R = 2, the tiles must have 16 rows.
    /// `self` must be the last [`Tiles`] that this thread made.
    #[inline(always)]
    #[allow(clippy::unused_self)] // the proof
    pub(crate) unsafe fn multiply<const R: usize, const V: usize>(&self, of: &Products) {
        const { assert!(matches!((R, V), (1 | 2, 1 | 2))) }
        // SAFETY: the caller's promise; the tiles are configured.
        unsafe {
            match (R, V) {
                (2, 2) => multiply!(of,
                zero: ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
                add: [
                    "tileloadd tmm4, [{x} + {xs}*1]",
                    "tileloaddt1 tmm6, [{w} + {ws}*1]",
                    "tileloaddt1 tmm7, [{w} + {ws}*1 + 64]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{lower} + {xs}*1]",
                    "tdpbusd tmm1, tmm4, tmm7",
                    "tdpbusd tmm2, tmm5, tmm6",
                    "tdpbusd tmm3, tmm5, tmm7"
                ],
                store: [
                    "tilestored [{out} + {outs}*1], tmm0",
                    "tilestored [{out} + {outs}*1 + 64], tmm1",
                    "mov {last}, {outs}",
                    "shl {last}, 4",
                    "add {last}, {out}",
                    "tilestored [{last} + {outs}*1], tmm2",
                    "tilestored [{last} + {outs}*1 + 64], tmm3"
                ]),
                (2, _) => multiply!(of,
                zero: ["tilezero tmm0", "tilezero tmm2"],
                add: [
                    "tileloadd tmm4, [{x} + {xs}*1]",
                    "tileloaddt1 tmm6, [{w} + {ws}*1]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{lower} + {xs}*1]",
                    "tdpbusd tmm2, tmm5, tmm6"
                ],
                store: [
                    "tilestored [{out} + {outs}*1], tmm0",
                    "mov {last}, {outs}",
                    "shl {last}, 4",
                    "add {last}, {out}",
                    "tilestored [{last} + {outs}*1], tmm2"
                ]),
                (_, 2) => multiply!(of,
                zero: ["tilezero tmm0", "tilezero tmm1"],
                add: [
                    "tileloadd tmm4, [{x} + {xs}*1]",
                    "tileloaddt1 tmm6, [{w} + {ws}*1]",
                    "tileloaddt1 tmm7, [{w} + {ws}*1 + 64]",
                    "tdpbusd tmm0, tmm4, tmm6",
                    "tdpbusd tmm1, tmm4, tmm7"
                ],
                store: [
                    "tilestored [{out} + {outs}*1], tmm0",
                    "tilestored [{out} + {outs}*1 + 64], tmm1"
                ]),
                _ => multiply!(of,
                    zero: ["tilezero tmm0"],
                    add: [
                        "tileloadd tmm4, [{x} + {xs}*1]",
                        "tileloaddt1 tmm6, [{w} + {ws}*1]",
                        "tdpbusd tmm0, tmm4, tmm6"
                    ],
                    store: ["tilestored [{out} + {outs}*1], tmm0"]),
            }
        }
    }
}
