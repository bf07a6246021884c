//! Makes the text of man pages: the help of each command, and its sections of `sections`.

use anyhow::Context;
use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::sections::{PAGES, Page, Row};

/// Returns the name of each file, and the page.
///
/// # Errors
///
/// If a command has no page, or a page has no command.
pub(crate) fn pages(command: Command) -> anyhow::Result<Vec<(String, String)>> {
    // Without a page for the subcommand `help`.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let names = |command: &Command| -> Vec<String> {
        command
            .get_subcommands()
            .filter(|it| !it.is_hide_set())
            .map(|it| it.get_name().to_owned())
            .collect()
    };
    let documented = PAGES.iter().map(|page| page.command).filter(|name| !name.is_empty());
    let forgotten =
        names(&command).into_iter().find(|name| PAGES.iter().all(|it| it.command != name));
    if let Some(name) = forgotten {
        anyhow::bail!("deploy/man/sections.rs: no page for `rulec {name}`");
    }
    for name in documented {
        command
            .find_subcommand(name)
            .with_context(|| format!("deploy/man/sections.rs: there is no `rulec {name}`"))?;
    }
    let of = |page: &Page| {
        let found = match page.command {
            "" => Some(&command),
            name => command.find_subcommand(name),
        };
        found
            .cloned()
            .context("a command")
            .and_then(|found| Ok((file(page.command), text(found, page)?)))
    };
    PAGES.iter().map(of).collect()
}

/// Returns the name of a page's file.
fn file(command: &str) -> String {
    format!("{}.1", title(command))
}

fn title(command: &str) -> String {
    if command.is_empty() { "rulec".to_owned() } else { format!("rulec-{command}") }
}

fn text(mut command: Command, page: &Page) -> anyhow::Result<String> {
    let has_commands = command.has_subcommands();
    let headings: Vec<String> =
        command.get_arguments().filter_map(Arg::get_help_heading).map(str::to_owned).collect();
    let version = command.get_version().unwrap_or_default().to_owned();
    // All options in a row would fill the screen.
    let usage = command.render_usage().to_string();
    let command = command.override_usage(usage.trim_start_matches("Usage:").trim().to_owned());
    let man = Man::new(command).source(format!("rulec {version}")).manual("rulec");
    let mut before = Vec::new();
    man.render_title(&mut before)?;
    man.render_name_section(&mut before)?;
    man.render_synopsis_section(&mut before)?;
    man.render_description_section(&mut before)?;
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;
    let options = grouped(&String::from_utf8(options)?, &headings);
    let mut commands = Vec::new();
    if has_commands {
        man.render_subcommands_section(&mut commands)?;
    }
    let mut after = Roff::new();
    examples(&mut after, page.examples);
    table(&mut after, "EXIT STATUS", page.exit_status);
    table(&mut after, "FILES", page.files);
    table(&mut after, "ENVIRONMENT", page.environment);
    see_also(&mut after, page);
    let before = String::from_utf8(before)?;
    let commands = String::from_utf8(commands)?;
    let all = before + &options + &commands + &after.to_roff();
    Ok(joined(&all))
}

/// Makes the groups of options sections below OPTIONS.
fn grouped(options: &str, headings: &[String]) -> String {
    let line = |line: &str| {
        let heading = line.strip_prefix(".SH ").map(|rest| rest.trim_matches('"'));
        let found = heading.and_then(|it| headings.iter().find(|known| known.to_uppercase() == it));
        found.map_or_else(|| line.to_owned(), |known| format!(".SS \"{known}\""))
    };
    options.lines().map(|it| line(it) + "\n").collect()
}

/// An empty line ends the indentation below an option; a paragraph of its own does not. Each part
/// begins by defining how quotes are written, of which the page needs one.
fn joined(text: &str) -> String {
    let is_definition = |line: &str| line.starts_with(".ie ") || line.starts_with(".el ");
    let (definition, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|it| is_definition(it));
    let all = definition.into_iter().take(2).chain(rest);
    all.map(|line| {
        if line.is_empty() {
            ".IP
"
            .to_owned()
        } else {
            format!(
                "{line}
"
            )
        }
    })
    .collect()
}

fn examples(roff: &mut Roff, rows: &[Row]) {
    roff.control("SH", ["EXAMPLES"]);
    for (what, line) in rows {
        roff.control("PP", []);
        roff.text([roman(*what)]);
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        roff.text([bold(*line)]);
        roff.control("fi", []);
        roff.control("RE", []);
    }
}

fn table(roff: &mut Roff, heading: &str, rows: &[Row]) {
    roff.control("SH", [heading]);
    for (term, meaning) in rows {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*meaning)]);
    }
}

fn see_also(roff: &mut Roff, page: &Page) {
    roff.control("SH", ["SEE ALSO"]);
    let own = PAGES.iter().map(|it| it.command).filter(|name| *name != page.command);
    let own = own.map(|name| format!("{}(1)", title(name)));
    let others = page.see_also.iter().map(|name| (*name).to_owned());
    let mut line: Vec<Inline> = Vec::new();
    for name in own.chain(others) {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        let (title, section) = name.split_once('(').unwrap_or((&name, ""));
        line.push(bold(title));
        line.push(roman(format!("({section}")));
    }
    roff.text(line);
    roff.control("PP", []);
    roff.text([
        roman("The documents of the package are in "),
        italic("/usr/share/doc/rulec/docs"),
        roman("; README.md there is their index."),
    ]);
}
