//! How the daemon is observed: logs, metrics, health, its state, and the HTTP servers for them.

pub mod changes;
mod diagnosis;
pub mod endpoints;
pub mod followed;
pub mod health;
pub mod http;
pub mod metrics;
pub mod monitor;
pub mod names;
pub mod page;
pub mod settings;
pub mod socket;
pub mod state;
pub mod status;
pub mod telemetry;
pub mod traffic;
pub mod view;
