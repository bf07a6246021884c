//! kube-proxy's flags.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::fields::{FIELDS, Field, Role};
use crate::config::options::heading;
use crate::config::value::FieldType;

/// The flags that rulec itself has under the same name: they are declared with its other options,
/// as types.
const OWN: [&str; 4] =
    ["hostname-override", "cluster-cidr", "masquerade-all", "iptables-masquerade-bit"];

/// kube-proxy's flags, as typed. Their values are checked together with those of the file, so that
/// all problems are reported at once.
#[derive(Clone, Debug, Default)]
pub struct KubeProxyFlags {
    /// Names without dashes, and values. A repeated flag has its last value, or all values of a
    /// list.
    pub(crate) given: Vec<(&'static str, String)>,
}

/// Returns one field for each flag, in the order of the fields; those without effect come last, as
/// in the help.
fn flags() -> impl Iterator<Item = &'static Field> {
    let of_flags = FIELDS.iter().enumerate().filter_map(|(index, field)| {
        let is_first = FIELDS[..index].iter().all(|other| other.flag != field.flag);
        (!field.flag.is_empty() && !OWN.contains(&field.flag) && is_first).then_some(field)
    });
    let (ignored, used): (Vec<_>, Vec<_>) =
        of_flags.partition(|field| matches!(field.role, Role::Ignored(_)));
    used.into_iter().chain(ignored)
}

/// Returns the help text of a flag. Unlike a cell of a table, it begins like the others.
fn help(field: &Field) -> String {
    let mut text = match field.role {
        Role::Used => field.note.to_owned(),
        Role::When(condition) => format!("{}; only if {condition}", field.note),
        Role::Ignored(reason) => format!("no effect: {reason}"),
    };
    // A sysctl keeps its name.
    let is_word = text.split(' ').next().is_some_and(|word| !word.contains('_'));
    if let Some(first) = text.get_mut(..1).filter(|_| is_word) {
        first.make_ascii_uppercase();
    }
    text
}

/// Returns the heading of a flag in the help.
fn heading_of(field: &Field) -> &'static str {
    if let Role::Ignored(_) = field.role {
        return heading::WITHOUT_EFFECT;
    }
    let (section, name) = field.path.split_once('.').unwrap_or((field.path, ""));
    match (section, name) {
        // It only decides when the node counts as unhealthy.
        (_, "syncPeriod") => heading::OBSERVABILITY,
        ("clientConnection", _) => heading::SOURCES,
        ("logging", _) => heading::LOGGING,
        ("bindAddress" | "detectLocalMode" | "detectLocal" | "clusterCIDR", _) => heading::NODE,
        ("nodePortAddresses", _) => heading::SERVICES,
        ("mode" | "iptables" | "nftables", _) => heading::RULES,
        ("ipvs", _) => heading::IPVS,
        ("conntrack" | "oomScoreAdj", _) => heading::KERNEL,
        // The addresses and ports of two servers.
        _ => heading::OBSERVABILITY,
    }
}

impl Args for KubeProxyFlags {
    fn augment_args(command: Command) -> Command {
        let arguments = flags().map(|field| {
            let name = match field.kind {
                FieldType::Bool => "BOOL",
                FieldType::Int | FieldType::Number => "NUMBER",
                FieldType::Duration => "DURATION",
                FieldType::List => "LIST",
                FieldType::Gates => "GATES",
                FieldType::Text | FieldType::Any => "TEXT",
            };
            let argument = Arg::new(field.flag)
                .long(field.flag)
                .value_name(name)
                .help(help(field))
                .help_heading(heading_of(field))
                .hide(matches!(field.role, Role::Ignored(_)))
                .allow_hyphen_values(matches!(field.kind, FieldType::Int | FieldType::Number))
                .action(ArgAction::Append);
            let argument = if field.flag == "v" { argument.short('v') } else { argument };
            if field.kind != FieldType::Bool {
                return argument;
            }
            // As Go's: `--flag` is true, and a value needs an equals sign.
            argument.num_args(0..=1).require_equals(true).default_missing_value("true")
        });
        command.args(arguments)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KubeProxyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for field in flags() {
            if matches.value_source(field.flag) != Some(ValueSource::CommandLine) {
                continue;
            }
            let values: Vec<&String> = matches.get_many(field.flag).into_iter().flatten().collect();
            let text = if matches!(field.kind, FieldType::List | FieldType::Gates) {
                values.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(",")
            } else {
                values.last().map(|value| value.to_string()).unwrap_or_default()
            };
            given.push((field.flag, text));
        }
        Ok(Self { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
