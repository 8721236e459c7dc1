//! Numbers as JSON has them.

use serde::{Deserialize, Deserializer};

/// JSON has null for numbers that are not finite.
pub(crate) fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
