//! The command line of `rulec replay`.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::watch::PastOutput;

/// `rulec replay`
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The recording: of the two files of `rulec run --to-file`, the one without .old
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Leave out what was before this time
    #[arg(long, value_name = "TIME")]
    pub from: Option<Timestamp>,
    /// Leave out what was after this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<Timestamp>,
    /// Write it to OUT, as one file, instead of listing it
    ///
    /// With --from, it begins with the state at that time.
    #[arg(long, value_name = "OUT")]
    pub save: Option<PathBuf>,
    /// Write pseudonyms instead of names and addresses
    ///
    /// The same name has the same pseudonym everywhere in the file, and addresses keep their
    /// networks. Ports stay. Texts that may contain names go: paths of files, and problems.
    #[arg(long, requires = "save")]
    pub mask: bool,
    /// The key that pseudonyms follow from; it is made if it does not exist [default: a new one that
    /// is not kept]
    ///
    /// With the same key, several recordings have the same pseudonyms. Who has it can find out whether
    /// a name is in a recording.
    #[arg(long, value_name = "FILE", requires = "mask")]
    pub mask_key: Option<PathBuf>,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = PastOutput::Text, conflicts_with = "save")]
    pub output: PastOutput,
}
