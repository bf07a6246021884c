//! HTML as text. Names of elements and attributes come from this program, and all else is escaped:
//! there is no way to add text that came from an object as markup.
//!
//! Elements without content are closed as in XML, so that the document can be checked as such.

use std::fmt::{self, Display, Write};

/// A document that grows.
#[derive(Debug, Default)]
pub(super) struct Html(String);

/// The name of an attribute, and its value.
pub(super) type Attribute<'a> = (&'static str, &'a dyn Display);

impl Html {
    /// Starts a document.
    pub(super) fn document() -> Self {
        Self("<!DOCTYPE html>\n".to_owned())
    }

    /// Adds an element with content.
    pub(super) fn element(
        &mut self,
        name: &'static str,
        attributes: &[Attribute<'_>],
        content: impl FnOnce(&mut Self),
    ) {
        self.start(name, attributes);
        self.0.push('>');
        content(self);
        self.end(name);
    }

    /// Adds an element with text.
    pub(super) fn leaf(
        &mut self,
        name: &'static str,
        attributes: &[Attribute<'_>],
        text: impl Display,
    ) {
        self.element(name, attributes, |html| html.text(text));
    }

    /// Adds an element without content.
    pub(super) fn empty(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        self.start(name, attributes);
        self.0.push_str("/>");
    }

    /// Adds text.
    pub(super) fn text(&mut self, text: impl Display) {
        // A string takes everything.
        let _ = write!(Escaped(&mut self.0), "{text}");
    }

    /// Adds the style of the document, which has nothing to escape.
    pub(super) fn style(&mut self, css: &'static str) {
        self.start("style", &[]);
        self.0.push('>');
        self.0.push_str(css);
        self.end("style");
    }

    /// Returns the document.
    pub(super) fn finish(self) -> String {
        self.0
    }

    fn start(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        self.0.push('<');
        self.0.push_str(name);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
    }

    fn end(&mut self, name: &'static str) {
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push_str(">\n");
    }
}

/// Escapes what is written.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                letter if is_unseen(letter) => self.0.push(char::REPLACEMENT_CHARACTER),
                letter => self.0.push(letter),
            }
        }
        Ok(())
    }
}

/// Returns whether a letter is none in XML, or makes text look like another one: those that control
/// the direction of others, or have no width.
fn is_unseen(letter: char) -> bool {
    match letter {
        '\n' | '\t' => false,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' => true,
        '\u{feff}' | '\u{fffe}' | '\u{ffff}' => true,
        letter => letter.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_cannot_become_markup() {
        let mut html = Html::default();
        let hostile = "\"><script>alert('&')</script>";
        html.leaf("p", &[("title", &hostile)], hostile);
        let escaped = "&quot;&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;";
        assert_eq!(html.finish(), format!("<p title=\"{escaped}\">{escaped}</p>\n"));
    }

    #[test]
    fn letters_that_are_not_seen_are_replaced() {
        let mut html = Html::default();
        html.text("a\0b\u{1b}[1mc\u{202e}d\u{200b}e\u{85}\n\té");
        assert_eq!(html.finish(), "a\u{fffd}b\u{fffd}[1mc\u{fffd}d\u{fffd}e\u{fffd}\n\té");
    }
}
