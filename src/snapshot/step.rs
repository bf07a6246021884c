//! What leads from one snapshot to the next: operations and objects, in proportion to the change.

use std::collections::BTreeMap;

use anyhow::Context;
use rulec_compiler::object::ObjectKey;
use rulec_compiler::state::State;
use rulec_compiler::{Delta, Model, Op, Program, Settings};
use serde::{Deserialize, Serialize};

use super::{SavedObject, Snapshot};

/// See the module's documentation. The settings are the same on both sides.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// In a valid order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ops: Vec<Op>,
    /// The objects that are new or have changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    put: Vec<SavedObject>,
    /// Those that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gone: Vec<ObjectKey>,
}

impl Step {
    /// Returns the step between two states, each a program and its model. What both share is not
    /// visited.
    pub fn between(before: (&Program, &Model), after: (&Program, &Model)) -> Self {
        let delta = Delta::between(before.0, after.0);
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for differing in before.1.differing(after.1) {
            match differing.new {
                Some((origin, sourced)) => put.push(SavedObject { origin: Some(origin), sourced }),
                None => gone.push(differing.key),
            }
        }
        Self { ops: delta.ops().cloned().collect(), put, gone }
    }
}

/// A snapshot that steps are applied to.
#[derive(Debug)]
pub struct Replay {
    state: State,
    settings: Settings,
    objects: BTreeMap<ObjectKey, SavedObject>,
}

impl Replay {
    /// Begins at a snapshot with its objects.
    ///
    /// # Errors
    ///
    /// If it is of an unknown version, has no objects, or holds what a kernel could not hold.
    pub fn begin(snapshot: Snapshot) -> anyhow::Result<Self> {
        let snapshot = snapshot.checked()?;
        let state = snapshot.state();
        let objects = snapshot.objects.context("it has no objects")?;
        let objects = objects.into_iter().map(|it| (it.sourced.object.key(), it));
        Ok(Self { state, settings: snapshot.settings, objects: objects.collect() })
    }

    /// Takes a step.
    ///
    /// # Errors
    ///
    /// If a kernel would refuse one of its operations: it does not belong here.
    pub fn take(&mut self, step: Step) -> anyhow::Result<()> {
        let Step { ops, put, gone } = step;
        let delta = Delta { shared: ops.into(), ..Delta::default() };
        self.state.apply(&delta).map_err(|violation| {
            let command = violation.op.commands(self.settings.masquerade_bit.mark());
            anyhow::anyhow!("{}: {}", violation.reason, command.trim_end())
        })?;
        self.objects.extend(put.into_iter().map(|it| (it.sourced.object.key(), it)));
        gone.iter().for_each(|key| drop(self.objects.remove(key)));
        Ok(())
    }

    /// Returns the state that the steps have led to.
    pub fn end(self) -> Snapshot {
        let objects = self.objects.into_values().collect();
        Snapshot::new(&self.state, &self.settings, Some(objects))
    }
}
