//! Counts for metrics.

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions that the kernel has acknowledged.
    pub transactions: usize,
    /// Operations in them.
    pub operations: usize,
    /// Bytes of netlink messages in them.
    pub bytes: usize,
    /// Times that the kernel came to hold the wanted program, also without a transaction.
    pub acknowledged: usize,
    /// Times that the kernel could not be read or programmed, or refused a Service.
    pub failures: usize,
    /// Services that were added, removed, or changed in meaning.
    pub service_changes: usize,
    /// EndpointSlices and Pods, likewise.
    pub endpoint_changes: usize,
    /// Changes of objects that changed nothing in the kernel.
    pub suppressed: usize,
    /// Times that the kernel's content differed from what it should be, and was repaired.
    pub repairs: usize,
}
