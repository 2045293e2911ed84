//! Named sets of defaults. Their values are in the table, [`crate::knobs`]; this module says what a preset and a version
//! of the presets are.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The version of the preset values that a newly written object gets. It grows by one whenever a released value changes;
/// the old values stay in the table, so that an operator upgrade alone never changes a running client.
pub const PRESET_VERSION: u32 = 1;

/// A named set of defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Short waits, no compression; a message may be lost with its leader.
    Development,
    /// As production, with fewer retries.
    Staging,
    /// Loses nothing that was acknowledged.
    #[default]
    Production,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Development, Self::Staging, Self::Production];

    /// The preset of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.as_str() == name)
    }

    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
