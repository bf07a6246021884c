//! `rulec show`: Services, their endpoints, the node and the sources, as the daemon knows them or, without
//! one, as the kernel or another state tells.
//!
//! A state becomes one value (`service`, `node`, `source`), which is printed in every format. The
//! reasons why an endpoint is not used come from the compiler's own decision (`port`). What is counted of
//! connections and flows is added to that (`counts`).

mod counts;
mod frontend;
mod known;
mod node;
pub mod page;
mod port;
mod service;
pub(crate) mod source;
pub(crate) mod table;
mod text;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use jiff::Timestamp;
use rulec_compiler::nft::traffic::Traffic;
use serde::Serialize;

use crate::cli::name::Asked;
use crate::cli::show::{ShowArgs, ShowOutput, Subject};
use crate::observe::status::API_VERSION;
use counts::Counted;
use known::Known;
use node::NodeView;
use service::ServiceView;

/// A list as a document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<T> {
    api_version: &'static str,
    kind: &'static str,
    /// Which state this is.
    state: String,
    /// Which new connections are counted, if any are.
    #[serde(skip_serializing_if = "Option::is_none")]
    counted: Option<Traffic>,
    items: Vec<T>,
}

/// An endpoint, with its Service port.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointRow<'a> {
    namespace: &'a str,
    service: &'a str,
    port: &'a str,
    #[serde(flatten)]
    endpoint: &'a port::EndpointView,
}

/// Shows.
///
/// # Errors
///
/// If the state cannot be read, or has nothing of the name.
pub fn run(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let asked = match args.what {
        Subject::Services | Subject::Endpoints => {
            let parsed = args.name.as_deref().map(str::parse::<Asked>).transpose();
            parsed.map_err(anyhow::Error::msg)?
        }
        Subject::Node | Subject::Sources => None,
    };
    anyhow::ensure!(
        !args.flows || args.what == Subject::Endpoints,
        "--flows: only with rulec show endpoints"
    );
    let known = Known::read(args)?;
    let text = match args.what {
        Subject::Services | Subject::Endpoints => services(args, &known, asked.as_ref())?,
        Subject::Node => node(args, &known)?,
        Subject::Sources => sources(args, &known)?,
    };
    let mut out = anstream::stdout().lock();
    match out.write_all(&text).and_then(|()| out.flush()) {
        // The reader has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("writing to standard output")?,
    }
    let is_incomplete = known.side.errors().next().is_some();
    Ok(if is_incomplete { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn services(args: &ShowArgs, known: &Known, asked: Option<&Asked>) -> anyhow::Result<Vec<u8>> {
    let mut found = service::all(known);
    if let Some(namespace) = &args.namespace {
        found.retain(|service| service.namespace == *namespace);
    }
    if let Some(asked) = asked {
        found = matching(known, found, asked);
        anyhow::ensure!(
            !found.is_empty(),
            "{}: nothing of this name in {}",
            asked,
            known.side.name
        );
    }
    let counted = Counted::add(args, known, &mut found)?;
    let mut out = Vec::new();
    let is_wide = args.output == ShowOutput::Wide;
    match (args.output, args.what) {
        (ShowOutput::Json | ShowOutput::Yaml, Subject::Endpoints) => {
            let rows = found.iter().flat_map(|service| {
                let ports = service.ports.iter();
                ports.flat_map(move |port| {
                    port.endpoints.iter().map(move |endpoint| EndpointRow {
                        namespace: &service.namespace,
                        service: &service.name,
                        port: &port.name,
                        endpoint,
                    })
                })
            });
            print(args, known, "EndpointList", rows.collect(), counted, &mut out)?;
        }
        (ShowOutput::Json | ShowOutput::Yaml, _) => {
            print(args, known, "ServiceList", found, counted, &mut out)?;
        }
        (ShowOutput::Text | ShowOutput::Wide, Subject::Endpoints) => {
            text::endpoints(&mut out, &found, is_wide, counted)?;
        }
        // One that was asked for is described; several are listed, to choose from.
        (ShowOutput::Text, _) if asked.is_some() && found.len() == 1 => {
            found.iter().try_for_each(|service| text::describe(&mut out, service))?;
        }
        (ShowOutput::Text | ShowOutput::Wide, _) => {
            text::services(&mut out, &found, is_wide, counted)?;
        }
    }
    Ok(out)
}

/// Returns the Services that a name means, by their name or by a frontend.
fn matching(known: &Known, all: Vec<ServiceView>, asked: &Asked) -> Vec<ServiceView> {
    let of_frontend = |asked: &Asked| {
        let is_one = |service: &&ServiceView| {
            let is_asked = asked.port.is_none() && asked.names(&service.key);
            is_asked
                || service.ports.iter().any(|port| {
                    let mut frontends = port.frontends.iter();
                    frontends.any(|it| asked.has(&port.key, it.frontend, it.is_node_port()))
                })
        };
        all.iter().filter(is_one).cloned().collect::<Vec<ServiceView>>()
    };
    let found = of_frontend(asked);
    // Node ports answer on addresses of the node.
    let is_own = asked.address().is_some_and(|address| known.is_own(address));
    if found.is_empty() && is_own && asked.port.is_some() {
        return of_frontend(&asked.of_node());
    }
    found
}

fn node(args: &ShowArgs, known: &Known) -> anyhow::Result<Vec<u8>> {
    let view = NodeView::of(known, args.name.as_deref())?;
    let mut out = Vec::new();
    match args.output {
        ShowOutput::Json | ShowOutput::Yaml => {
            print(args, known, "NodeList", vec![view], Counted::default(), &mut out)?;
        }
        ShowOutput::Text | ShowOutput::Wide => node::write(&mut out, &view)?,
    }
    Ok(out)
}

fn sources(args: &ShowArgs, known: &Known) -> anyhow::Result<Vec<u8>> {
    let all = source::all(known);
    let now = known.status.as_ref().map_or_else(Timestamp::now, |status| status.time);
    let mut out = Vec::new();
    let found = match &args.name {
        Some(name) => vec![source::named(all, name)?],
        None => all,
    };
    match (args.output, found.as_slice()) {
        (ShowOutput::Json | ShowOutput::Yaml, _) => {
            print(args, known, "SourceList", found, Counted::default(), &mut out)?;
        }
        (ShowOutput::Text | ShowOutput::Wide, [one]) if args.name.is_some() => {
            source::describe(&mut out, one, now)?;
        }
        (ShowOutput::Text | ShowOutput::Wide, all) => {
            source::table(&mut out, all, now, "", args.output == ShowOutput::Wide)?;
        }
    }
    Ok(out)
}

/// Writes a document.
fn print<T: Serialize>(
    args: &ShowArgs,
    known: &Known,
    kind: &'static str,
    items: Vec<T>,
    counted: Counted,
    out: &mut Vec<u8>,
) -> anyhow::Result<()> {
    let (state, counted) = (known.side.name.clone(), counted.connections);
    let list = List { api_version: API_VERSION, kind, state, counted, items };
    if args.output == ShowOutput::Yaml {
        // By way of JSON, so that both have the same content.
        let value = serde_json::to_value(&list)?;
        out.extend_from_slice(serde_saphyr::to_string(&value)?.as_bytes());
    } else {
        serde_json::to_writer_pretty(&mut *out, &list)?;
    }
    if out.last() != Some(&b'\n') {
        out.push(b'\n');
    }
    Ok(())
}
