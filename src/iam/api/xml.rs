//! XML as the query protocol answers it.

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::iam::sessions::moment;

const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

/// Elements in a row.
#[derive(Debug, Default)]
pub(super) struct Xml(String);

impl Xml {
    /// An element with a text. Names are constants of this front end.
    pub(super) fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.element(name, |inner| escape(&mut inner.0, text))
    }

    /// An element with a text, if there is one.
    pub(super) fn text_if_any(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    /// An element with a number or a truth value.
    pub(super) fn value(&mut self, name: &str, value: impl std::fmt::Display) -> &mut Self {
        self.text(name, &format!("{value}"))
    }

    /// An element with a moment, in seconds since 1970.
    pub(super) fn time(&mut self, name: &str, seconds: i64) -> &mut Self {
        // A year of more than four digits cannot be printed; none was ever recorded.
        let text = moment(seconds).format(TIMESTAMP).unwrap_or_default();
        self.text(name, &text)
    }

    /// An element with a policy: its text, percent-encoded (RFC 3986).
    pub(super) fn policy(&mut self, name: &str, document: &str) -> &mut Self {
        const RESERVED: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
            .remove(b'-')
            .remove(b'.')
            .remove(b'_')
            .remove(b'~');
        let encoded = percent_encoding::utf8_percent_encode(document, RESERVED).to_string();
        self.text(name, &encoded)
    }

    /// An element with elements.
    pub(super) fn element(&mut self, name: &str, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.0.extend(["<", name, ">"]);
        fill(self);
        self.0.extend(["</", name, ">"]);
        self
    }

    /// A list: a `member` each.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        fill: impl Fn(&mut Self, T),
    ) -> &mut Self {
        self.element(name, |list| {
            for item in items {
                list.element("member", |member| fill(member, item));
            }
        })
    }

    /// All of it.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Appends `text`. What XML 1.0 has no way to write is replaced.
fn escape(into: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '&' => into.push_str("&amp;"),
            '"' => into.push_str("&quot;"),
            '\r' => into.push_str("&#13;"),
            '\n' | '\t' => into.push(c),
            c if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') => into.push('\u{FFFD}'),
            c => into.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_an_element() {
        let mut xml = Xml::default();
        xml.text("a", "<b>&\"\r\u{1}");
        assert_eq!(xml.as_str(), "<a>&lt;b&gt;&amp;&quot;&#13;\u{FFFD}</a>");
    }

    #[test]
    fn a_moment_is_written_in_utc() {
        let mut xml = Xml::default();
        xml.time("t", 1_795_478_400);
        assert_eq!(xml.as_str(), "<t>2026-11-24T00:00:00Z</t>");
    }
}
