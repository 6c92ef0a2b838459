//! JSON as policies have it: a key that stands twice in one object is an error, not the last one of the two.
//!
//! A `Deny` that hides behind a second `Effect` would otherwise be read as whatever comes last. Nesting is bounded by
//! `serde_json`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A value. Numbers are kept as the text that conditions compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = access.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut members: Vec<(String, Node)> = Vec::new();
        while let Some((name, node)) = access.next_entry::<String, Node>()? {
            if members.iter().any(|(earlier, _)| *earlier == name) {
                return Err(A::Error::custom(format_args!("{name:?} stands twice")));
            }
            members.push((name, node));
        }
        Ok(Node::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::Node;

    fn read(text: &str) -> Result<Node, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"[{"b":{"a":1,"c":2,"a":3}}]"#,
            // The same name, spelt differently.
            r#"{"Effect":"Deny","\u0045ffect":"Allow"}"#,
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains("stands twice"), "{error}");
        }
    }

    #[test]
    fn nesting_beyond_the_parser_is_refused_and_does_not_overflow() {
        let depth = 100_000;
        let text = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&text).is_err());
    }

    #[test]
    fn every_kind_of_value_is_kept() {
        let node = read(r#"{"a":[null,true,1,-2,1.50,"x"]}"#).expect("JSON");
        let list = vec![
            Node::Null,
            Node::Bool(true),
            Node::Number("1".into()),
            Node::Number("-2".into()),
            Node::Number("1.5".into()),
            Node::Text("x".into()),
        ];
        assert_eq!(node, Node::Object(vec![("a".into(), Node::List(list))]));
    }
}
