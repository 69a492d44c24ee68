//! Checks of the rows of a measurement.

use crate::error::{Error, Result, Subject};

/// Refuses an empty sample.
pub(super) fn check_sample(subject: Subject, got: usize) -> Result<()> {
    if got > 0 {
        return Ok(());
    }
    Err(Error::Range { subject, expected: "at least 1".to_owned(), got: got.to_string() })
}
