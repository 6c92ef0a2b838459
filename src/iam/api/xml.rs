//! XML as the query protocol answers it.

use serde_json::{Map, Value};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::audit::{CHARS_MAX, cut, lower_first};
use crate::iam::sessions::moment;

const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

/// Elements in a row.
#[derive(Debug, Default)]
pub(super) struct Xml(Vec<(String, Content)>);

#[derive(Debug)]
enum Content {
    Text(String),
    Elements(Xml),
    /// Elements that are one list, each a `member`.
    List(Xml),
}

impl Xml {
    /// An element with a text. Names are constants of this front end.
    pub(super) fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.put(name, Content::Text(text.to_owned()))
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
        let mut inner = Self::default();
        fill(&mut inner);
        self.put(name, Content::Elements(inner))
    }

    /// A list: a `member` each.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        fill: impl Fn(&mut Self, T),
    ) -> &mut Self {
        let mut list = Self::default();
        for item in items {
            list.element("member", |member| fill(member, item));
        }
        self.put(name, Content::List(list))
    }

    fn put(&mut self, name: &str, content: Content) -> &mut Self {
        self.0.push((name.to_owned(), content));
        self
    }

    /// All of it, as it is sent.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, into: &mut String) {
        for (name, content) in &self.0 {
            into.extend(["<", name, ">"]);
            match content {
                Content::Text(text) => escape(into, text),
                Content::Elements(inner) | Content::List(inner) => inner.write(into),
            }
            into.extend(["</", name, ">"]);
        }
    }

    /// The texts whose names are in `names`, and what holds them, as `CloudTrail` writes them. Lists are not told.
    pub(super) fn taken(&self, names: &[&str]) -> Map<String, Value> {
        let told = self.0.iter().filter_map(|(name, content)| {
            let value = match content {
                Content::Text(text) if names.contains(&name.as_str()) => {
                    Value::String(cut(text, CHARS_MAX))
                }
                Content::Elements(inner) => {
                    let inner = inner.taken(names);
                    Some(inner).filter(|inner| !inner.is_empty())?.into()
                }
                Content::Text(_) | Content::List(_) => return None,
            };
            Some((lower_first(name), value))
        });
        told.collect()
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
        assert_eq!(xml.to_text(), "<a>&lt;b&gt;&amp;&quot;&#13;\u{FFFD}</a>");
    }

    #[test]
    fn a_moment_is_written_in_utc() {
        let mut xml = Xml::default();
        xml.time("t", 1_795_478_400);
        assert_eq!(xml.to_text(), "<t>2026-11-24T00:00:00Z</t>");
    }

    #[test]
    fn only_what_is_named_is_told_to_the_audit() {
        let mut xml = Xml::default();
        xml.element("AccessKey", |xml| {
            xml.text("AccessKeyId", "AKIA")
                .text("SecretAccessKey", "secret");
        })
        .element("Empty", |xml| {
            xml.text("SessionToken", "secret");
        });
        let told = serde_json::json!(xml.taken(&["AccessKeyId"]));
        assert_eq!(
            told,
            serde_json::json!({ "accessKey": { "accessKeyId": "AKIA" } })
        );
    }
}
