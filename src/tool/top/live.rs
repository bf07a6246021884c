//! The terminal of `rulec top`.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyEventKind};
use ratatui::DefaultTerminal;

use super::rates::Rates;
use super::read;
use super::screen::Screen;
use crate::observe::traffic::TrafficReport;

/// How soon the first rates are shown.
const FIRST: Duration = Duration::from_secs(1);

/// Draws until a key ends it. The terminal is as before then, also after a panic.
pub(super) fn show(socket: &Path, interval: Duration, first: TrafficReport) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let ended = follow(&mut terminal, socket, interval, first);
    ratatui::try_restore()?;
    ended
}

fn follow(
    terminal: &mut DefaultTerminal,
    socket: &Path,
    interval: Duration,
    mut last: TrafficReport,
) -> io::Result<()> {
    let mut screen = Screen::new(Rates::between(&last, &last));
    let mut due = Instant::now() + FIRST;
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        if event::poll(due.saturating_duration_since(Instant::now()))? {
            let event = event::read()?;
            if let Event::Key(key) = event
                && key.kind == KeyEventKind::Press
                && screen.press(key)
            {
                return Ok(());
            }
        }
        if Instant::now() >= due {
            // A daemon that has ended may be back at the next reading.
            let rates = read(socket).map(|report| {
                let rates = Rates::between(&last, &report);
                last = report;
                rates
            });
            screen.update(rates.map_err(|error| format!("{error:#}")));
            due = Instant::now() + interval;
        }
    }
}
