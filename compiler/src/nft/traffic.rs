//! Which elements have a counter, so that new connections are counted.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::set::SetId;

/// The new connections that are counted, each by one counter on the element that decides about it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Traffic {
    /// None.
    #[default]
    Off,
    /// Those to each frontend of a Service.
    Services,
    /// Those to each frontend, and those to each backend.
    Endpoints,
}

impl Traffic {
    /// All values.
    pub const ALL: [Self; 3] = [Self::Off, Self::Services, Self::Endpoints];

    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
        }
    }

    /// Returns true if the elements of a set or map are counted. The first packet of a flow finds
    /// exactly one frontend, and exactly one backend unless IPVS chooses it.
    pub fn counts(self, set: SetId) -> bool {
        let has_frontends = matches!(set, SetId::Services(_));
        let has_backends = matches!(set, SetId::Endpoints | SetId::Members);
        (has_frontends && self >= Self::Services) || (has_backends && self >= Self::Endpoints)
    }
}

impl FromStr for Traffic {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|it| it.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{name:?} says not what is counted, use one of {names}")
        })
    }
}
