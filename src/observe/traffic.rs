//! How many connections Services have got, as a document: what `rulec top` asks for, and what the
//! metrics show.

pub(crate) mod course;

use std::collections::BTreeMap;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::sync::{Arc, mpsc};

use anyhow::Context;
use jiff::Timestamp;
use rulec_compiler::Settings;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::nft::traffic::Traffic;
use rulec_sinks::nft::traffic::{PortTotals, Totals};
use serde::{Deserialize, Serialize};

use super::status::API_VERSION;
use super::view::View;
use course::{Busiest, Course, Minute};

/// The path of a `TrafficReport`.
pub const TRAFFIC: &str = "/v1alpha1/traffic";

/// What a daemon says that does not count.
pub const OFF: &str = "it does not count connections: start rulec run with --traffic services or \
                       --traffic endpoints\n";

/// A request for the totals, with the channel for the answer.
pub type AskTotals = mpsc::Sender<io::Result<Arc<Totals>>>;

/// Asks the thread that has the counters.
#[derive(Clone, Debug)]
pub struct CountersAsker {
    asks: mpsc::Sender<AskTotals>,
    /// Wakes the thread; closed when nobody can ask any more.
    wake: Arc<PipeWriter>,
    course: Course,
}

impl CountersAsker {
    /// Creates one, and what the thread waits for: the requests, and the pipe that wakes it.
    ///
    /// # Errors
    ///
    /// If there are too many open files.
    pub fn new() -> io::Result<(Self, mpsc::Receiver<AskTotals>, PipeReader)> {
        let (woken, wake) = io::pipe()?;
        let (asks, asked) = mpsc::channel();
        let course = Course::default();
        Ok((Self { asks, wake: Arc::new(wake), course }, asked, woken))
    }

    /// Returns where the thread tells its readings.
    pub(crate) fn course(&self) -> &Course {
        &self.course
    }

    /// Returns the connections of each minute, and the Services that are busiest now.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    pub(crate) fn busy(&self, view: &View) -> anyhow::Result<(Vec<Minute>, Busiest)> {
        let totals = self.totals()?;
        Ok((self.course.minutes(), self.course.busiest(&totals, &whole_names(view))))
    }

    /// Waits for the totals.
    pub(crate) fn totals(&self) -> anyhow::Result<Arc<Totals>> {
        let (answer, answered) = mpsc::channel();
        self.asks.send(answer).ok().context("the daemon is ending")?;
        (&*self.wake).write_all(&[0]).context("waking the thread that counts")?;
        answered.recv().context("the daemon is ending")?.context("reading the kernel's counters")
    }
}

/// The connections that the kernel has counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficReport {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// When they were read.
    pub(crate) time: Timestamp,
    pub(crate) node: String,
    /// What is counted.
    pub(crate) counted: Traffic,
    /// How often deletions of counters may have been missed.
    pub(crate) losses: u64,
    pub(crate) ports: Vec<PortTraffic>,
}

/// The connections of a Service port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortTraffic {
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// The name of the port; may be empty.
    pub(crate) port: String,
    /// All new connections to it.
    pub(crate) connections: u64,
    /// Those that each endpoint has got, if endpoints are counted.
    pub(crate) endpoints: Vec<EndpointTraffic>,
}

/// The connections of an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointTraffic {
    pub(crate) endpoint: String,
    pub(crate) connections: u64,
}

impl TrafficReport {
    /// Reads the counters.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    pub fn of(view: &View, counters: &CountersAsker) -> anyhow::Result<Self> {
        let totals = counters.totals()?;
        Ok(Self::new(&totals, &view.settings, &whole_names(view)))
    }

    fn new(totals: &Totals, settings: &Settings, names: &BTreeMap<PortKey, PortKey>) -> Self {
        let of_port = |(comment, totals): (&Arc<PortKey>, &PortTotals)| {
            let PortTotals { connections, endpoints } = totals;
            let key = names.get(&**comment).unwrap_or(comment);
            let endpoints = endpoints.iter().map(|(backend, connections)| EndpointTraffic {
                endpoint: backend.to_string(),
                connections: *connections,
            });
            PortTraffic {
                namespace: key.service.namespace.to_string(),
                service: key.service.name.to_string(),
                port: key.port.to_string(),
                connections: *connections,
                endpoints: endpoints.collect(),
            }
        };
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "TrafficReport".to_owned(),
            time: totals
                .at
                .and_then(|at| Timestamp::try_from(at).ok())
                .unwrap_or_else(Timestamp::now),
            node: settings.node_name.to_string(),
            counted: settings.traffic,
            losses: totals.losses,
            ports: totals.ports.iter().map(of_port).collect(),
        }
    }
}

/// Returns the names that are shortened in comments, by their comments.
fn whole_names(view: &View) -> BTreeMap<PortKey, PortKey> {
    let program = view.applied.as_ref().or(view.wanted.as_ref());
    let ports = program.into_iter().flat_map(|program| program.services());
    let ports = ports.flat_map(|(_, fragment)| fragment.iter().map(|it| &it.port));
    let named = ports.map(|port| (port.comment(), port));
    let shortened = named.filter(|(comment, _)| comment.is_shortened());
    shortened.map(|(comment, port)| (PortKey::clone(&comment), PortKey::clone(port))).collect()
}
