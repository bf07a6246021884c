//! What `rulec top` shows on a terminal, and what keys do to it. No terminal is needed for either.

use std::collections::BTreeSet;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table, TableState};
use rulec_compiler::plural::counted;

use super::rates::{Rates, shown};

const KEYS: &str = "↑↓ select   → endpoints   ← close   q quit";

/// The width of a number, up to 2^32 connections, and of the number of endpoints.
const NUMBER: u16 = 11;
const ENDPOINTS: u16 = 9;

/// How many rows a page is.
const PAGE: usize = 10;

/// What is shown.
#[derive(Debug)]
pub(super) struct Screen {
    rates: Rates,
    /// Why the rates are not those of now, if they are not.
    trouble: Option<String>,
    /// The Service ports whose endpoints are shown.
    open: BTreeSet<String>,
    table: TableState,
}

/// What a row shows.
enum Content<'a> {
    Port(&'a super::PortRate),
    Endpoint(&'a super::rates::EndpointRate),
    /// That endpoints are not counted.
    Uncounted,
}

impl Screen {
    /// Starts with these rates.
    pub(super) fn new(rates: Rates) -> Self {
        let table = TableState::default().with_selected(Some(0));
        Self { rates, trouble: None, open: BTreeSet::new(), table }
    }

    /// Shows other rates, or why there are none.
    pub(super) fn update(&mut self, rates: Result<Rates, String>) {
        match rates {
            Ok(rates) => {
                self.rates = rates;
                self.trouble = None;
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
        self.select(0);
    }

    /// Does what a key asks for; returns true if that is to end.
    #[expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing")]
    pub(super) fn press(&mut self, key: KeyEvent) -> bool {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::PageUp => self.select(-PAGE.cast_signed()),
            KeyCode::PageDown => self.select(PAGE.cast_signed()),
            KeyCode::Home => self.select(isize::MIN),
            KeyCode::End => self.select(isize::MAX),
            KeyCode::Right | KeyCode::Enter | KeyCode::Char('l') => {
                if let Some((_, port)) = self.selected() {
                    let is_closed = self.open.insert(port.clone());
                    if !is_closed && key.code == KeyCode::Enter {
                        self.close(&port);
                    }
                }
            }
            KeyCode::Left | KeyCode::Char('h') => {
                if let Some((_, port)) = self.selected() {
                    self.close(&port);
                }
            }
            _ => {}
        }
        false
    }

    /// Hides the endpoints of a port, and selects its row.
    fn close(&mut self, port: &str) {
        if let Some((row, _)) = self.selected() {
            self.table.select(Some(row));
        }
        self.open.remove(port);
        self.select(0);
    }

    /// Moves the selection by some rows, as far as there are any.
    fn select(&mut self, by: isize) {
        let last = self.rows().len().saturating_sub(1);
        let selected = self.table.selected().unwrap_or(0);
        self.table.select(Some(selected.saturating_add_signed(by).min(last)));
    }

    /// Returns the port that the selected row is about, and the row of its name.
    fn selected(&self) -> Option<(usize, String)> {
        let rows = self.rows();
        let rows = rows.iter().enumerate().take(self.table.selected().unwrap_or(0) + 1).rev();
        rows.into_iter().find_map(|(row, content)| match content {
            Content::Port(port) => Some((row, port.name())),
            Content::Endpoint(_) | Content::Uncounted => None,
        })
    }

    fn rows(&self) -> Vec<Content<'_>> {
        let mut rows = Vec::new();
        for port in &self.rates.services {
            rows.push(Content::Port(port));
            if !self.open.contains(&port.name()) {
                continue;
            }
            if self.rates.has_endpoints() {
                rows.extend(port.endpoints.iter().map(Content::Endpoint));
            } else {
                rows.push(Content::Uncounted);
            }
        }
        rows
    }

    /// Draws it.
    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let areas =
            Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)]);
        let [head, body, foot] = areas.areas(frame.area());
        let Rates { node, seconds, services, .. } = &self.rates;
        let title = format!(
            "{node}: {} new connections/s to {}, in the last {seconds:.1} s",
            shown(Some(self.rates.total())),
            counted(services.len() as u64, "Service port"),
        );
        frame.render_widget(Line::from(title).bold(), head);
        let number = |text: String| Cell::from(Line::from(text).right_aligned());
        let rows: Vec<Row<'_>> = self
            .rows()
            .into_iter()
            .map(|content| match content {
                Content::Port(port) => {
                    let endpoints = if self.rates.has_endpoints() {
                        port.endpoints.len().to_string()
                    } else {
                        "-".to_owned()
                    };
                    let numbers = [shown(port.rate), port.connections.to_string(), endpoints];
                    Row::new([Cell::from(port.name())].into_iter().chain(numbers.map(number)))
                }
                Content::Endpoint(endpoint) => {
                    let name = Cell::from(format!("  {}", endpoint.endpoint));
                    let numbers = [shown(endpoint.rate), endpoint.connections.to_string()];
                    Row::new([name].into_iter().chain(numbers.map(number)))
                }
                Content::Uncounted => Row::new(["  not counted: needs --traffic endpoints"]),
            })
            .collect();
        let number_width = Constraint::Length(NUMBER);
        let widths =
            [Constraint::Min(20), number_width, number_width, Constraint::Length(ENDPOINTS)];
        let [rate, total, endpoints] =
            ["CONN/S", "TOTAL", "ENDPOINTS"].map(|text| number(text.to_owned()));
        let header = Row::new([Cell::from("SERVICE"), rate, total, endpoints]).bold();
        let table = Table::new(rows, widths).header(header);
        let table = table.row_highlight_style(Style::new().reversed());
        frame.render_stateful_widget(table, body, &mut self.table);
        let foot_line = match &self.trouble {
            Some(trouble) => Line::from(trouble.as_str()).red(),
            None => Line::from(KEYS).dim(),
        };
        frame.render_widget(foot_line, foot);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::rates::tests::report;
    use super::*;

    fn rates() -> Rates {
        let before = report(
            0,
            &[("web", &[("10.50.1.5:8080", 100), ("10.50.1.6:8080", 20)]), ("dns", &[("x", 5)])],
        );
        let now = report(
            2,
            &[
                ("web", &[("10.50.1.5:8080", 110), ("10.50.1.6:8080", 23)]),
                ("dns", &[("[2001:db8:50:1::5]:5353", 8_405)]),
                ("new", &[]),
            ],
        );
        Rates::between(&before, &now)
    }

    fn drawn(screen: &mut Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 9)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    fn press(screen: &mut Screen, codes: &[KeyCode]) {
        for code in codes {
            assert!(!screen.press(KeyEvent::new(*code, KeyModifiers::NONE)), "{code:?} ends it");
        }
    }

    #[test]
    fn services_are_drawn_on_80_columns() {
        insta::assert_snapshot!(drawn(&mut Screen::new(rates())));
    }

    #[test]
    fn endpoints_are_opened_and_closed() {
        let mut screen = Screen::new(rates());
        press(&mut screen, &[KeyCode::Down, KeyCode::Right, KeyCode::Down, KeyCode::Down]);
        insta::assert_snapshot!(drawn(&mut screen));
        // From an endpoint, its Service is closed and selected.
        press(&mut screen, &[KeyCode::Left]);
        assert_eq!((screen.table.selected(), screen.rows().len()), (Some(1), 3));
        press(&mut screen, &[KeyCode::Enter]);
        assert_eq!(screen.rows().len(), 5);
        press(&mut screen, &[KeyCode::Enter]);
        assert_eq!(screen.rows().len(), 3);
    }

    #[test]
    fn the_selection_stays_on_a_row() {
        let mut screen = Screen::new(rates());
        press(&mut screen, &[KeyCode::Up, KeyCode::PageDown]);
        assert_eq!(screen.table.selected(), Some(2));
        screen.update(Ok(Rates::between(&report(0, &[]), &report(1, &[("a", &[])]))));
        assert_eq!(screen.table.selected(), Some(0));
        screen.update(Ok(Rates::between(&report(0, &[]), &report(1, &[]))));
        press(&mut screen, &[KeyCode::Down, KeyCode::Right, KeyCode::Left, KeyCode::End]);
        assert_eq!(screen.table.selected(), Some(0));
    }

    #[test]
    fn endpoints_that_are_not_counted_say_so() {
        let mut rates = rates();
        rates.counted = rulec_compiler::nft::traffic::Traffic::Services;
        let mut screen = Screen::new(rates);
        press(&mut screen, &[KeyCode::Right]);
        assert!(drawn(&mut screen).contains("not counted: needs --traffic endpoints"));
    }

    #[test]
    fn what_went_wrong_is_in_the_last_line_until_the_next_reading() {
        let mut screen = Screen::new(rates());
        screen.update(Err("no daemon listens".to_owned()));
        assert!(drawn(&mut screen).contains("no daemon listens"));
        screen.update(Ok(rates()));
        assert!(!drawn(&mut screen).contains("no daemon listens"));
    }

    #[test]
    fn q_escape_and_control_c_end_it() {
        for (code, modifiers) in [
            (KeyCode::Char('q'), KeyModifiers::NONE),
            (KeyCode::Esc, KeyModifiers::NONE),
            (KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert!(Screen::new(rates()).press(KeyEvent::new(code, modifiers)), "{code:?}");
        }
    }
}
