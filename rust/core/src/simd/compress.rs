//! The order in which AVX2, which has no instruction for it, packs some of eight lanes.

/// For each 8-bit mask, the positions of its set bits, packed to the front.
pub(super) static COMPRESS: [[u32; 8]; 256] = compress_table();

const fn compress_table() -> [[u32; 8]; 256] {
    let mut table = [[0u32; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let mut lane = 0;
        let mut filled = 0;
        while lane < 8 {
            if mask & (1 << lane) != 0 {
                table[mask][filled] = lane;
                filled += 1;
            }
            lane += 1;
        }
        mask += 1;
    }
    table
}
