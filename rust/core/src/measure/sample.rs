//! What measurements refuse.

use crate::error::{Error, Result, Subject};

/// Refuses to measure nothing.
pub(super) fn check_sample(subject: Subject, got: usize) -> Result<()> {
    if got > 0 {
        return Ok(());
    }
    Err(Error::Range { subject, expected: "at least 1".to_owned(), got: got.to_string() })
}
