//! Reads fields with their types, defaults and ranges, and reports those that are invalid.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use rulec_compiler::name::{LabelKey, LabelValue, PortName};
use rulec_compiler::net::Protocol;

use super::address::{parse_ip, parse_range, range_hint, unfit};
use super::at::{At, PathStep};
use super::field::{Field, Shape, Text, Texts};
use super::{Finding, Sink};
use crate::flaw::{Flaw, FlawKind};
use crate::problem::Severity;

/// Reads the fields of one object and remembers whether it can still be used.
pub(super) struct Check<'a, 'b> {
    sink: &'a mut Sink<'b>,
    object: Option<Arc<str>>,
    failed: bool,
}

impl<'a, 'b> Check<'a, 'b> {
    pub(super) fn new(sink: &'a mut Sink<'b>) -> Self {
        Self { sink, object: None, failed: false }
    }

    /// Sets the object that later findings name.
    pub(super) fn name(&mut self, object: &impl fmt::Display) {
        self.object = Some(object.to_string().into());
    }

    /// Returns whether the object comes from an API server, which has validated it.
    pub(super) fn is_admitted(&self) -> bool {
        self.sink.is_admitted
    }

    /// Returns whether an error was reported, so that the object must not be used.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    pub(super) fn error(&mut self, at: &At<'_>, message: impl fmt::Display) {
        self.tell(FlawKind::Value, Severity::Error, at, &message);
    }

    pub(super) fn warn(&mut self, at: &At<'_>, message: impl fmt::Display) {
        self.tell(FlawKind::Value, Severity::Warning, at, &message);
    }

    /// Warns that a value is left out, while the rest of the object is used.
    pub(super) fn skip(&mut self, at: &At<'_>, message: impl fmt::Display) {
        self.leave_out(FlawKind::Value, at, &message);
    }

    /// Warns that an object is left out, since its version is not read.
    pub(super) fn skip_version(&mut self, at: &At<'_>, message: impl fmt::Display) {
        self.leave_out(FlawKind::Kind, at, &message);
    }

    /// Reports that a field is missing, which is an error.
    pub(super) fn lacks(&mut self, at: &At<'_>, message: impl fmt::Display) {
        self.tell(FlawKind::MissingField, Severity::Error, at, &message);
    }

    /// Warns about a field that an object of this type does not have.
    pub(super) fn surplus(&mut self, at: &At<'_>, message: impl fmt::Display) {
        self.tell(FlawKind::SurplusField, Severity::Warning, at, &message);
    }

    /// Reports a kind or version that is not read.
    pub(super) fn odd_kind(&mut self, severity: Severity, at: &At<'_>, message: impl fmt::Display) {
        self.tell(FlawKind::Kind, severity, at, &message);
    }

    /// Warns about an unknown field below `at` that is given by its steps.
    pub(super) fn unknown(&mut self, at: &At<'_>, steps: &[PathStep], message: impl fmt::Display) {
        let mut field = String::new();
        for step in steps {
            match step {
                PathStep::Key(key) if field.is_empty() => field.push_str(key),
                PathStep::Key(key) => {
                    field.push('.');
                    field.push_str(key);
                }
                PathStep::Index(index) => field.push_str(&format!("[{index}]")),
            }
        }
        let steps = at.steps().into_iter().chain(steps.iter().cloned()).collect();
        let (kind, severity) = (FlawKind::UnknownField, Severity::Warning);
        let (object, message) = (self.object.clone(), message.to_string());
        let flaw = Flaw { place: None, kind, severity, object, field, message, skips: false };
        self.sink.tell(Finding { steps, flaw });
    }

    fn tell(
        &mut self,
        kind: FlawKind,
        severity: Severity,
        at: &At<'_>,
        message: &dyn fmt::Display,
    ) {
        self.failed |= severity == Severity::Error;
        let flaw = self.flaw(kind, severity, at, message);
        self.sink.tell(Finding { steps: at.steps(), flaw });
    }

    fn leave_out(&mut self, kind: FlawKind, at: &At<'_>, message: &dyn fmt::Display) {
        let flaw = Flaw { skips: true, ..self.flaw(kind, Severity::Warning, at, message) };
        self.sink.tell(Finding { steps: at.steps(), flaw });
    }

    fn flaw(
        &self,
        kind: FlawKind,
        severity: Severity,
        at: &At<'_>,
        message: &dyn fmt::Display,
    ) -> Flaw {
        let (object, message) = (self.object.clone(), message.to_string());
        let field = at.to_string();
        Flaw { place: None, kind, severity, object, field, message, skips: false }
    }

    /// Returns the shared copy of a text.
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        self.sink.interner.get(text)
    }

    /// Returns the value of a field, if it is present and of the right type; another type is an
    /// error.
    pub(super) fn get<'f, T: Shape>(&mut self, field: &'f Field<T>, at: &At<'_>) -> Option<&'f T> {
        match field {
            Field::Is(value) => Some(value),
            Field::Absent => None,
            Field::Wrong(found) => {
                self.error(at, format_args!("expected {}, found {found}", T::NAME));
                None
            }
        }
    }

    /// Returns a text that is not empty. Kubernetes treats an empty text as absent.
    pub(super) fn text<'f>(&mut self, field: &'f Field<Text>, at: &At<'_>) -> Option<&'f str> {
        self.get(field, at).map(|text| &**text).filter(|text| !text.is_empty())
    }

    /// Returns the elements of a list; none if it is absent.
    pub(super) fn list<'f, T: Shape>(
        &mut self,
        field: &'f Field<Vec<Field<T>>>,
        at: &At<'_>,
    ) -> &'f [Field<T>] {
        self.get(field, at).map_or(&[], Vec::as_slice)
    }

    /// Returns labels or a selector.
    pub(super) fn labels(
        &mut self,
        field: &Field<Texts>,
        at: &At<'_>,
    ) -> BTreeMap<LabelKey, LabelValue> {
        let mut labels = BTreeMap::new();
        for (key, value) in self.get(field, at).map_or(&[][..], |texts| &texts.0) {
            let value = self.get(value, &at.key(key)).map_or("", |value| &**value);
            labels.insert(LabelKey::new(self.share(key)), LabelValue::new(self.share(value)));
        }
        labels
    }

    /// Returns the value of one label.
    pub(super) fn label<'f>(
        &mut self,
        labels: &'f Field<Texts>,
        wanted: &str,
        at: &At<'_>,
    ) -> Option<&'f str> {
        let texts = self.get(labels, at)?;
        let (key, value) = texts.0.iter().find(|(key, _)| **key == *wanted)?;
        Some(self.get(value, &at.key(key)).map_or("", |value| &**value))
    }

    /// Returns a port that may be absent; zero means absent.
    pub(super) fn optional_port(&mut self, field: &Field<i64>, at: &At<'_>) -> Option<NonZeroU16> {
        match self.get(field, at) {
            None | Some(0) => None,
            Some(number) => self.port(*number, at),
        }
    }

    /// Returns a port that must be present.
    pub(super) fn required_port(&mut self, field: &Field<i64>, at: &At<'_>) -> Option<NonZeroU16> {
        if matches!(field, Field::Absent) {
            self.lacks(at, "missing");
        }
        let number = self.get(field, at)?;
        self.port(*number, at)
    }

    /// Reports that a text is missing, unless an error was reported for it already.
    pub(super) fn missing(&mut self, field: &Field<Text>, at: &At<'_>) {
        if !matches!(field, Field::Wrong(_)) {
            self.lacks(at, "missing");
        }
    }

    /// Converts a number to a port.
    pub(super) fn port(&mut self, number: i64, at: &At<'_>) -> Option<NonZeroU16> {
        let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
        if port.is_none() {
            self.error(at, format_args!("{number} is not in 1..65535"));
        }
        port
    }

    /// Returns a protocol; TCP if it is absent.
    pub(super) fn protocol(&mut self, field: &Field<Text>, at: &At<'_>) -> Protocol {
        let others = [("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
        self.choice(field, at, ("TCP", Protocol::Tcp), others)
    }

    /// Returns one of several words; the first if the field is absent. Another word is an error.
    pub(super) fn choice<T: Copy, const N: usize>(
        &mut self,
        field: &Field<Text>,
        at: &At<'_>,
        first: (&str, T),
        others: [(&str, T); N],
    ) -> T {
        let Some(word) = self.text(field, at) else { return first.1 };
        let mut choices = std::iter::once(first).chain(others);
        if let Some((_, value)) = choices.find(|(name, _)| *name == word) {
            return value;
        }
        let names: Vec<&str> = std::iter::once(first).chain(others).map(|(name, _)| name).collect();
        self.error(at, format_args!("{word:?} is not one of {}", names.join(", ")));
        first.1
    }

    /// Returns the name of a port: empty, or a DNS label of at most `longest` characters.
    pub(super) fn port_name(
        &mut self,
        field: &Field<Text>,
        at: &At<'_>,
        longest: usize,
    ) -> PortName {
        let name = self.text(field, at).unwrap_or_default();
        self.check_port_name(name, at, longest);
        PortName::new(self.share(name))
    }

    /// Reports a text that is not a valid name of a port.
    pub(super) fn check_port_name(&mut self, name: &str, at: &At<'_>, longest: usize) {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.len() > longest {
            self.error(at, format_args!("{name:?} is longer than {longest} characters"));
        } else if !name.bytes().all(fits) {
            let rule = "lower-case letters, digits and \"-\" only";
            self.error(at, format_args!("{name:?} is not the name of a port: {rule}"));
        }
    }

    /// Returns a range; anything else is an error. If it were skipped, the rest of the list might
    /// mean something else: an empty list of source ranges lets all clients connect.
    pub(super) fn range(&mut self, field: &Field<Text>, at: &At<'_>) -> Option<IpNet> {
        let text = match self.get(field, at) {
            Some(text) => text.trim(),
            None if matches!(field, Field::Absent) => "",
            None => return None,
        };
        let range = parse_range(text);
        if range.is_none() {
            let hint = range_hint(text).map_or_else(String::new, |hint| format!(": {hint}"));
            self.error(at, format_args!("{text:?} is not a range{hint}"));
        }
        range
    }

    /// Returns the ranges of a list, masked, sorted, without duplicates.
    pub(super) fn ranges(&mut self, list: &Field<Vec<Field<Text>>>, at: &At<'_>) -> Vec<IpNet> {
        let list = self.list(list, at).iter().enumerate();
        let ranges: BTreeSet<IpNet> =
            list.filter_map(|(index, field)| self.range(field, &at.index(index))).collect();
        ranges.into_iter().collect()
    }

    /// Returns an address that may be absent or invalid. An invalid one is skipped, with a warning
    /// if it is not blank.
    pub(super) fn skippable_ip(&mut self, field: &Field<Text>, at: &At<'_>) -> Option<IpAddr> {
        let text = self.text(field, at)?.trim();
        let address = parse_ip(text);
        if address.is_none() && !text.is_empty() {
            self.skip(at, format_args!("{text:?} is not an IP address; it is skipped"));
        }
        address
    }

    /// Like [`skippable_ip`](Self::skippable_ip), for an address of a Service or an endpoint.
    pub(super) fn fit_ip(&mut self, field: &Field<Text>, at: &At<'_>) -> Option<IpAddr> {
        let address = self.skippable_ip(field, at)?;
        if let Some(reason) = unfit(address) {
            self.skip(at, format_args!("{address} is {reason}; it is skipped"));
            return None;
        }
        Some(address)
    }
}
