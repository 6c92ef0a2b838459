//! The policy language, and the one decision.
//!
//! A pure leaf: no I/O, no clock, no locks. A policy is read once into a [`Document`] and may then be asked by any
//! number of requests. [`decide`] brings together what AWS has apart: the identity policies of the caller and what its
//! session was cut down to (both come with the [`Principal`]), and what stands at the resource: a bucket policy, a key
//! policy and grants, or the trust policy of a role ([`Side`]).
//!
//! What is followed: the IAM User Guide, "Grammar of the IAM JSON policy language", "Policy evaluation logic" and
//! "Cross-account policy evaluation logic"; the AWS KMS Developer Guide, "Default key policy", "Troubleshooting key
//! access" and "Allowing users in other accounts to use a KMS key". Where they leave a choice, the one is taken that
//! allows less.
//!
//! Reading order: [`decide`], then `statement`, `principal`, `condition`, `pattern`, `steps`, `operand`.

use std::collections::BTreeSet;

use super::Principal;

mod condition;
mod decide;
mod error;
mod json;
mod operand;
mod pattern;
mod principal;
mod statement;
mod steps;
mod values;

#[cfg(test)]
mod tests;

pub use decide::{Decision, Denial, PolicyKind, Question, Side, decide, may_change_key_policy};
pub use error::Malformed;
pub use pattern::PATTERN_CHARS_MAX;
pub use principal::{Bound, Named, names};
pub use steps::{RequestSteps, STEPS_MAX, STEPS_OF_REQUEST_MAX};
pub use values::Values;

use json::Node;
use statement::Statement;

/// The most statements of one policy.
pub const STATEMENTS_MAX: usize = 500;
/// The most principals, actions, resources and values of conditions of one policy, together.
pub const VALUES_MAX: usize = 5_000;

/// What a policy hangs on, which decides what its statements may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// On an identity or a session: no principal.
    Identity,
    /// On a bucket or a key: each statement names its principals.
    Resource,
    /// On a role: each statement names its principals, and no resource.
    Trust,
}

/// Version of the language. Policy variables came with the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V2008,
    V2012,
}

/// A policy document that reads as one.
#[derive(Debug)]
pub struct Document {
    text: String,
    statements: Vec<Statement>,
    bound: Option<Bound>,
}

impl Document {
    /// Reads a policy of this kind. How long it may be is for the caller to say, and to check before.
    ///
    /// # Errors
    ///
    /// [`Malformed`], which says what is wrong with it.
    pub fn parse(text: &str, kind: Kind) -> Result<Self, Malformed> {
        let node =
            serde_json::from_str(text).map_err(|error| Malformed::Json(error.to_string()))?;
        let Node::Object(members) = node else {
            return Err(Malformed::Type {
                element: "policy".to_owned(),
                expected: "an object",
            });
        };
        let mut version = Version::V2008;
        let mut statements = None;
        for (name, node) in &members {
            match name.as_str() {
                "Version" => version = parse_version(node)?,
                "Id" => {
                    statement::text("Id", node)?;
                }
                "Statement" => statements = Some(node),
                _ => return Err(Malformed::Unknown(name.clone())),
            }
        }
        let nodes = match statements {
            None => return Err(Malformed::Missing("Statement")),
            Some(Node::List(nodes)) => nodes.as_slice(),
            Some(node) => std::slice::from_ref(node),
        };
        Ok(Self {
            text: text.to_owned(),
            statements: parse_statements(nodes, kind, version)?,
            bound: None,
        })
    }

    /// The same, meaning these users and roles.
    #[must_use]
    pub fn meaning(mut self, bound: Bound) -> Self {
        for statement in &mut self.statements {
            statement.bind(&bound);
        }
        self.bound = Some(bound);
        self
    }

    /// Whom it means, if that was said.
    pub fn bound(&self) -> Option<&Bound> {
        self.bound.as_ref()
    }

    /// The policy as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whom its statements name by ARN or account number, for a service that accepts only those who exist.
    pub fn principals(&self) -> impl Iterator<Item = &str> {
        self.statements.iter().flat_map(Statement::named)
    }
}

fn parse_version(node: &Node) -> Result<Version, Malformed> {
    match statement::text("Version", node)? {
        "2012-10-17" => Ok(Version::V2012),
        "2008-10-17" => Ok(Version::V2008),
        other => Err(Malformed::Version(other.to_owned())),
    }
}

fn parse_statements(
    nodes: &[Node],
    kind: Kind,
    version: Version,
) -> Result<Vec<Statement>, Malformed> {
    if nodes.is_empty() {
        return Err(Malformed::Missing("Statement"));
    }
    if nodes.len() > STATEMENTS_MAX {
        return Err(Malformed::TooMany {
            what: "statements",
            max: STATEMENTS_MAX,
        });
    }
    let mut statements = Vec::with_capacity(nodes.len());
    let mut sids = BTreeSet::new();
    let mut values = 0;
    for node in nodes {
        let statement = Statement::parse(node, kind, version)?;
        let is_new = statement.sid.is_empty() || sids.insert(statement.sid.clone());
        if kind == Kind::Identity && !is_new {
            return Err(Malformed::SidRepeated(statement.sid));
        }
        values += statement.values();
        if values > VALUES_MAX {
            return Err(Malformed::TooMany {
                what: "principals, actions, resources and values",
                max: VALUES_MAX,
            });
        }
        statements.push(statement);
    }
    Ok(statements)
}
