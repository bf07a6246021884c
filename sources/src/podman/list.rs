//! What podman says of Pods and containers: only the fields that are read.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Names and their values.
pub(super) type Texts = BTreeMap<String, String>;

/// A Pod in the list of Pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListedPod {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) labels: Option<Texts>,
    /// The container that has the network of all; empty without one.
    pub(super) infra_id: String,
}

/// A container in the list of containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListedContainer {
    pub(super) id: String,
    pub(super) names: Option<Vec<String>>,
    pub(super) labels: Option<Texts>,
    /// The Pod that it belongs to; empty without one.
    pub(super) pod: String,
    /// Such as `running`, `exited` or `paused`.
    pub(super) state: String,
    /// The outcome of its health check, if it has one.
    pub(super) status: String,
    pub(super) exit_code: i32,
    /// Seconds since 1970.
    pub(super) started_at: i64,
    pub(super) pid: i64,
    /// The names of its networks.
    pub(super) networks: Option<Vec<String>>,
}

impl ListedContainer {
    /// Returns whether it has its network.
    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.state, "running" | "paused" | "stopping")
    }

    /// Returns whether it has ended well.
    pub(super) fn is_done(&self) -> bool {
        matches!(&*self.state, "exited" | "stopped") && self.exit_code == 0
    }
}

/// The description of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Described {
    pub(super) config: Settings,
    pub(super) state: State,
    pub(super) network_settings: Option<Network>,
    pub(super) host_config: HostConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Settings {
    pub(super) annotations: Option<Texts>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    /// As in the list, but of the moment of the description.
    pub(super) status: String,
    pub(super) exit_code: i32,
    pub(super) health: Option<Health>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Health {
    /// `starting`, `healthy` or `unhealthy`; empty without a health check.
    pub(super) status: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Network {
    #[serde(flatten)]
    pub(super) default: Attachment,
    /// The networks by name.
    pub(super) networks: Option<BTreeMap<String, Attachment>>,
}

/// The addresses in a network; empty without one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Attachment {
    #[serde(rename = "IPAddress")]
    pub(super) v4: String,
    #[serde(rename = "GlobalIPv6Address")]
    pub(super) v6: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HostConfig {
    /// Such as `bridge`, `host` or `container:ID`.
    pub(super) network_mode: String,
}

/// What podman says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Info {
    pub(super) host: Host,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Host {
    pub(super) security: Security,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Security {
    pub(super) rootless: bool,
}
