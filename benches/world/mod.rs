//! A cluster with a number of Services and endpoints, and a kernel that holds it.

#![allow(dead_code, reason = "not every bench needs all of it")]

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::sync::Arc;

use rulec_compiler::change::{Change, Origin, Provenance, Sourced};
use rulec_compiler::load_balancing::Weight;
use rulec_compiler::name::{NamespacedName, NodeName};
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::object::{
    ClusterIps, Endpoint, EndpointSlice, Object, Service, ServicePort, SlicePort, TargetPort,
};
use rulec_compiler::{Delta, Dirty, Model, Program, Settings};
use rulec_sinks::{DeltaBase, NftSink, Sink, Spent};

/// A kernel with its sink, model and program, without the daemon's loop.
pub(crate) struct World<S> {
    model: Model,
    applied: Program,
    pub(crate) sink: S,
}

impl<S: Sink> World<S> {
    /// Programs an empty kernel.
    pub(crate) fn install(
        mut sink: S,
        settings: Settings,
        services: usize,
        endpoints: usize,
    ) -> Self {
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::everything(objects(services, endpoints)));
        let (state, base) = sink.adopt().unwrap();
        let applied = Program::compile(&model, Arc::new(settings), &state);
        sink.commit(&Delta::reconcile(&state, &applied), base).unwrap();
        Self { model, applied, sink }
    }

    /// Sets the number of endpoints of a Service.
    pub(crate) fn change(&mut self, service: usize, endpoints: usize) -> Delta {
        self.apply(vec![Change::Apply(slice(service, endpoints))])
    }

    /// Makes changes, in one batch.
    pub(crate) fn apply(&mut self, changes: Vec<Change>) -> Delta {
        let mut dirty = Dirty::default();
        for change in changes {
            dirty.merge(self.model.apply(Origin::Manifests, change));
        }
        let mut wanted = self.applied.clone();
        wanted.update(&self.model, &dirty);
        let delta = Delta::between(&self.applied, &wanted);
        self.applied = wanted;
        delta
    }

    /// Removes the classes of session affinity that no Service uses.
    pub(crate) fn retire_idle(&mut self) -> Delta {
        let mut wanted = self.applied.clone();
        for class in self.applied.idle_affinities() {
            wanted.retire(class);
        }
        let delta = Delta::between(&self.applied, &wanted);
        self.applied = wanted;
        delta
    }

    /// Returns the program of the last change.
    pub(crate) fn applied(&self) -> &Program {
        &self.applied
    }

    /// Commits a change to the kernel.
    pub(crate) fn commit(&mut self, delta: &Delta) {
        let outcome = self.sink.commit(delta, DeltaBase::Believed).unwrap();
        assert_eq!(outcome.ops, delta.len(), "all is committed");
    }
}

impl World<NftSink> {
    /// Commits a change, and returns the kernel's processor time.
    pub(crate) fn metered(&mut self, delta: &Delta) -> Spent {
        self.sink.meter();
        self.commit(delta);
        self.sink.spent()
    }
}

/// Returns Services and their slices.
pub(crate) fn objects(services: usize, endpoints: usize) -> Vec<Sourced> {
    (0..services).flat_map(|service| [self::service(service), slice(service, endpoints)]).collect()
}

pub(crate) fn name(service: usize) -> NamespacedName {
    NamespacedName::new("default", format!("service-{service}").as_str())
}

/// Returns the address of a Service.
pub(crate) fn cluster_ip(service: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + u32::try_from(service).unwrap())
}

/// Returns the address of an endpoint.
pub(crate) fn endpoint(service: usize, endpoint: usize) -> Ipv4Addr {
    let number = u32::try_from(service * 16 + endpoint).unwrap();
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number)
}

/// Returns a port, which must not be zero.
pub(crate) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn service(service: usize) -> Sourced {
    sourced(Object::Service(Arc::new(plain_service(service))))
}

/// Returns a Service with one port at its cluster address.
pub(crate) fn plain_service(service: usize) -> Service {
    Service {
        cluster_ips: ClusterIps { v4: Some(cluster_ip(service)), v6: None },
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: port(80),
            node_port: None,
            target: TargetPort::Number(port(8080)),
        }],
        ..Service::new(name(service))
    }
}

/// Returns the slice of a Service.
pub(crate) fn slice(service: usize, endpoints: usize) -> Sourced {
    sourced(Object::EndpointSlice(Arc::new(EndpointSlice {
        key: NamespacedName::new("default", format!("service-{service}-a").as_str()),
        service: name(service),
        family: Family::Ipv4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: port(8080) }],
        endpoints: (0..endpoints)
            .map(|number| Endpoint {
                node: Some(NodeName::from("nb")),
                ..Endpoint::ready(IpAddr::V4(endpoint(service, number)))
            })
            .collect(),
        weight: Weight::default(),
    })))
}

pub(crate) fn sourced(object: Object) -> Sourced {
    Sourced { object, provenance: Provenance("bench.yaml".into()) }
}
