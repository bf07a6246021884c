//! The objects of a side, as reasons name them.

use std::fmt::Display;
use std::path::Path;

use rulec_compiler::change::Provenance;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::object::Service;

use crate::tool::input::Side;

/// The objects of a side.
#[derive(Clone, Copy)]
pub(super) struct Objects<'a> {
    pub(super) side: &'a Side,
    /// What was read, if it is one directory.
    directory: Option<&'a Path>,
}

impl<'a> Objects<'a> {
    pub(super) fn of(side: &'a Side) -> Self {
        let directory = Path::new(&side.name);
        Self { side, directory: directory.is_dir().then_some(directory) }
    }

    /// Returns a Service and its name.
    pub(super) fn service(&self, key: &NamespacedName) -> Option<(&'a Service, String)> {
        let (service, provenance) = self.side.service(key)?;
        Some((service, self.named(format_args!("Service {key}"), provenance)))
    }

    /// Returns an object with the place that it was read from. Two sides often have files of the
    /// same names, so the path tells which one is meant.
    pub(super) fn named(&self, object: impl Display, Provenance(place): &Provenance) -> String {
        let root = Path::new(&self.side.name);
        if let Some(directory) = self.directory {
            return format!("{object} ({})", directory.join(&**place).display());
        }
        let is_root = root.file_name().is_some_and(|name| name == &**place);
        format!("{object} ({})", if is_root { &self.side.name } else { &**place })
    }
}
