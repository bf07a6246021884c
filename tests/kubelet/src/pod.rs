//! Pods, as the kubelet writes them.

use serde_json::{Value, json};

/// A Pod of the kubelet. By default it runs, is ready, and has one address.
#[derive(Clone, Debug)]
pub struct Pod {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: Vec<(String, String)>,
    /// `metadata.annotations`.
    pub annotations: Vec<(String, String)>,
    /// Whether it has a `metadata.deletionTimestamp`.
    pub is_deleting: bool,
    /// `spec.nodeName`.
    pub node: String,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.hostname`.
    pub hostname: String,
    /// `spec.subdomain`.
    pub subdomain: String,
    /// The named TCP ports of its container.
    pub ports: Vec<(String, u16)>,
    /// `status.phase`.
    pub phase: String,
    /// The condition Ready, if it is stated.
    pub ready: Option<bool>,
    /// `status.podIPs`.
    pub addresses: Vec<String>,
}

impl Pod {
    /// Returns a Pod with the label `app`, which has its name as value, and a port `http`, 8080.
    #[must_use]
    pub fn new(name: &str, addresses: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            uid: format!("uid-of-{name}"),
            labels: vec![("app".to_owned(), name.to_owned())],
            annotations: Vec::new(),
            is_deleting: false,
            node: "na".to_owned(),
            host_network: false,
            hostname: String::new(),
            subdomain: String::new(),
            ports: vec![("http".to_owned(), 8080)],
            phase: "Running".to_owned(),
            ready: Some(true),
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        }
    }

    /// Returns the Pod of a manifest in the kubelet's directory: the kubelet appends the name of
    /// its node to the Pod's.
    #[must_use]
    pub fn of_file(name: &str, addresses: &[&str]) -> Self {
        let pod = Self::new(name, addresses);
        let source = ("kubernetes.io/config.source".to_owned(), "file".to_owned());
        Self { name: format!("{name}-{}", pod.node), annotations: vec![source], ..pod }
    }

    /// Returns it as protobuf.
    #[must_use]
    pub fn protobuf(&self) -> Vec<u8> {
        let map = |number, entries: &[(String, String)], to: &mut Vec<u8>| {
            for (key, value) in entries {
                let mut entry = Vec::new();
                field(1, key.as_bytes(), &mut entry);
                field(2, value.as_bytes(), &mut entry);
                field(number, &entry, to);
            }
        };
        let mut metadata = Vec::new();
        field(1, self.name.as_bytes(), &mut metadata);
        // generateName, which nobody reads; empty in Go means present but empty.
        field(2, b"", &mut metadata);
        field(3, self.namespace.as_bytes(), &mut metadata);
        field(5, self.uid.as_bytes(), &mut metadata);
        if self.is_deleting {
            let mut time = Vec::new();
            number(1, 1_800_000_000, &mut time);
            field(9, &time, &mut metadata);
        }
        map(11, &self.labels, &mut metadata);
        map(12, &self.annotations, &mut metadata);

        let mut container = Vec::new();
        field(1, b"main", &mut container);
        for (name, port) in &self.ports {
            let mut written = Vec::new();
            field(1, name.as_bytes(), &mut written);
            number(2, 0, &mut written);
            number(3, u64::from(*port), &mut written);
            field(4, b"TCP", &mut written);
            field(6, &written, &mut container);
        }
        let mut spec = Vec::new();
        field(2, &container, &mut spec);
        field(10, self.node.as_bytes(), &mut spec);
        number(11, u64::from(self.host_network), &mut spec);
        field(16, self.hostname.as_bytes(), &mut spec);
        field(17, self.subdomain.as_bytes(), &mut spec);

        let mut status = Vec::new();
        field(1, self.phase.as_bytes(), &mut status);
        for (kind, is_so) in [("PodScheduled", Some(true)), ("Ready", self.ready)] {
            let Some(is_so) = is_so else { continue };
            let mut condition = Vec::new();
            field(1, kind.as_bytes(), &mut condition);
            field(2, if is_so { b"True" } else { b"False" }, &mut condition);
            field(2, &condition, &mut status);
        }
        if let Some(first) = self.addresses.first() {
            field(6, first.as_bytes(), &mut status);
        }
        for address in &self.addresses {
            let mut written = Vec::new();
            field(1, address.as_bytes(), &mut written);
            field(12, &written, &mut status);
        }

        let mut pod = Vec::new();
        field(1, &metadata, &mut pod);
        field(2, &spec, &mut pod);
        field(3, &status, &mut pod);
        pod
    }

    /// Returns what remains of it after it was deleted, as protobuf.
    #[must_use]
    pub fn identity(&self) -> Vec<u8> {
        let mut metadata = Vec::new();
        field(1, self.name.as_bytes(), &mut metadata);
        field(3, self.namespace.as_bytes(), &mut metadata);
        field(5, self.uid.as_bytes(), &mut metadata);
        let mut pod = Vec::new();
        field(1, &metadata, &mut pod);
        pod
    }

    /// Returns it as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let map = |entries: &[(String, String)]| -> Value {
            entries.iter().map(|(key, value)| (key.clone(), Value::from(value.clone()))).collect()
        };
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(name, port)| json!({"name": name, "containerPort": port, "protocol": "TCP"}))
            .collect();
        let ready = self
            .ready
            .map(|ready| json!({"type": "Ready", "status": if ready { "True" } else { "False" }}));
        let conditions: Vec<Value> = ready.into_iter().collect();
        let addresses: Vec<Value> = self.addresses.iter().map(|ip| json!({ "ip": ip })).collect();
        let mut pod = json!({
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid,
                "labels": map(&self.labels),
                "annotations": map(&self.annotations),
            },
            "spec": {
                "nodeName": self.node,
                "hostNetwork": self.host_network,
                "hostname": self.hostname,
                "subdomain": self.subdomain,
                "containers": [{"name": "main", "ports": ports}],
            },
            "status": {"phase": self.phase, "conditions": conditions, "podIPs": addresses},
        });
        if self.is_deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:00:00Z");
        }
        pod
    }
}

/// Writes a field of a protobuf message that has a length.
pub(crate) fn field(number: u64, content: &[u8], to: &mut Vec<u8>) {
    varint(number << 3 | 2, to);
    varint(u64::try_from(content.len()).expect("a length fits"), to);
    to.extend_from_slice(content);
}

/// Writes a field of a protobuf message that is a number.
pub(crate) fn number(number: u64, value: u64, to: &mut Vec<u8>) {
    varint(number << 3, to);
    varint(value, to);
}

fn varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    to.push(u8::try_from(value).expect("seven bits"));
}
