//! Where the state at a moment is.

use std::sync::Arc;

use jiff::Timestamp;

use super::Ring;
use crate::history::change::Event;
use crate::history::entry::{Entry, Point};
use crate::history::moment::{Moment, SIGN};
use crate::history::states::After;
use crate::history::timeline::{self, Held, Stamp};

/// Where a state is.
#[derive(Debug)]
pub(in crate::history) enum Whereabouts {
    /// In memory.
    Here(Arc<Point>),
    /// On disk, at the most.
    There(After),
}

impl Ring {
    /// Returns where the state at a moment is.
    pub(in crate::history) fn state(
        &self,
        moment: Moment,
        now: Stamp,
    ) -> Result<Whereabouts, String> {
        match moment {
            Moment::Now => {
                let none = || "the daemon does not know yet what the kernel holds".to_owned();
                self.now().map(Whereabouts::Here).ok_or_else(none)
            }
            Moment::After(id) => match self.find(id) {
                Some(entry) => Ok(whereabouts(entry)),
                None => Err(format!("{moment}: there is no such change{}", self.kept())),
            },
            Moment::At(time) => {
                self.held(moment, now, time, |changes| timeline::at(changes, now, time))
            }
            Moment::Ago(ago) => {
                let time = now.time.checked_sub(ago);
                let time = time.map_err(|_| format!("{moment}: there is no such time"))?;
                self.held(moment, now, time, |changes| timeline::ago(changes, now, ago))
            }
        }
    }

    /// Returns where the state at a time is, which is found among these changes.
    fn held(
        &self,
        moment: Moment,
        now: Stamp,
        time: Timestamp,
        find: impl FnOnce(&[Stamp]) -> Held,
    ) -> Result<Whereabouts, String> {
        // The state between the last change that is no longer kept and the oldest one is known, too.
        let oldest = self.all().next().and_then(|entry| entry.around.as_ref()?.before.as_ref());
        let forgotten = self.forgotten.zip(oldest);
        let stamps = forgotten.into_iter().map(|(stamp, _)| stamp);
        let stamps: Vec<Stamp> = stamps.chain(self.all().map(|entry| entry.stamp())).collect();
        let entry = |index: usize| {
            let index = index.checked_sub(usize::from(forgotten.is_some()))?;
            self.entries.get(index).map(|kept| &kept.entry)
        };
        let name = |index: Option<usize>| match index.and_then(entry) {
            Some(entry) => format!("after {SIGN}{}", entry.id),
            None => "before the oldest".to_owned(),
        };
        match find(&stamps) {
            Held::After(index) => match (entry(index), forgotten) {
                (Some(found), _) => {
                    let gap = self.gap(found, entry(index + 1)).filter(|_| found.time != time);
                    match gap {
                        Some(gap) => Err(format!("{moment}: {gap}{}", self.kept())),
                        None => Ok(whereabouts(found)),
                    }
                }
                (None, Some((_, before))) => Ok(Whereabouts::Here(Arc::clone(before))),
                (None, None) => Err(self.not_kept(moment, time)),
            },
            Held::Before => Err(self.not_kept(moment, time)),
            Held::Several(first, last) => Err(format!(
                "{moment}: the clock was set back, so that this time came more than once: name the \
                 number of a change. It may be the state {}, or that {}",
                name(first),
                name(Some(last))
            )),
            Held::Future => {
                Err(format!("{moment}: that is in the future: it is {:.0} now", now.time))
            }
        }
    }

    fn not_kept(&self, moment: Moment, time: Timestamp) -> String {
        format!("{moment}: the state of {time:.0} is not kept{}", self.kept())
    }

    /// Returns what is not known between a change and the next one that is kept.
    fn gap(&self, entry: &Entry, next: Option<&Arc<Entry>>) -> Option<String> {
        // Since the start, nothing is missing.
        if entry.around.is_some() {
            return None;
        }
        let is_gap = next.map_or(self.is_cut, |next| next.id > entry.id + 1);
        match next.filter(|next| next.event != Event::Started) {
            _ if !is_gap => None,
            // Of a burst, the file has only a part.
            Some(next) => {
                let (first, last) = (entry.id + 1, next.id - 1);
                Some(format!("it is not known when changes {SIGN}{first} to {SIGN}{last} were"))
            }
            None => Some(format!(
                "it is not known what the kernel held after change {SIGN}{} until the next start: \
                 later changes may have been lost before they were written",
                entry.id
            )),
        }
    }

    /// Returns which states are kept, for an error.
    pub(in crate::history) fn kept(&self) -> String {
        let mut with_states = self.all().filter(|entry| entry.around.is_some());
        match with_states.next() {
            None => ": no change is kept".to_owned(),
            Some(entry) => format!(": the oldest is {SIGN}{}, of {:.0}", entry.id, entry.time),
        }
    }
}

fn whereabouts(entry: &Entry) -> Whereabouts {
    match &entry.around {
        Some(around) => Whereabouts::Here(Arc::clone(&around.after)),
        None => Whereabouts::There(After { id: entry.id, time: entry.time }),
    }
}
