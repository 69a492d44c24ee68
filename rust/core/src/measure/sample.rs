//! What measurements refuse.

use crate::error::{Error, Result};

pub(super) fn check_sample(name: &str, got: usize) -> Result<()> {
    if got > 0 {
        return Ok(());
    }
    Err(Error::Parameter {
        name: if name == "x" { "rows of x".to_owned() } else { name.to_owned() },
        expected: "at least 1".to_owned(),
        got: got.to_string(),
    })
}
