//! Findings as text, at most 80 columns wide where words allow it.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use rulec_compiler::plural::counted;

use super::Report;
use super::finding::{Finding, Severity};

const WIDTH: usize = 80;
const INDENT: &str = "    ";

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default();
const NOTE: Style = AnsiColor::Cyan.on_default();
const HEAD: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();

/// Prints to standard output; in colour on a terminal, unless NO_COLOR is set.
pub(super) fn print(report: &Report) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    for finding in &report.findings {
        write(&mut out, finding)?;
    }
    writeln!(out, "{}", summary(report))?;
    out.flush()
}

fn write(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let style = match finding.severity {
        Severity::Error => ERROR,
        Severity::Warning => WARNING,
        Severity::Note => NOTE,
    };
    let mut place = finding.path.to_string();
    if let Some(found) = finding.place {
        place += &format!(":{}", found.line);
        place += &found.column.map_or_else(String::new, |column| format!(":{column}"));
    }
    let Finding { severity, rule, object, .. } = finding;
    let object = object.as_ref().map_or_else(String::new, |object| format!(": {object}"));
    writeln!(out, "{HEAD}{place}{HEAD:#}: {style}{severity}{style:#}{object}")?;
    let rule = format!("[{}]", rule.id());
    for line in wrapped(&format!("{} {rule}", finding.said()), WIDTH - INDENT.len()) {
        match line.strip_suffix(&rule) {
            Some(said) => writeln!(out, "{INDENT}{said}{FAINT}{rule}{FAINT:#}")?,
            None => writeln!(out, "{INDENT}{line}")?,
        }
    }
    Ok(())
}

/// Breaks a text between words into lines of at most a width; a longer word has its own line.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn summary(report: &Report) -> String {
    let files = counted(report.files, "file");
    if report.findings.is_empty() {
        return format!("{files} read, nothing found.");
    }
    let counts = Severity::ALL.map(|severity| {
        let count = report.count(severity);
        (count > 0).then(|| counted(count, &severity.to_string()))
    });
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    format!("{files} read: {}.", counts.join(", "))
}
