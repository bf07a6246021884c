//! Authentication of requests.

use std::collections::BTreeSet;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use crate::resource::{Resource, Verb};
use crate::status::Status;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// May read only what needs no rights: health and version.
    Anonymous,
    /// May do everything.
    Known,
}

/// Authenticates a request by the client's certificate, which TLS has verified, or by its token.
///
/// # Errors
///
/// 401 for a token that is not accepted.
pub(crate) fn authenticate(
    headers: &HeaderMap,
    certified: bool,
    tokens: &BTreeSet<String>,
) -> Result<User, Status> {
    if certified {
        return Ok(User::Known);
    }
    let Some(header) = headers.get(AUTHORIZATION) else { return Ok(User::Anonymous) };
    let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
    match token {
        Some(token) if tokens.contains(token) => Ok(User::Known),
        _ => Err(Status::of_code(401)),
    }
}

/// Returns the refusal of a request without credentials for anything but health and version.
pub(crate) fn forbidden(verb: Verb, resource: Option<Resource>, path: &str) -> Status {
    let user = "User \"system:anonymous\" cannot";
    let verb = verb.name();
    let message = match resource {
        Some(resource) => format!(
            "{} is forbidden: {user} {verb} resource {:?} in API group {:?} at the cluster scope",
            resource.plural(),
            resource.plural(),
            resource.group()
        ),
        None => format!("forbidden: {user} {verb} path {path:?}"),
    };
    Status::new(403, "Forbidden", message)
}
