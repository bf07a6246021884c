//! `rulec check`: its options, and the rules that they name.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ProxyMode, RangeArgs};

/// `rulec check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Directories and files of manifests, and `-` for the standard input
    ///
    /// A directory is read as `rulec run --manifests` reads it. What is not read in it, such as
    /// other directories, is named.
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = CheckOutput::Text)]
    pub output: CheckOutput,
    /// Rules that are not applied
    ///
    /// docs/check.md describes each rule.
    #[arg(long, value_name = "RULE,...", value_enum, value_delimiter = ',')]
    pub ignore: Vec<Rule>,
    /// The proxy mode of the nodes, for annotations that have no effect in it [default: nftables]
    #[arg(long, value_name = "MODE", value_enum)]
    pub proxy_mode: Option<ProxyMode>,
    /// What Services of manifests are given
    #[command(flatten)]
    pub ranges: RangeArgs,
}

/// The output format of a check
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckOutput {
    /// For people
    Text,
    /// As documented in docs/check-json.md
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
}

/// What is checked. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Rule {
    /// A file or directory cannot be read
    Unreadable,
    /// A file is not text, not YAML or not JSON, or there is nothing in it
    Syntax,
    /// A document has no kind, a misspelt one, or a version that is not read
    UnknownKind,
    /// A field does not exist; it is probably misspelt
    UnknownField,
    /// An object of this type does not have the field
    SurplusField,
    /// A field that the object needs is missing
    MissingField,
    /// A field does not have a value that it can have
    InvalidValue,
    /// The API does not accept the name, the label or the selector
    InvalidName,
    /// Two objects have the same kind, namespace and name
    DuplicateObject,
    /// Two Services ask for the same address and port, or for the same node port
    FrontendConflict,
    /// A node port is outside the range of node ports, or a range has no room
    OutsideRange,
    /// A Service selects no Pod and no workload of the manifests
    SelectorMatchesNothing,
    /// A Service names a port that its Pods do not have
    UnknownTargetPort,
    /// The address of a Pod is not in the manifests
    PodWithoutAddress,
    /// The endpoints of an EndpointSlice or of Endpoints are not used
    UnusedEndpoints,
    /// A field has no effect on an object of this type, or in this mode
    FieldWithoutEffect,
    /// A directory or file is not read
    NotRead,
    /// Manifests that another tool makes are not seen: only what it prints can be checked
    NotBuilt,
}

impl Rule {
    /// Returns the name.
    pub fn id(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Returns the description, one sentence without its full stop.
    pub fn summary(self) -> String {
        let value = self.to_possible_value();
        let help = value.as_ref().and_then(|value| value.get_help());
        help.map_or_else(String::new, ToString::to_string)
    }
}
