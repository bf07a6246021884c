//! Services that the kernel has refused.
//!
//! A refused Service must not hold up the others, so it is held back: what the kernel has of it
//! stays, and changes of other Services are committed without it. It is retried after a pause that
//! doubles with each refusal, and at once if it changes, because the change may be the remedy.
//!
//! A Service is refused, is retried, and is then either refused again or accepted. It is accepted
//! if the commit after the retry does not name it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use rulec_compiler::name::NamespacedName;

use crate::backoff::Backoff;
use crate::sink::Refusal;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Quarantine {
    backoff: Backoff,
    services: BTreeMap<NamespacedName, Refused>,
    /// Those that have changed after a refusal, and are not part of a step yet.
    changed: BTreeSet<NamespacedName>,
    /// Those of them that the current step has.
    tried: BTreeSet<NamespacedName>,
}

/// A refused Service.
#[derive(Debug)]
struct Refused {
    /// How many times in a row the kernel has refused it.
    attempts: u32,
    /// What the kernel said the last time.
    error: Arc<str>,
    /// The time of the next try; `None` while it is being retried.
    retry_at: Option<Instant>,
    /// False if the engine does not know what the kernel holds of the Service: it was refused in
    /// the commit after a read, or a read has found something else than it should hold.
    is_known: bool,
}

/// The Services whose time has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Retry {
    /// The Services.
    pub(crate) services: BTreeSet<NamespacedName>,
    /// True if the kernel has to be read first, because it is not known what it holds of one.
    pub(crate) needs_read: bool,
}

impl Quarantine {
    /// Creates an empty quarantine.
    pub(crate) fn new(backoff: Backoff) -> Self {
        let (services, changed, tried) = Default::default();
        Self { backoff, services, changed, tried }
    }

    /// Holds a refused Service back until its next try. `is_known` says whether the kernel's
    /// content was known before the commit that was refused. Returns what the kernel says, unless it
    /// has said the same of the last try.
    pub(crate) fn refuse(
        &mut self,
        refusal: &Refusal,
        is_known: bool,
        now: Instant,
    ) -> Option<Arc<str>> {
        let service = &refusal.service;
        let before = self.services.get(service);
        let attempts = before.map_or(0, |refused| refused.attempts) + 1;
        let is_known = is_known && before.is_none_or(|refused| refused.is_known);
        let pause = self.backoff.pause(attempts);
        tracing::error!(
            %service,
            error = %refusal.error,
            retry_in = ?pause,
            "the kernel refused this Service; the others are not affected"
        );
        let error: Arc<str> = refusal.error.to_string().into();
        let is_news = before.is_none_or(|refused| refused.error != error);
        let refused =
            Refused { attempts, error: Arc::clone(&error), retry_at: Some(now + pause), is_known };
        self.services.insert(service.clone(), refused);
        self.tried.remove(service);
        is_news.then_some(error)
    }

    /// Starts the next try of the Services whose time has come, and returns them.
    pub(crate) fn retry(&mut self, now: Instant) -> Retry {
        let mut retry = Retry::default();
        for (service, refused) in &mut self.services {
            if refused.retry_at.is_some_and(|at| now >= at) {
                refused.retry_at = None;
                retry.needs_read |= !refused.is_known;
                retry.services.insert(service.clone());
            }
        }
        retry
    }

    /// Releases a Service that has changed. Returns true if the kernel has to be read, because it
    /// is not known what it holds of the Service.
    pub(crate) fn release(&mut self, service: &NamespacedName) -> bool {
        let Some(refused) = self.services.remove(service) else { return false };
        self.changed.insert(service.clone());
        !refused.is_known
    }

    /// Notes that a step begins, which has the Services that have changed.
    pub(crate) fn try_changed(&mut self) {
        self.tried.append(&mut self.changed);
    }

    /// Releases the Services that were retried and not refused again. Returns them, and those that have
    /// changed and were not.
    pub(crate) fn release_accepted(&mut self) -> Vec<NamespacedName> {
        let mut accepted = std::mem::take(&mut self.tried);
        let retried = self.services.extract_if(.., |_, refused| refused.retry_at.is_none());
        accepted.extend(retried.map(|(service, _)| service));
        accepted.into_iter().collect()
    }

    /// Returns whether a Service waits for its next try.
    pub(crate) fn is_held_back(&self, service: &NamespacedName) -> bool {
        self.services.get(service).is_some_and(|refused| refused.retry_at.is_some())
    }

    /// Notes that the kernel holds something else of a Service than it should. Returns whether the
    /// Service waits for its next try; otherwise nothing is noted.
    pub(crate) fn differs(&mut self, service: &NamespacedName) -> bool {
        let held_back = self.services.get_mut(service).filter(|it| it.retry_at.is_some());
        let is_held_back = held_back.is_some();
        if let Some(refused) = held_back {
            refused.is_known = false;
        }
        is_held_back
    }

    /// Returns the Services that wait for their next try.
    pub(crate) fn held_back(&self) -> impl Iterator<Item = &NamespacedName> {
        let held_back = self.services.iter().filter(|(_, refused)| refused.retry_at.is_some());
        held_back.map(|(service, _)| service)
    }

    /// Returns all refused Services, including those that are being retried.
    pub(crate) fn services(&self) -> impl Iterator<Item = &NamespacedName> {
        self.services.keys()
    }

    /// Returns all refused Services, each with what the kernel said the last time and how many times
    /// in a row it has refused it.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&NamespacedName, &Arc<str>, u32)> {
        self.services.iter().map(|(service, it)| (service, &it.error, it.attempts))
    }

    /// Returns true if no Service is refused.
    pub(crate) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Returns when the next Service is to be retried.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.services.values().filter_map(|refused| refused.retry_at).min()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::periods::Periods;
    use crate::tests::{key, started};

    fn quarantine() -> Quarantine {
        let backoff = Duration::from_secs(1);
        Quarantine::new(Backoff::new(&Periods { backoff, ..Periods::default() }))
    }

    fn refusal(name: u8) -> Refusal {
        Refusal { service: key(name), error: io::Error::other("injected") }
    }

    fn retry(names: &[u8], needs_read: bool) -> Retry {
        Retry { services: names.iter().map(|name| key(*name)).collect(), needs_read }
    }

    #[test]
    fn a_refused_service_is_retried_after_a_doubling_pause() {
        let mut now = started();
        let mut quarantine = quarantine();
        for seconds in [1, 2, 4, 8] {
            quarantine.refuse(&refusal(1), true, now);
            let deadline = now + Duration::from_secs(seconds);
            assert_eq!(quarantine.deadline(), Some(deadline));
            assert_eq!(quarantine.retry(deadline - Duration::from_millis(1)), retry(&[], false));
            now = deadline;
            assert_eq!(quarantine.retry(now), retry(&[1], false));
        }
    }

    #[test]
    fn a_service_is_held_back_until_it_is_retried() {
        let start = started();
        let mut quarantine = quarantine();
        quarantine.refuse(&refusal(1), true, start);
        assert!(quarantine.is_held_back(&key(1)));
        assert!(!quarantine.is_held_back(&key(2)));
        assert!(quarantine.held_back().eq([&key(1)]));
        quarantine.retry(start + Duration::from_secs(1));
        assert!(!quarantine.is_held_back(&key(1)));
        assert_eq!(quarantine.held_back().count(), 0);
        assert_eq!(quarantine.deadline(), None);
        assert!(quarantine.services().eq([&key(1)]), "it is not accepted yet");
    }

    #[test]
    fn only_retried_services_are_accepted_by_a_commit() {
        let start = started();
        let mut quarantine = quarantine();
        quarantine.refuse(&refusal(1), true, start);
        quarantine.refuse(&refusal(2), true, start + Duration::from_secs(1));
        quarantine.retry(start + Duration::from_secs(1));
        quarantine.release_accepted();
        assert!(quarantine.services().eq([&key(2)]));
        let said: Vec<(&str, u32)> =
            quarantine.refusals().map(|(_, error, attempts)| (&**error, attempts)).collect();
        assert_eq!(said, [("injected", 1)]);
    }

    #[test]
    fn an_accepted_service_starts_again_with_the_first_pause() {
        let start = started();
        let mut quarantine = quarantine();
        quarantine.refuse(&refusal(1), true, start);
        quarantine.retry(start + Duration::from_secs(1));
        quarantine.release_accepted();
        assert!(quarantine.is_empty());
        quarantine.refuse(&refusal(1), true, start);
        assert_eq!(quarantine.deadline(), Some(start + Duration::from_secs(1)));
    }

    #[test]
    fn a_service_with_unknown_content_needs_a_read_before_its_retry() {
        let start = started();
        let mut quarantine = quarantine();
        quarantine.refuse(&refusal(1), false, start);
        assert_eq!(quarantine.retry(start + Duration::from_secs(1)), retry(&[1], true));
        // A commit that was refused again says nothing about its content.
        quarantine.refuse(&refusal(1), true, start);
        assert_eq!(quarantine.retry(start + Duration::from_secs(2)), retry(&[1], true));
    }

    #[test]
    fn a_service_whose_content_differs_needs_a_read_before_its_retry() {
        let start = started();
        let mut quarantine = quarantine();
        quarantine.refuse(&refusal(1), true, start);
        assert!(quarantine.differs(&key(1)));
        assert!(!quarantine.differs(&key(2)), "it was not refused");
        assert_eq!(quarantine.retry(start + Duration::from_secs(1)), retry(&[1], true));
    }

    #[test]
    fn a_changed_service_is_released_at_once() {
        let start = started();
        let mut quarantine = quarantine();
        quarantine.refuse(&refusal(1), true, start);
        quarantine.refuse(&refusal(2), false, start);
        assert!(!quarantine.release(&key(1)));
        assert!(quarantine.release(&key(2)), "its content is unknown");
        assert!(!quarantine.release(&key(3)), "it was not refused");
        assert!(quarantine.is_empty());
    }
}
