//! The commands that only look: `check`, `diff`, `explain`, `history`, `replay`, `show`, `status`,
//! `top`, `trace` and `watch`. `input` is a state as the command line names it, `daemon` asks the running daemon for its
//! own, `balancing` is what a state tells of load balancing, and `past` a change of the history as
//! text. `progress` and `pager` are for terminals. `complete` is for shells.

mod balancing;
pub mod check;
mod compiling;
pub mod complete;
mod daemon;
pub mod diff;
pub mod explain;
pub mod history;
mod input;
mod pager;
pub(crate) mod past;
mod progress;
pub mod replay;
pub mod show;
pub mod status;
pub mod top;
pub mod trace;
pub mod watch;
