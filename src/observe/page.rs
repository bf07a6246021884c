//! A page for people, served with the metrics where it is switched on.
//!
//! The loop gives pointers; a function that is given here makes the document of them, on another
//! thread and one at a time, so that neither many readers nor slow ones cost the loop anything.

use std::fmt;
use std::sync::Arc;

use hyper::StatusCode;
use tokio::sync::Mutex;

use super::http::HttpAnswer;
use super::metrics::Metrics;
use super::traffic::CountersAsker;
use super::view::{Asker, View};
use crate::history::History;

/// The path of the page.
pub const PAGE: &str = "/page";

/// The page loads nothing, runs nothing, sends its form nowhere else, and stands in no frame. It is
/// neither kept nor told to others.
const HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
    ),
    ("cache-control", "no-store"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Makes the document. It may take long.
pub type Render = fn(&Shown, &Wanted) -> anyhow::Result<String>;

/// What a page is made of.
#[derive(Debug)]
pub struct Shown {
    /// What the daemon knows.
    pub view: View,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// Its changes.
    pub history: History,
    /// Who counts connections, if somebody does.
    pub counters: Option<CountersAsker>,
}

/// Which Services are wanted, as the query says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// A part of the name, or a place where the Service is reached; empty for all.
    pub name: String,
    /// The namespace; empty for all.
    pub namespace: String,
}

/// What is wrong with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// There is no such parameter.
    Unknown(String),
    /// The value of this parameter is not text.
    NotText(String),
}

impl fmt::Display for QueryError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                write!(to, "there is no parameter {name:?}: use q or namespace")
            }
            Self::NotText(name) => write!(to, "the value of {name:?} is not percent-encoded UTF-8"),
        }
    }
}

impl Wanted {
    /// Reads a query, as browsers write that of a form.
    ///
    /// # Errors
    ///
    /// If a parameter is unknown, or not text.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        let mut wanted = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let field = match name {
                "q" => &mut wanted.name,
                "namespace" => &mut wanted.namespace,
                _ => return Err(QueryError::Unknown(name.to_owned())),
            };
            let value = decoded(value).ok_or_else(|| QueryError::NotText(name.to_owned()))?;
            value.trim().clone_into(field);
        }
        Ok(wanted)
    }
}

/// Decodes a value of a form.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => u8::try_from(digit()? * 16 + digit()?).ok()?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// The page.
#[derive(Clone, Debug)]
pub struct PageSite {
    daemon: Asker,
    metrics: Arc<Metrics>,
    history: History,
    counters: Option<CountersAsker>,
    render: Render,
    /// Allows one document at a time.
    turn: Arc<Mutex<()>>,
}

impl PageSite {
    /// Creates a page of a daemon.
    pub(super) fn new(
        daemon: Asker,
        metrics: Arc<Metrics>,
        history: History,
        counters: Option<CountersAsker>,
        render: Render,
    ) -> Self {
        Self { daemon, metrics, history, counters, render, turn: Arc::default() }
    }

    /// Returns the page for a query.
    pub(super) async fn answer(&self, query: &str) -> HttpAnswer {
        let answer = match Wanted::parse(query) {
            Ok(wanted) => self.document(wanted).await,
            Err(error) => HttpAnswer::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        };
        HttpAnswer { headers: HEADERS, ..answer }
    }

    async fn document(&self, wanted: Wanted) -> HttpAnswer {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let view = match self.daemon.ask().await {
            Ok(view) => view,
            Err(error) => return unavailable(&error),
        };
        let Self { metrics, history, counters, render, .. } = self.clone();
        let shown = Shown { view, metrics, history, counters };
        let make = move || {
            // Kept here: the reader may leave before the work is done.
            let _turn = turn;
            render(&shown, &wanted)
        };
        match tokio::task::spawn_blocking(make).await.map_err(anyhow::Error::new) {
            Ok(Ok(document)) => HttpAnswer {
                content_type: "text/html; charset=utf-8",
                ..HttpAnswer::text(StatusCode::OK, document)
            },
            Ok(Err(error)) | Err(error) => unavailable(&error),
        }
    }
}

fn unavailable(error: &anyhow::Error) -> HttpAnswer {
    HttpAnswer::text(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_browsers_write_it() {
        let wanted = |name: &str, namespace: &str| {
            Ok(Wanted { name: name.to_owned(), namespace: namespace.to_owned() })
        };
        assert_eq!(Wanted::parse(""), wanted("", ""));
        assert_eq!(Wanted::parse("q=web&namespace=default"), wanted("web", "default"));
        assert_eq!(Wanted::parse("q=+10.0.0.1%3A80+&namespace="), wanted("10.0.0.1:80", ""));
        assert_eq!(Wanted::parse("q=%C3%A9"), wanted("é", ""));
    }

    #[test]
    fn a_wrong_query_is_refused_by_name() {
        let error = |query: &str| Wanted::parse(query).unwrap_err().to_string();
        assert_eq!(error("name=web"), "there is no parameter \"name\": use q or namespace");
        for query in ["q=%", "q=%4", "q=%zz", "q=%ff", "q=%+1"] {
            assert_eq!(error(query), "the value of \"q\" is not percent-encoded UTF-8", "{query}");
        }
    }
}
