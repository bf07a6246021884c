//! kube-proxy's flags.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::fields::{FIELDS, Field, Role};
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

/// Returns one field for each flag, in the order of the fields.
fn flags() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().enumerate().filter_map(|(index, field)| {
        let is_first = FIELDS[..index].iter().all(|other| other.flag != field.flag);
        (!field.flag.is_empty() && !OWN.contains(&field.flag) && is_first).then_some(field)
    })
}

/// Returns the help text of a flag.
fn help(field: &Field) -> String {
    match field.role {
        Role::Used => field.note.to_owned(),
        Role::When(condition) => format!("{}; only if {condition}", field.note),
        Role::Ignored(reason) => format!("no effect: {reason}"),
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
                .help_heading("Options of kube-proxy")
                .hide_short_help(true)
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
