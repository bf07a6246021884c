//! How the daemon is observed: logs, metrics, health, and the HTTP servers for them.

pub mod endpoints;
pub mod health;
pub mod http;
pub mod metrics;
pub mod monitor;
pub mod telemetry;
