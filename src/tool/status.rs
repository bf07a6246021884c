//! `rulec status`: how the daemon is, for a person who was woken up.

use std::io::{self, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::Context;
use rulec_compiler::plural::counted;

use crate::cli::show::{StatusArgs, StatusOutput};
use crate::observe::state;
use crate::observe::status::{KernelStatus, Status};
use crate::tool::daemon::{Unanswered, ask};
use crate::tool::show::source::{self, ago};

const HEAD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const WARN: Style = AnsiColor::Yellow.on_default();

/// Prints it. The exit status is 0 if nothing is wrong, and 1 if something is.
///
/// # Errors
///
/// If the daemon cannot be asked.
pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let socket = args.socket.path().context("--socket is empty: name the daemon's socket")?;
    let status: Status = match ask(socket, state::STATUS) {
        Ok(status) => status,
        Err(error @ Unanswered::NoDaemon { .. }) => anyhow::bail!("{error}"),
        Err(Unanswered::Failed(error)) => return Err(error),
    };
    let mut out = anstream::stdout().lock();
    let printed = match args.output {
        StatusOutput::Text => write(&mut out, &status),
        StatusOutput::Json => json(&mut out, &status),
    };
    match printed.and_then(|()| out.flush()) {
        // The reader has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("writing to standard output")?,
    }
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn json(out: &mut impl Write, status: &Status) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, status)?;
    writeln!(out)
}

fn write(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let now = status.time;
    let (style, word) = if status.healthy { (GOOD, "healthy") } else { (BAD, "not healthy") };
    let Status { version, node, mode, process, kernel, objects, .. } = status;
    writeln!(out, "{style}{word}{style:#}: rulec {version} on node {node}, mode {mode}")?;
    let since = ago(Some(status.started), now);
    writeln!(out, "  running for {since}, since {:.0}, as process {process}", status.started)?;
    writeln!(out, "  {}", in_sync(status))?;
    writeln!(
        out,
        "  {}, {}, {}, {}",
        counted(objects.services as u64, "Service"),
        counted(objects.endpoint_slices as u64, "EndpointSlice"),
        counted(objects.pods as u64, "Pod"),
        counted(objects.nodes as u64, "Node"),
    )?;
    let KernelStatus { last_commit, last_comparison, repairs, .. } = kernel;
    let of = |at| if ago(at, now).is_empty() { "never".to_owned() } else { ago(at, now) + " ago" };
    writeln!(
        out,
        "  last commit {}, last comparison with the kernel {}, {}",
        of(*last_commit),
        of(*last_comparison),
        counted(*repairs as u64, "repair"),
    )?;
    if let Some(error) = &kernel.last_error {
        let lasts = if error.lasts { "" } else { " (over)" };
        writeln!(out, "  last error {}{lasts}: {}", of(Some(error.time)), error.message)?;
    }
    if !status.problems.is_empty() {
        writeln!(out, "\n{HEAD}Wrong{HEAD:#}")?;
        for problem in &status.problems {
            writeln!(out, "  {BAD}{problem}{BAD:#}")?;
        }
    }
    if !status.node_findings.is_empty() {
        writeln!(out, "\n{HEAD}This node{HEAD:#}")?;
        for finding in &status.node_findings {
            writeln!(out, "  {WARN}{finding}{WARN:#}")?;
        }
    }
    writeln!(out, "\n{HEAD}Sources{HEAD:#}")?;
    source::table(out, &status.sources, now, "  ", false)?;
    for source in &status.sources {
        if let Some(error) = &source.last_error {
            let over = if error.lasts { "" } else { " (over)" };
            let (name, message) = (source.source, &error.message);
            writeln!(out, "  {name}, {}{over}: {message}", of(Some(error.time)))?;
        }
        for problem in &source.problems {
            writeln!(out, "  {problem}")?;
        }
    }
    Ok(())
}

/// Says whether the kernel holds what the sources say.
fn in_sync(status: &Status) -> String {
    let kernel = &status.kernel;
    if kernel.in_sync {
        return "the kernel is in sync with all sources".to_owned();
    }
    let mut text = "the kernel is not in sync".to_owned();
    if let Some(since) = kernel.behind_since {
        text += &format!(" for {}", ago(Some(since), status.time));
    }
    let waiting = [(kernel.waiting_services, "Service"), (kernel.waiting_endpoints, "endpoint")];
    let waiting = waiting.iter().filter(|(count, _)| *count > 0);
    let waiting: Vec<String> =
        waiting.map(|(count, what)| counted(*count as u64, &format!("changed {what}"))).collect();
    if !waiting.is_empty() {
        text += &format!(": {} waiting", waiting.join(" and "));
    }
    if !kernel.refused.is_empty() {
        text += &format!("; it refuses {}", counted(kernel.refused.len() as u64, "Service"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::{Condition, LastError, RefusedService};

    fn status() -> Status {
        let source = |source: &str, state: &str| {
            serde_json::json!({
                "source": source, "state": state, "since": "2026-01-01T00:00:00Z",
                "services": 2, "objects": 7, "errors": 0, "warnings": 0, "problems": [],
            })
        };
        let mut manifests = source("manifests", "inSync");
        manifests["lastHeard"] = "2026-01-02T03:04:00Z".into();
        let document = serde_json::json!({
            "apiVersion": "rulec.io/v1alpha1", "kind": "Status", "time": "2026-01-02T03:04:05Z",
            "version": "0.1.0", "process": 42, "started": "2026-01-02T03:00:05Z", "node": "na",
            "mode": "nftables", "healthy": true, "problems": [], "nodeFindings": [],
            "kernel": {
                "inSync": true, "waitingServices": 0, "waitingEndpoints": 0, "repairs": 0,
                "lastCommit": "2026-01-02T03:03:35Z", "lastComparison": "2026-01-02T03:00:06Z",
                "refused": [],
            },
            "objects": { "services": 2, "endpointSlices": 3, "pods": 1, "nodes": 1 },
            "sources": [manifests, source("kernel", "inSync")],
        });
        serde_json::from_value(document).unwrap()
    }

    fn text(status: &Status) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        write(&mut out, status).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn a_healthy_daemon_takes_few_lines() {
        insta::assert_snapshot!(text(&status()));
    }

    #[test]
    fn what_is_wrong_comes_first() {
        let mut status = status();
        let error = "the kernel's answer was lost: No buffer space available (os error 105)";
        let refusal = "Invalid argument (os error 22)";
        status.healthy = false;
        status.problems = vec![
            format!("the kernel cannot be programmed: {error}"),
            format!("the kernel refuses Service default/web (3 times): {refusal}"),
            "source API server: unavailable".to_owned(),
        ];
        status.node_findings = vec!["this node does not forward IPv4".to_owned()];
        let at = "2026-01-02T03:04:00Z".parse().unwrap();
        let last =
            |message: &str, lasts| Some(LastError { time: at, message: message.to_owned(), lasts });
        let kernel = &mut status.kernel;
        (kernel.in_sync, kernel.waiting_services, kernel.repairs) = (false, 1, 2);
        kernel.behind_since = Some(at);
        kernel.last_error = last(error, true);
        kernel.refused = vec![RefusedService {
            service: "default/web".to_owned(),
            error: refusal.to_owned(),
            attempts: 3,
        }];
        let mut api = status.sources.remove(0);
        (api.source, api.state) = (rulec_compiler::Origin::Api, Condition::Unavailable);
        api.last_error = last("services: connection refused", true);
        (api.warnings, api.problems) =
            (1, vec!["services: Service default/a: no ports".to_owned()]);
        status.sources.insert(0, api);
        insta::assert_snapshot!(text(&status));
    }
}
