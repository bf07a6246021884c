//! The fields of a document that matter, as they are written.
//!
//! The kind of a document may be its last key, so one struct serves all kinds: it holds the fields
//! of each, and none of them has two meanings. Unknown fields are skipped during reading, and only
//! noted.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

mod unknown;

use unknown::note;
pub(crate) use unknown::{METADATA, Unknown};

use super::field::{Field, NumberOrText, Part, Text, Texts};

/// A list of structs.
pub(crate) type List<T> = Field<Vec<Field<Box<T>>>>;

macro_rules! part {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty $(= $rename:literal)?,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub(crate) struct $name {
            $($(#[serde(rename = $rename)])? pub(crate) $field: $type,)*
        }

        impl Part for $name {
            fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::deserialize(deserializer)
            }
        }
    };
}

/// A document, or an item of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Document {
    pub(crate) api_version: Field<Text>,
    pub(crate) kind: Field<Text>,
    pub(crate) metadata: Field<Box<Metadata>>,
    pub(crate) spec: Field<Box<Spec>>,
    pub(crate) status: Field<Box<Status>>,
    pub(crate) address_type: Field<Text>,
    pub(crate) endpoints: List<EndpointPart>,
    pub(crate) ports: List<PortPart>,
    pub(crate) subsets: List<Subset>,
    pub(crate) items: List<Item>,
    /// What a kustomization is made of; it need not have a kind.
    pub(crate) resources: Field<Vec<Field<Text>>>,
    /// The same, as it was called in the past.
    pub(crate) bases: Field<Vec<Field<Text>>>,
    /// The fields that were ignored, for a document of a file. Objects from the API server have
    /// been checked by it.
    #[serde(skip)]
    pub(crate) unknown: Vec<Unknown>,
}

impl Part for Document {
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut unknown = Vec::new();
        let noting = |path: serde_ignored::Path<'_>| note(&mut unknown, &path);
        let mut document: Self = serde_ignored::deserialize(deserializer, noting)?;
        if !matches!(document.kind, Field::Absent) {
            let lists = [("resources", &document.resources), ("bases", &document.bases)];
            let written = lists.iter().filter(|(_, list)| !matches!(list, Field::Absent));
            unknown.extend(written.map(|(name, _)| Unknown::at_root(name)));
        }
        document.share_out(unknown);
        Ok(document)
    }
}

impl Document {
    /// Returns whether it tells kustomize what to make of other files. In values of Helm,
    /// `resources` is no list.
    pub(crate) fn is_recipe(&self) -> bool {
        [&self.resources, &self.bases].iter().any(|list| matches!(list, Field::Is(_)))
    }

    /// Gives each item of a list the notes about it.
    fn share_out(&mut self, unknown: Vec<Unknown>) {
        let mut of_items: BTreeMap<usize, Vec<Unknown>> = BTreeMap::new();
        for one in unknown {
            match one.of_item() {
                Ok((index, one)) => of_items.entry(index).or_default().push(one),
                Err(one) => self.unknown.push(one),
            }
        }
        let Field::Is(items) = &mut self.items else { return };
        for (index, unknown) in of_items {
            if let Some(Field::Is(item)) = items.get_mut(index) {
                item.0.share_out(unknown);
            }
        }
    }
}

/// A document in a list. The list notes the unknown fields of its items.
#[derive(Debug)]
pub(crate) struct Item(pub(crate) Document);

impl Part for Item {
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Document::deserialize(deserializer).map(Self)
    }
}

part!(
    Metadata {
        name: Field<Text>,
        namespace: Field<Text>,
        uid: Field<Text>,
        resource_version: Field<Text>,
        labels: Field<Texts>,
        annotations: Field<Box<Annotations>>,
        deletion_timestamp: Field<Text>,
    }
);
part!(
    /// The annotations that matter. Changes of others are ignored.
    Annotations {
        leader: Field<Text> = "control-plane.alpha.kubernetes.io/leader",
        last_change_trigger_time: Field<Text> = "endpoints.kubernetes.io/last-change-trigger-time",
        ipvs_scheduler: Field<Text> = "rulec.io/ipvs-scheduler",
        ipvs_scheduler_flags: Field<Text> = "rulec.io/ipvs-scheduler-flags",
        ipvs_drain_seconds: Field<Text> = "rulec.io/ipvs-drain-seconds",
        max_connections: Field<Text> = "rulec.io/max-connections",
        load_balancing: Field<Text> = "rulec.io/load-balancing",
        weight: Field<Text> = "rulec.io/weight",
        cilium_lb_algorithm: Field<Text> = "service.cilium.io/lb-algorithm",
        kube_router_scheduler: Field<Text> = "kube-router.io/service.scheduler",
        kube_router_flags: Field<Text> = "kube-router.io/service.schedflags",
        config_source: Field<Text> = "kubernetes.io/config.source",
    }
);
part!(
    /// `spec` of a Service, a Pod, a Node or a ServiceCIDR.
    Spec {
        r#type: Field<Text> = "type",
        cluster_ip: Field<Text> = "clusterIP",
        cluster_ips: Field<Vec<Field<Text>>> = "clusterIPs",
        ip_families: Field<Vec<Field<Text>>>,
        ip_family_policy: Field<Text>,
        ports: List<PortPart>,
        external_ips: Field<Vec<Field<Text>>> = "externalIPs",
        load_balancer_source_ranges: Field<Vec<Field<Text>>>,
        session_affinity: Field<Text>,
        session_affinity_config: Field<Box<AffinityConfig>>,
        internal_traffic_policy: Field<Text>,
        external_traffic_policy: Field<Text>,
        health_check_node_port: Field<i64>,
        allocate_load_balancer_node_ports: Field<bool>,
        load_balancer_class: Field<Text>,
        selector: Field<Texts>,
        publish_not_ready_addresses: Field<bool>,
        node_name: Field<Text>,
        host_network: Field<bool>,
        hostname: Field<Text>,
        subdomain: Field<Text>,
        containers: List<Container>,
        init_containers: List<Container>,
        pod_cidr: Field<Text> = "podCIDR",
        pod_cidrs: Field<Vec<Field<Text>>> = "podCIDRs",
        taints: List<Taint>,
        cidrs: Field<Vec<Field<Text>>>,
    }
);
part!(
    AffinityConfig {
        client_ip: Field<Box<ClientIpConfig>> = "clientIP",
    }
);
part!(
    ClientIpConfig {
        timeout_seconds: Field<i64>,
    }
);
part!(
    /// A port of a Service or of an EndpointSlice.
    PortPart {
        name: Field<Text>,
        protocol: Field<Text>,
        port: Field<i64>,
        node_port: Field<i64>,
        target_port: Field<NumberOrText>,
    }
);
part!(
    Container {
        restart_policy: Field<Text>,
        ports: List<ContainerPort>,
    }
);
part!(
    ContainerPort {
        name: Field<Text>,
        protocol: Field<Text>,
        container_port: Field<i64>,
    }
);
part!(
    Taint {
        key: Field<Text>,
    }
);
part!(
    /// `status` of a Service, a Pod or a Node.
    Status {
        load_balancer: Field<Box<LoadBalancer>>,
        phase: Field<Text>,
        conditions: List<Condition>,
        pod_ip: Field<Text> = "podIP",
        pod_ips: List<PodIp> = "podIPs",
        addresses: List<NodeAddress>,
    }
);
part!(
    LoadBalancer {
        ingress: List<Ingress>,
    }
);
part!(
    Ingress {
        ip: Field<Text>,
        ip_mode: Field<Text>,
    }
);
part!(
    /// A condition of a Pod.
    Condition {
        r#type: Field<Text> = "type",
        status: Field<Text>,
    }
);
part!(
    PodIp {
        ip: Field<Text>,
    }
);
part!(
    NodeAddress {
        r#type: Field<Text> = "type",
        address: Field<Text>,
    }
);
part!(
    /// An endpoint of an EndpointSlice.
    EndpointPart {
        addresses: Field<Vec<Field<Text>>>,
        conditions: Field<Box<EndpointConditions>>,
        node_name: Field<Text>,
        hints: Field<Box<Hints>>,
    }
);
part!(
    /// A subset of Endpoints.
    Subset {
        addresses: List<EndpointAddress>,
        not_ready_addresses: List<EndpointAddress>,
        ports: List<PortPart>,
    }
);
part!(
    EndpointAddress {
        ip: Field<Text>,
        node_name: Field<Text>,
    }
);
part!(
    EndpointConditions {
        ready: Field<bool>,
        serving: Field<bool>,
        terminating: Field<bool>,
    }
);
part!(
    Hints {
        for_zones: List<Named>,
        for_nodes: List<Named>,
    }
);
part!(
    Named {
        name: Field<Text>,
    }
);
