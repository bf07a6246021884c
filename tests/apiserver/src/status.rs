//! `Status`: how the API reports a failure.

use serde_json::{Value, json};

/// A failure, as an HTTP answer or as the object of an ERROR event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Seconds, also sent as the `Retry-After` header.
    pub(crate) retry_after: Option<u32>,
    details: Option<Value>,
    /// A token with which a list can continue without consistency after its token expired.
    go_on: Option<String>,
}

impl Status {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            retry_after: None,
            details: None,
            go_on: None,
        }
    }

    /// Returns a failure with the reason of Kubernetes for the code, and a generic message.
    pub(crate) fn of_code(code: u16) -> Self {
        let (reason, message) = match code {
            400 => ("BadRequest", "the request is malformed"),
            401 => ("Unauthorized", "Unauthorized"),
            403 => ("Forbidden", "forbidden: the user may not do this"),
            404 => ("NotFound", "the server could not find the requested resource"),
            409 => ("Conflict", "the object has been modified"),
            410 => ("Expired", "too old resource version"),
            429 => ("TooManyRequests", "too many requests, please try again later"),
            500 => ("InternalError", "Internal error occurred: etcdserver: request timed out"),
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
            504 => ("Timeout", "the server was unable to return a response in the time allotted"),
            _ => ("", "an injected failure"),
        };
        Self::new(code, reason, message)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// Returns the refusal of a version that the server has not reached
    /// (`k8s.io/apiserver/pkg/storage/errors.go`).
    pub(crate) fn too_large(wanted: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {wanted}, current: {current}");
        let causes = json!([{
            "reason": "ResourceVersionTooLarge",
            "message": "Too large resource version",
        }]);
        Self {
            details: Some(json!({ "causes": causes, "retryAfterSeconds": 1 })),
            retry_after: Some(1),
            ..Self::new(504, "Timeout", format!("Timeout: {message}"))
        }
    }

    /// Returns the refusal of options that must not be combined: 422 with each field's error.
    pub(crate) fn invalid_options(faults: &[(&'static str, String)]) -> Self {
        let said: Vec<String> =
            faults.iter().map(|(field, what)| format!("{field}: Forbidden: {what}")).collect();
        let said = match said.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let causes: Vec<Value> = faults
            .iter()
            .map(|(field, what)| {
                json!({
                    "reason": "FieldValueForbidden",
                    "message": format!("Forbidden: {what}"),
                    "field": field,
                })
            })
            .collect();
        Self {
            details: Some(json!({
                "group": "meta.k8s.io", "kind": "ListOptions", "causes": causes,
            })),
            ..Self::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {said}"))
        }
    }

    pub(crate) fn going_on(self, token: String) -> Self {
        Self { go_on: Some(token), ..self }
    }

    pub(crate) fn retry_after(self, seconds: Option<u32>) -> Self {
        Self { retry_after: seconds, ..self }
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(token) = &self.go_on {
            status["metadata"]["continue"] = token.as_str().into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        } else if let Some(seconds) = self.retry_after {
            status["details"] = json!({ "retryAfterSeconds": seconds });
        }
        status
    }
}
