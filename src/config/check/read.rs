//! Reads fields by type. The types were checked when the values were taken in.

use std::net::IpAddr;

use rulec_sources::parse_ip;

use crate::config::duration::GoDuration;
use crate::config::value::Typed;
use crate::config::values::Values;

pub(super) fn address(values: &mut Values, path: &'static str) -> Option<IpAddr> {
    let said = text(values, path);
    let address = parse_ip(&said);
    if address.is_none() {
        values.refuse(path, format!("{said:?} is not an IP address"));
    }
    address
}

/// Returns a whole number within limits.
pub(super) fn within(values: &mut Values, path: &'static str, least: i32, most: i32) -> i32 {
    let Some(Typed::Int(said)) = values.take(path) else { return least };
    if !(least..=most).contains(&said) {
        let limit = if most == i32::MAX {
            format!("must not be less than {least}")
        } else {
            format!("must be between {least} and {most}")
        };
        values.refuse(path, format!("{limit}, not {said}"));
    }
    said.clamp(least, most)
}

pub(super) fn flag(values: &mut Values, path: &'static str) -> bool {
    matches!(values.take(path), Some(Typed::Bool(true)))
}

pub(super) fn text(values: &mut Values, path: &'static str) -> String {
    match values.take(path) {
        Some(Typed::Text(text)) => text,
        _ => String::new(),
    }
}

pub(super) fn text_if_given(values: &mut Values, path: &'static str) -> Option<String> {
    let text = text(values, path);
    values.is_given(path).then_some(text)
}

pub(super) fn duration(values: &Values, path: &str) -> GoDuration {
    match values.look(path) {
        Some(Typed::Duration(duration)) => duration,
        _ => GoDuration::ZERO,
    }
}
