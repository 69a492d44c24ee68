//! Checks shared by several parts of a model.

use crate::error::{Error, Index, Result, Subject};

pub(super) fn check_finite(
    values: &[f32],
    subject: Subject,
    index: impl Fn(usize) -> Index,
) -> Result<()> {
    // In whole blocks, because the compiler does not vectorise a loop that may end anywhere.
    const BLOCK: usize = 256;
    let is_bad = |block: &[f32]| block.iter().fold(false, |bad, value| bad | !value.is_finite());
    let Some(block) = values.chunks(BLOCK).position(is_bad) else { return Ok(()) };
    let bad = values.iter().enumerate().skip(block * BLOCK).find(|(_, value)| !value.is_finite());
    let (i, value) = bad.expect("its block has one");
    Err(Error::NotFinite { subject, index: index(i), value: *value })
}
