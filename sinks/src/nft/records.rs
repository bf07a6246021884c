//! How many records packets have written into our maps, and for how many there is room.
//!
//! Since Linux 6.16, the kernel tells with a set how many elements it has. Older kernels have to list
//! the elements. Neither holds up a commit: the kernel answers without its mutex.

use std::collections::BTreeMap;
use std::io;

use rulec_compiler::net::Family;
use rulec_compiler::nft::code::AFFINITY_RECORDS;
use rulec_compiler::nft::ruleset::TABLE;
use rulec_compiler::nft::set::SetId;

use super::dump::{self, Dump, is_disturbed};
use super::wire::{self, nfproto};
use crate::netlink::{Bus, Message, NLM_F_DUMP, Socket, Writer};

/// The number of attempts to list something without a commit meanwhile. The last one counts in any
/// case: it may lack a map that another process, or a change, has moved to another place of the list.
const ATTEMPTS: usize = 3;

/// The maps that packets write, by family and set.
pub type Maps = BTreeMap<(Family, SetId), Filling>;

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filling {
    /// The records in it. Those that have expired count until the kernel frees them, because they
    /// take room until then; not on kernels before Linux 6.16.
    pub records: u32,
    /// How many there is room for.
    pub limit: u32,
}

/// A socket that asks for them.
pub struct Records {
    socket: Socket,
    seq: u32,
    is_by_listing: bool,
}

impl Records {
    /// Opens nf_tables in the network namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// If nf_tables is not available.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(Bus::Netfilter, 0)?, seq: 1, is_by_listing: false })
    }

    /// Lists the elements in any case, as if the kernel did not tell their number.
    pub fn by_listing(self) -> Self {
        Self { is_by_listing: true, ..self }
    }

    /// Returns how full each map of our tables is that packets write.
    ///
    /// # Errors
    ///
    /// If nf_tables cannot be read.
    pub fn read(&mut self) -> io::Result<Maps> {
        let mut maps = Maps::new();
        for family in Family::ALL {
            for (set, told) in self.told(family)? {
                let records = match told.records.filter(|_| !self.is_by_listing) {
                    Some(records) => records,
                    None => self.listed(family, set)?,
                };
                maps.insert((family, set), Filling { records, limit: told.limit });
            }
        }
        Ok(maps)
    }

    /// Returns what the kernel tells of the maps of a table.
    fn told(&mut self, family: Family) -> io::Result<BTreeMap<SetId, Told>> {
        let ask = |writer: &mut Writer| writer.text(wire::NFTA_SET_TABLE, TABLE);
        let mut maps = BTreeMap::new();
        self.patiently(family, wire::GETSET, ask, |message| {
            let attributes = message.attributes();
            let name = attributes.clone().text(wire::NFTA_SET_NAME).unwrap_or_default();
            let Some(set) = SetId::from_name(name).filter(|set| set.is_of_records()) else {
                return;
            };
            let description = attributes.clone().nested(wire::NFTA_SET_DESC);
            let size = description.and_then(|it| it.be32(wire::NFTA_SET_DESC_SIZE));
            let limit = size.unwrap_or(AFFINITY_RECORDS);
            maps.insert(set, Told { records: attributes.be32(wire::NFTA_SET_COUNT), limit });
        })?;
        Ok(maps)
    }

    /// Counts the elements of a map.
    fn listed(&mut self, family: Family, set: SetId) -> io::Result<u32> {
        let ask = |writer: &mut Writer| {
            writer.text(wire::NFTA_SET_ELEM_LIST_TABLE, TABLE);
            writer.text(wire::NFTA_SET_ELEM_LIST_SET, &set.name());
        };
        // Packets add records all the time: a listing that is repeated is no better.
        let mut records = 0_u32;
        let listed = self.list(family, wire::GETSETELEM, ask, |message| {
            let elements = message.attributes().nested(wire::NFTA_SET_ELEM_LIST_ELEMENTS);
            let elements = elements.into_iter().flatten().count();
            records = records.saturating_add(u32::try_from(elements).unwrap_or(u32::MAX));
        });
        match listed {
            Ok(_) => Ok(records),
            // It was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Lists something again if there were commits meanwhile, but not for ever.
    fn patiently(
        &mut self,
        family: Family,
        kind: u16,
        ask: impl Fn(&mut Writer),
        mut each: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        for attempt in 1..=ATTEMPTS {
            match self.list(family, kind, &ask, &mut each) {
                Ok(Dump::Whole(())) => return Ok(()),
                Ok(Dump::Disturbed(())) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if is_disturbed(&error) && attempt < ATTEMPTS => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        family: Family,
        kind: u16,
        ask: impl FnOnce(&mut Writer),
        each: impl FnMut(Message<'_>),
    ) -> io::Result<Dump<()>> {
        let number = nfproto(family);
        dump::request(&mut self.socket, &mut self.seq, kind, NLM_F_DUMP, number, ask, each)
    }
}

/// What the kernel tells of a map.
struct Told {
    /// `None` before Linux 6.16.
    records: Option<u32>,
    limit: u32,
}
