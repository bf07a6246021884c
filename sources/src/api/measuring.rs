//! EndpointSlices of an API server without a connection.

use rulec_compiler::Change;

use super::resource::Resource;
use super::store::{News, Store};
use super::watch::{Event, What};
use super::wire::{Heard, ListReader, event};

/// In pieces of this length, bytes arrive from a connection.
const PIECE: usize = 16 << 10;

/// The known EndpointSlices, by lists and events as bytes.
#[derive(Default)]
pub struct Slices(Store);

impl Slices {
    /// Reads a complete list, and returns the changes to it.
    ///
    /// # Errors
    ///
    /// If the bytes are no list, or the list is cut off.
    pub fn list(&mut self, bytes: &[u8]) -> Result<Vec<Change>, String> {
        let mut news = self.take(What::Begin);
        let mut reader = ListReader::default();
        for piece in bytes.chunks(PIECE) {
            let mut items = Vec::new();
            reader.read(piece, &mut items).map_err(|fault| fault.to_string())?;
            news.extend(self.take(What::Items(items)));
        }
        let (version, _) = reader.finish().map_err(|fault| fault.to_string())?;
        news.extend(self.take(What::End(Some(version))));
        Ok(news)
    }

    /// Reads an event of a watch, and returns the changes to it.
    ///
    /// # Errors
    ///
    /// If the bytes are no event.
    pub fn event(&mut self, bytes: &[u8]) -> Result<Vec<Change>, String> {
        let what = match event(bytes).map_err(|fault| fault.to_string())? {
            Heard::Apply(document, _) => What::Apply(document),
            Heard::Delete(document, _) => What::Delete(document),
            Heard::Bookmark { version, .. } => What::Reached(version),
        };
        Ok(self.take(what))
    }

    fn take(&mut self, what: What) -> Vec<Change> {
        let mut news = News::default();
        self.0.take(Event { resource: Resource::EndpointSlices, what }, &mut news);
        news.changes
    }
}
