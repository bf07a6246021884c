//! The metrics of `/metrics/slis`: whether checks of this component's health succeeded (KEP-3466),
//! with the names that all components of Kubernetes have for it.
//!
//! As in kube-proxy, the only check is `ping` of the metrics server's `/healthz`: that the process
//! answers.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::kube_proxy::put;

/// The metrics of checks, prefix `kubernetes_`.
#[derive(Debug)]
pub struct Slis {
    last: Labelled<CheckLabel, Gauge>,
    all: Labelled<ResultLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabel {
    name: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    name: &'static str,
    status: &'static str,
    r#type: &'static str,
}

/// The only result: a request without an answer cannot be counted here.
const PINGS: ResultLabel = ResultLabel { name: "ping", status: "success", r#type: "healthz" };

impl Slis {
    pub(super) fn register(to: &mut Registry) -> Self {
        let help = "The result of a check of this component's health";
        let last = put(to, "healthcheck", help, Labelled::default());
        let help = "Results of checks of this component's health";
        let all = put(to, "healthchecks", help, Labelled::default());
        let slis = Self { last, all };
        // A rate needs a first value. The result of the last check is not known yet.
        let _ = slis.all.get_or_create(&PINGS);
        slis
    }

    /// Counts a ping that is answered.
    pub fn pinged(&self) {
        let ResultLabel { name, r#type, .. } = PINGS;
        self.last.get_or_create(&CheckLabel { name, r#type }).set(1);
        self.all.get_or_create(&PINGS).inc();
    }
}
