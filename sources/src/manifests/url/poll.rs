//! When a URL is asked.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::fault::Fault;
use super::fetch::{Fetched, Fetcher};
use super::options::{ManifestUrl, ManifestUrls};
use crate::backoff::Backoff;

/// Asks once a period, and sooner after a failure.
pub(super) struct Poll {
    fetcher: Fetcher,
    period: Duration,
    /// How long the next answer may take, and those after it.
    limits: [Duration; 2],
    waits: Backoff,
    due: Instant,
    nudge: Arc<Notify>,
}

impl Poll {
    pub(super) fn new(url: ManifestUrl, options: Arc<ManifestUrls>, nudge: Arc<Notify>) -> Self {
        let period = options.period;
        let waits = Backoff::new(options.first_retry.min(period), period);
        let limits = [options.first_answer.min(options.answer), options.answer];
        let fetcher = Fetcher::new(url, options);
        Self { fetcher, period, limits, waits, due: Instant::now(), nudge }
    }

    /// Returns the next outcome, once it is time to ask.
    ///
    /// # Errors
    ///
    /// As for [`Fetcher::fetch`].
    pub(super) async fn next(&mut self) -> Result<Fetched, Fault> {
        tokio::select! {
            () = sleep_until(self.due) => {}
            () = self.nudge.notified() => self.forget(),
        }
        let [limit, later] = self.limits;
        self.limits = [later; 2];
        let outcome = self.fetcher.fetch(limit).await;
        self.due = Instant::now() + self.pause(outcome.is_ok());
        outcome
    }

    /// Forgets the last answer: one that is the same is wanted again.
    pub(super) fn forget(&mut self) {
        self.fetcher.forget();
    }

    /// Returns how long to wait after an answer or a failure.
    fn pause(&mut self, is_answered: bool) -> Duration {
        if is_answered {
            self.waits.reset();
            return self.period;
        }
        self.waits.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_retried_sooner_than_an_answer_and_never_later() {
        let url = "http://127.0.0.1:1/".parse().unwrap();
        let options = ManifestUrls::default();
        let period = options.period;
        let mut poll = Poll::new(url, Arc::new(options), Arc::default());
        for _ in 0..2 {
            let first = poll.pause(false);
            assert!(
                (Duration::from_secs(1)..=Duration::from_secs(2)).contains(&first),
                "{first:?}"
            );
            let later: Vec<Duration> = (0..20).map(|_| poll.pause(false)).collect();
            assert!(later.iter().all(|pause| (first / 2..=period).contains(pause)), "{later:?}");
            assert!(later.iter().any(|pause| *pause >= period / 2), "{later:?}");
            assert_eq!(poll.pause(true), period);
        }
    }
}
