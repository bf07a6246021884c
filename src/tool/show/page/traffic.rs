//! New connections: how many there were in each minute, and which Services have the most.

use super::bars::{Bar, bars, rows};
use super::html::Html;
use crate::observe::traffic::course::{Busiest, MINUTE, MINUTES, Minute};

/// How many Services are drawn.
const SERVICES: usize = 8;

/// The longest name that is drawn; a title has all of it.
const NAME: usize = 44;

/// What is known of the connections, if they are counted.
pub(super) struct Traffic {
    pub(super) minutes: Vec<Minute>,
    pub(super) busiest: Busiest,
}

/// Adds the plots.
pub(super) fn traffic(html: &mut Html, traffic: Option<&Result<Traffic, String>>) {
    let Some(traffic) = traffic else { return };
    html.element("section", &[("id", &"traffic")], |html| {
        html.leaf("h2", &[], "New connections");
        match traffic {
            Ok(traffic) => html.element("div", &[("class", &"plots")], |html| {
                over_time(html, &traffic.minutes);
                busiest(html, &traffic.busiest);
            }),
            Err(error) => {
                html.leaf("p", &[("class", &"wrong")], format_args!("cannot be read: {error}"));
            }
        }
    });
}

fn over_time(html: &mut Html, minutes: &[Minute]) {
    let title = "All Services";
    let sum = match minutes.last() {
        None => "nothing yet: the first minute is not over".to_owned(),
        Some(last) => {
            let most = minutes.iter().map(|minute| minute.rate).fold(0.0, f64::max);
            let over = match (last.passed.as_secs() + 30) / 60 {
                0 | 1 => "minute".to_owned(),
                minutes => format!("{minutes} minutes"),
            };
            format!(
                "{} a second in the last {over} · {} at the most",
                short(last.rate),
                short(most)
            )
        }
    };
    figure(html, title, "in a second, minute by minute, in the last hour", &sum, |html| {
        let Some(last) = minutes.last() else { return };
        let label = |ago| if ago == 0 { "now".to_owned() } else { format!("-{ago} min") };
        // The right end is now, however many there are. Intervals are not all as long: each minute has
        // that of its middle.
        let bar = |ago: usize| {
            let middle = last.to - MINUTE * u32::try_from(ago).unwrap_or(u32::MAX) - MINUTE / 2;
            let is_there =
                |minute: &&Minute| minute.to > middle && minute.to - minute.passed <= middle;
            let (value, title) =
                minutes.iter().rfind(is_there).map_or((0.0, String::new()), |it| {
                    (it.rate, format!("until {:.0}: {} a second", it.to, short(it.rate)))
                });
            Bar { value, title, label: label(ago) }
        };
        let all: Vec<Bar> = (0..MINUTES).rev().map(bar).collect();
        bars(html, &format!("{title}: {sum}"), &all);
    });
}

fn busiest(html: &mut Html, busiest: &Busiest) {
    let title = "Busiest Services";
    let sum = match busiest.services.len() {
        0 => "none had a new connection".to_owned(),
        all if all > SERVICES => format!("{SERVICES} of {all} Services with new connections"),
        1 => "1 Service with new connections".to_owned(),
        all => format!("{all} Services with new connections"),
    };
    let what = format!("in a second, in the last {:.0} seconds", busiest.seconds);
    figure(html, title, &what, &sum, |html| {
        let all: Vec<Bar> = busiest
            .services
            .iter()
            .take(SERVICES)
            .map(|(service, rate)| {
                let title = format!("{service}: {} a second", short(*rate));
                Bar { value: *rate, title, label: clipped(&service.to_string()) }
            })
            .collect();
        if !all.is_empty() {
            rows(html, &format!("{title}: {sum}"), &all, short);
        }
    });
}

fn figure(html: &mut Html, title: &str, what: &str, sum: &str, content: impl FnOnce(&mut Html)) {
    html.element("figure", &[], |html| {
        html.element("figcaption", &[], |html| {
            html.leaf("b", &[], title);
            html.leaf("span", &[("class", &"what")], what);
            html.leaf("span", &[("class", &"sum")], sum);
        });
        content(html);
    });
}

/// Returns a rate as `rulec top` writes it.
fn short(rate: f64) -> String {
    if rate >= 100.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

/// Returns the end of a name that is too long: names differ there more often.
fn clipped(name: &str) -> String {
    let letters = name.chars().count();
    if letters <= NAME {
        return name.to_owned();
    }
    let end: String = name.chars().skip(letters + 1 - NAME).collect();
    format!("…{end}")
}
