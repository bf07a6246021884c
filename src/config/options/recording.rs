//! The options that record what sources send, or replay it.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use rulec_sources::recording::Speed;

use crate::config::options::heading;

/// Recording, and replaying
#[derive(Debug, Args)]
pub struct RecordingArgs {
    /// Record all that the sources send to FILE, with times, for `--replay` and `rulec replay`
    ///
    /// The recording goes on over restarts. When FILE is full, it is renamed to FILE.old, and a new
    /// FILE begins with the whole state. Only root and the user of the daemon can read it. A disk that
    /// is slow or full delays no change. A FILE that is no recording stays as it is, and nothing is
    /// recorded.
    #[arg(long, help_heading = heading::RECORDING, value_name = "FILE")]
    pub to_file: Option<PathBuf>,
    /// How much FILE and FILE.old may have together, in MiB [default: 64]
    #[arg(long, help_heading = heading::RECORDING, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub to_file_mib: Option<u64>,
    /// Record pseudonyms instead of names and addresses
    ///
    /// The key that they follow from is new at each start, and is not kept. So each start begins
    /// another FILE, and FILE.old has what was before this start, but nothing before the last one.
    #[arg(long, help_heading = heading::RECORDING)]
    pub to_file_mask: bool,
    /// Program the node from a recording, and from nothing else
    ///
    /// The settings are those of the recording, whatever other options say. At the end of the
    /// recording, its last state stays.
    #[arg(long, help_heading = heading::RECORDING, value_name = "FILE")]
    pub replay: Option<PathBuf>,
    /// How many times as fast as it was recorded, or `max` [default: 1]
    #[arg(long, help_heading = heading::RECORDING, value_name = "SPEED")]
    pub replay_speed: Option<Speed>,
    /// When to begin: what was before this time is programmed at once
    #[arg(long, help_heading = heading::RECORDING, value_name = "TIME")]
    pub replay_from: Option<Timestamp>,
    /// When to end: what was after this time is left out
    #[arg(long, help_heading = heading::RECORDING, value_name = "TIME")]
    pub replay_until: Option<Timestamp>,
}
