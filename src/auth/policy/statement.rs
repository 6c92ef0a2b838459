//! One statement: whom, what, on what, when.

use super::condition::Condition;
use super::error::Malformed;
use super::json::Node;
use super::pattern::{ArnPattern, Pattern, Wildcards};
use super::principal::{Bound, Named, Principals};
use super::steps::Steps;
use super::{Kind, Question, Version};

/// What a statement says of the requests that it applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// A list of names, or everything but these.
#[derive(Debug)]
struct Names<T> {
    except: bool,
    list: Vec<T>,
}

impl<T> Names<T> {
    fn has(&self, is: impl Fn(&T) -> bool) -> bool {
        self.list.iter().any(is) != self.except
    }
}

/// A statement of a policy.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) sid: String,
    pub(super) effect: Effect,
    principals: Option<Names<Principals>>,
    /// In lower case.
    actions: Names<Pattern>,
    /// A trust policy has none: it is about its role.
    resources: Option<Names<ArnPattern>>,
    conditions: Vec<Condition>,
}

impl Statement {
    /// Reads a statement of a policy of this kind.
    ///
    /// # Errors
    ///
    /// [`Malformed`], which says what is wrong with it.
    pub(super) fn parse(node: &Node, kind: Kind, version: Version) -> Result<Self, Malformed> {
        let Node::Object(members) = node else {
            return Err(wrong_type("Statement", "an object or a list of objects"));
        };
        let elements = Elements::of(members)?;
        let effect = match elements.effect {
            None => return Err(Malformed::Missing("Effect")),
            Some(node) => match text("Effect", node)? {
                "Allow" => Effect::Allow,
                "Deny" => Effect::Deny,
                other => return Err(Malformed::Effect(other.to_owned())),
            },
        };
        let sid = elements.sid.map_or(Ok(""), |node| text("Sid", node))?;
        if kind == Kind::Identity && !sid.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Malformed::Sid(sid.to_owned()));
        }
        Ok(Self {
            sid: sid.to_owned(),
            effect,
            principals: elements.principals(kind, effect)?,
            actions: elements.actions()?,
            resources: elements.resources(kind, version)?,
            conditions: elements.conditions(version)?,
        })
    }

    /// Whether the statement is about this action, resource and moment, whoever asks.
    pub(super) fn applies(&self, question: &Question<'_>, action: &str, steps: &Steps) -> bool {
        let values = question.values;
        self.actions
            .has(|pattern| pattern.matches(action, values, steps))
            && self.resources.as_ref().is_none_or(|resources| {
                resources.has(|pattern| pattern.matches(question.resource, values, steps))
            })
            && self
                .conditions
                .iter()
                .all(|condition| condition.holds(values, steps))
    }

    /// How a statement of a resource's policy names the caller. A `NotPrincipal` names everybody whom it does not
    /// spare.
    pub(super) fn name(&self, question: &Question<'_>) -> Option<Named> {
        let principals = self.principals.as_ref()?;
        let list = principals.list.first()?;
        if principals.except {
            return (!list.spare(question.principal, question.canonical_id))
                .then_some(Named::Itself);
        }
        list.name(question.principal, question.canonical_id)
    }

    /// Says whom the names of its principals meant when they were stored.
    pub(super) fn bind(&mut self, bound: &Bound) {
        let lists = self.principals.iter_mut();
        for principals in lists.flat_map(|principals| &mut principals.list) {
            principals.bind(bound);
        }
    }

    /// Whom the statement names by ARN or account number.
    pub(super) fn named(&self) -> impl Iterator<Item = &str> {
        self.principals
            .iter()
            .flat_map(|principals| principals.list.iter().flat_map(Principals::aws))
    }

    /// How many texts it is held against.
    pub(super) fn values(&self) -> usize {
        let resources = self
            .resources
            .as_ref()
            .map_or(0, |resources| resources.list.len());
        let conditions: usize = self.conditions.iter().map(Condition::values).sum();
        self.actions.list.len() + resources + conditions + self.named().count()
    }
}

/// The elements of a statement as they stand there.
#[derive(Default)]
struct Elements<'a> {
    sid: Option<&'a Node>,
    effect: Option<&'a Node>,
    principal: Option<&'a Node>,
    not_principal: Option<&'a Node>,
    action: Option<&'a Node>,
    not_action: Option<&'a Node>,
    resource: Option<&'a Node>,
    not_resource: Option<&'a Node>,
    condition: Option<&'a Node>,
}

impl<'a> Elements<'a> {
    fn of(members: &'a [(String, Node)]) -> Result<Self, Malformed> {
        let mut elements = Self::default();
        for (name, node) in members {
            let element = match name.as_str() {
                "Sid" => &mut elements.sid,
                "Effect" => &mut elements.effect,
                "Principal" => &mut elements.principal,
                "NotPrincipal" => &mut elements.not_principal,
                "Action" => &mut elements.action,
                "NotAction" => &mut elements.not_action,
                "Resource" => &mut elements.resource,
                "NotResource" => &mut elements.not_resource,
                "Condition" => &mut elements.condition,
                _ => return Err(Malformed::Unknown(name.clone())),
            };
            *element = Some(node);
        }
        Ok(elements)
    }

    fn principals(
        &self,
        kind: Kind,
        effect: Effect,
    ) -> Result<Option<Names<Principals>>, Malformed> {
        let either = one_of(
            ("Principal", self.principal),
            ("NotPrincipal", self.not_principal),
        )?;
        let (except, element, node) = match (either, kind) {
            (None, Kind::Identity) => return Ok(None),
            (None, Kind::Resource | Kind::Trust) => return Err(Malformed::Missing("Principal")),
            (Some((_, element, _)), Kind::Identity) | (Some((true, element, _)), Kind::Trust) => {
                return Err(Malformed::Prohibited(element));
            }
            (Some(either), Kind::Resource | Kind::Trust) => either,
        };
        if except && effect == Effect::Allow {
            return Err(Malformed::AllowNotPrincipal);
        }
        let list = vec![Principals::parse(element, node)?];
        Ok(Some(Names { except, list }))
    }

    fn actions(&self) -> Result<Names<Pattern>, Malformed> {
        let (except, element, node) =
            one_of(("Action", self.action), ("NotAction", self.not_action))?
                .ok_or(Malformed::Missing("Action"))?;
        let list = texts(element, node)?
            .iter()
            .map(|action| parse_action(action))
            .collect::<Result<_, _>>()?;
        Ok(Names { except, list })
    }

    fn resources(
        &self,
        kind: Kind,
        version: Version,
    ) -> Result<Option<Names<ArnPattern>>, Malformed> {
        let either = one_of(
            ("Resource", self.resource),
            ("NotResource", self.not_resource),
        )?;
        let (except, element, node) = match (either, kind) {
            (None, Kind::Trust) => return Ok(None),
            (None, Kind::Identity | Kind::Resource) => return Err(Malformed::Missing("Resource")),
            (Some((_, element, _)), Kind::Trust) => return Err(Malformed::Prohibited(element)),
            (Some(either), Kind::Identity | Kind::Resource) => either,
        };
        let list = texts(element, node)?
            .iter()
            .map(|resource| ArnPattern::parse_resource(resource, version))
            .collect::<Result<_, _>>()?;
        Ok(Some(Names { except, list }))
    }

    fn conditions(&self, version: Version) -> Result<Vec<Condition>, Malformed> {
        let mut conditions = Vec::new();
        let Some(node) = self.condition else {
            return Ok(conditions);
        };
        for (operator, node) in object("Condition", node)? {
            let keys = object(operator, node)?;
            if keys.is_empty() {
                return Err(wrong_type(operator, "an object with at least one key"));
            }
            for (key, node) in keys {
                let values = values(key, node)?;
                conditions.push(Condition::parse(operator, key, &values, version)?);
            }
        }
        Ok(conditions)
    }
}

/// An action and its service, or `*`. Equal whatever the case of its letters, hence in lower case.
fn parse_action(action: &str) -> Result<Pattern, Malformed> {
    let is_action = match action.split_once(':') {
        None => action == "*",
        Some(("*", name)) => name == "*",
        Some((vendor, name)) => {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
            !vendor.is_empty() && vendor.chars().all(is_name) && !name.is_empty()
        }
    };
    if !is_action {
        return Err(Malformed::Action(action.to_owned()));
    }
    // No variables in actions: as before 2012.
    Pattern::parse(&action.to_ascii_lowercase(), Version::V2008, Wildcards::Yes)
}

type Element<'a> = (&'static str, Option<&'a Node>);

/// The one of two elements that is there, and whether it is the second.
fn one_of<'a>(
    (is, is_node): Element<'a>,
    (is_not, is_not_node): Element<'a>,
) -> Result<Option<(bool, &'static str, &'a Node)>, Malformed> {
    match (is_node, is_not_node) {
        (Some(_), Some(_)) => Err(Malformed::Both(is, is_not)),
        (Some(node), None) => Ok(Some((false, is, node))),
        (None, Some(node)) => Ok(Some((true, is_not, node))),
        (None, None) => Ok(None),
    }
}

fn wrong_type(element: &str, expected: &'static str) -> Malformed {
    Malformed::Type {
        element: element.to_owned(),
        expected,
    }
}

pub(super) fn text<'a>(element: &str, node: &'a Node) -> Result<&'a str, Malformed> {
    match node {
        Node::Text(text) => Ok(text),
        _ => Err(wrong_type(element, "a string")),
    }
}

fn object<'a>(element: &str, node: &'a Node) -> Result<&'a [(String, Node)], Malformed> {
    match node {
        Node::Object(members) => Ok(members),
        _ => Err(wrong_type(element, "an object")),
    }
}

/// A string, or a list of at least one.
pub(super) fn texts(element: &str, node: &Node) -> Result<Vec<String>, Malformed> {
    let only_text = |node: &Node| match node {
        Node::Text(text) => Some(text.clone()),
        _ => None,
    };
    list(node, only_text)
        .ok_or_else(|| wrong_type(element, "a string or a list of at least one string"))
}

/// A string, a number or a boolean, or a list of at least one.
fn values(key: &str, node: &Node) -> Result<Vec<String>, Malformed> {
    let scalar = |node: &Node| match node {
        Node::Text(text) | Node::Number(text) => Some(text.clone()),
        Node::Bool(value) => Some(value.to_string()),
        Node::Null | Node::List(_) | Node::Object(_) => None,
    };
    list(node, scalar).ok_or_else(|| wrong_type(key, "a value or a list of at least one value"))
}

fn list(node: &Node, one: impl Fn(&Node) -> Option<String>) -> Option<Vec<String>> {
    match node {
        Node::List(nodes) if nodes.is_empty() => None,
        Node::List(nodes) => nodes.iter().map(one).collect(),
        other => one(other).map(|text| vec![text]),
    }
}
