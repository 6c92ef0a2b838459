//! The decision: every policy that a request meets, and one answer.
//!
//! An explicit deny anywhere wins. Then, with *identity side* for the identity policies of the caller cut down by its
//! session policies (the root user's says yes to everything):
//!
//! | The resource | Of the caller's account | Of another account |
//! | --- | --- | --- |
//! | has no policy | identity side | – |
//! | bucket | policy names the caller, or identity side; root always | policy names the caller or its account, and identity side |
//! | key | policy or grant names the caller, or names the account and identity side | policy or grant names the caller or its account, and identity side |
//! | role | as a key without grants | as a key |
//!
//! The policy of a bucket is its account's alone, whatever it says.
//!
//! A policy that names the role of a session, and not the session, is cut down by the session policies too. A key
//! policy that names nobody lets nobody in, not even root.

use std::sync::Arc;

use super::principal::Named;
use super::statement::Effect;
use super::steps::{RequestSteps, Steps};
use super::values::Values;
use super::{Document, Principal};
use crate::auth::{AccountId, DecidedBucket, Identity};

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who, with the policies of the identity and of the session.
    pub principal: &'a Principal,
    /// Canonical id of the caller's account, by which a bucket policy may name it.
    pub canonical_id: Option<&'a str>,
    /// Does what, as IAM names it: `s3:PutObject`.
    pub action: &'a str,
    /// To what: an ARN; `*` if the action has no resource.
    pub resource: &'a str,
    /// Under what conditions.
    pub values: &'a Values,
    /// What stands at the resource.
    pub side: Side<'a>,
}

/// What the resource says: who owns it, and its policy.
#[derive(Debug, Clone, Copy)]
pub enum Side<'a> {
    /// Nothing: it has no policy of its own, and is of the caller's account.
    None,
    /// A bucket, or what is in one.
    Bucket {
        /// Which bucket: the proof is of this one alone.
        bucket: DecidedBucket,
        /// The account that the bucket belongs to.
        owner: &'a AccountId,
        /// Its policy, if it has one.
        policy: Option<&'a Document>,
    },
    /// A KMS key.
    Key {
        /// The account that the key belongs to.
        owner: &'a AccountId,
        /// Its policy. There always is one.
        policy: &'a Document,
        /// How a grant that allows this very request, with its constraints, names the caller; the closest of them if
        /// several do. [`names`](super::names) tells.
        grant: Option<Named>,
    },
    /// A role that is to be assumed.
    Role {
        /// The account that the role belongs to.
        owner: &'a AccountId,
        /// Its trust policy.
        trust: &'a Document,
    },
}

/// Whether a request may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a decision that nobody looks at protects nothing"]
pub enum Decision {
    /// It may.
    Allowed,
    /// It may not.
    Denied(Denial),
}

/// Why a request may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// Nothing allows it.
    Implicit {
        /// Of which kind a policy would have to.
        lacking: PolicyKind,
    },
    /// A statement denies it.
    Explicit {
        /// Of a policy of which kind.
        by: PolicyKind,
    },
    /// The policies allow it, but to nobody outside the account that owns the bucket.
    OwnersAlone,
    /// Who may what was not found out within [`STEPS_MAX`](super::STEPS_MAX), or within what decisions before it left of
    /// [`STEPS_OF_REQUEST_MAX`](super::STEPS_OF_REQUEST_MAX): it could be that nobody may.
    Undecided,
}

/// What a policy hangs on, for who reads a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    /// On the identity.
    Identity,
    /// On the session.
    Session,
    /// On the resource.
    Resource,
}

impl PolicyKind {
    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity-based policy",
            Self::Session => "session policy",
            Self::Resource => "resource-based policy",
        }
    }
}

impl Denial {
    /// The end of a refusal in the words of AWS: "because no identity-based policy allows the kms:Decrypt action",
    /// "with an explicit deny in a resource-based policy".
    pub fn reason(self, action: &str) -> String {
        match self {
            Self::Implicit { lacking } => {
                format!("because no {} allows the {action} action", lacking.name())
            }
            Self::Explicit { by } => {
                let article = if by == PolicyKind::Identity {
                    "an"
                } else {
                    "a"
                };
                format!("with an explicit deny in {article} {}", by.name())
            }
            Self::OwnersAlone => {
                format!("because only the account that owns the bucket has the {action} action")
            }
            Self::Undecided => {
                format!("because the policies for the {action} action take too long to evaluate")
            }
        }
    }
}

/// The root user of a bucket's account may do these whatever the bucket's policy says, or a bucket could be lost; another
/// account never may, or it could take the bucket (S3 API, `PutBucketPolicy`).
const OF_BUCKET_POLICY: [&str; 3] = [
    "s3:getbucketpolicy",
    "s3:putbucketpolicy",
    "s3:deletebucketpolicy",
];

/// What a key can be used for from another account, whatever its policy says (KMS API, "Cross-account use" of each
/// operation).
const KEY_ACROSS_ACCOUNTS: [&str; 20] = [
    "kms:creategrant",
    "kms:decrypt",
    "kms:derivesharedsecret",
    "kms:describekey",
    "kms:encrypt",
    "kms:generatedatakey",
    "kms:generatedatakeypair",
    "kms:generatedatakeypairwithoutplaintext",
    "kms:generatedatakeywithoutplaintext",
    "kms:generatemac",
    "kms:getkeyrotationstatus",
    "kms:getpublickey",
    "kms:listgrants",
    "kms:reencryptfrom",
    "kms:reencryptto",
    "kms:retiregrant",
    "kms:revokegrant",
    "kms:sign",
    "kms:verify",
    "kms:verifymac",
];

/// Decides, with the steps that the request has left. Pure but for these: the same question has the same answer.
pub fn decide(question: &Question<'_>, steps: &RequestSteps) -> Decision {
    // What did not match when they were used up, a deny among it, was not held against anything.
    let decision = steps.decide(|steps| decide_in(steps, question));
    decision.unwrap_or(Decision::Denied(Denial::Undecided))
}

/// The decision, unless the steps are used up.
pub(super) fn decide_in(steps: &Steps, question: &Question<'_>) -> Decision {
    let action = question.action.to_ascii_lowercase();
    let owns = question.owns();
    let is_root = matches!(question.principal.identity, Identity::Root);
    if let Side::Bucket { .. } = question.side
        && is_root
        && owns
        && OF_BUCKET_POLICY.contains(&action.as_str())
    {
        return Decision::Allowed;
    }
    let caller = Caller::ask(steps, question, &action);
    let resource = AtResource::ask(steps, question, &action);
    let denied = caller
        .denied
        .or(resource.denied.then_some(PolicyKind::Resource));
    if let Some(by) = denied {
        return Decision::Denied(Denial::Explicit { by });
    }
    let lacking = match question.side {
        Side::None => caller.lacking(),
        Side::Bucket { .. } if owns && is_root => None,
        Side::Bucket { .. } if owns => match resource.named {
            Some(Named::Itself) => None,
            Some(Named::Role) if caller.session => None,
            Some(Named::Role | Named::Account) | None => caller.lacking(),
        },
        // "You cannot call AssumeRole by using AWS account root user credentials" (STS API, AssumeRole).
        Side::Role { .. } if is_root => Some(PolicyKind::Resource),
        Side::Key { .. } if !owns && !KEY_ACROSS_ACCOUNTS.contains(&action.as_str()) => {
            Some(PolicyKind::Resource)
        }
        Side::Bucket { .. } | Side::Key { .. } | Side::Role { .. } => match resource.named {
            None => Some(PolicyKind::Resource),
            Some(Named::Itself) if owns => None,
            Some(Named::Role) if owns => (!caller.session).then_some(PolicyKind::Session),
            Some(Named::Itself | Named::Role | Named::Account) => caller.lacking(),
        },
    };
    match lacking {
        None if matches!(question.side, Side::Bucket { .. })
            && !owns
            && OF_BUCKET_POLICY.contains(&action.as_str()) =>
        {
            Decision::Denied(Denial::OwnersAlone)
        }
        None => Decision::Allowed,
        Some(lacking) => Decision::Denied(Denial::Implicit { lacking }),
    }
}

/// Whether `principal` could change the policy of a key again if `policy` were its policy: what `PutKeyPolicy` and
/// `CreateKey` check before they lock somebody out. The values are those of the request that is being checked.
pub fn may_change_key_policy(
    principal: &Principal,
    owner: &AccountId,
    key_arn: &str,
    policy: &Document,
    values: &Values,
) -> bool {
    let again = Question {
        principal,
        canonical_id: None,
        action: "kms:PutKeyPolicy",
        resource: key_arn,
        values,
        side: Side::Key {
            owner,
            policy,
            grant: None,
        },
    };
    decide(&again, &RequestSteps::default()) == Decision::Allowed
}

impl Question<'_> {
    /// Whether the resource is of the caller's own account.
    fn owns(&self) -> bool {
        match self.side {
            Side::None => true,
            Side::Bucket { owner, .. } | Side::Key { owner, .. } | Side::Role { owner, .. } => {
                *owner == self.principal.account
            }
        }
    }
}

/// What the policies say that come with the caller.
struct Caller {
    denied: Option<PolicyKind>,
    /// Whether an identity policy allows it; the root user needs none.
    identity: bool,
    /// Whether the session policies allow it, or there are none.
    session: bool,
}

impl Caller {
    fn ask(steps: &Steps, question: &Question<'_>, action: &str) -> Self {
        let (identity, session) = match &question.principal.identity {
            Identity::Root => {
                return Self {
                    denied: None,
                    identity: true,
                    session: true,
                };
            }
            Identity::User(user) => (user.policies.as_slice(), [].as_slice()),
            Identity::Session(session) => (
                session.policies.as_slice(),
                session.session_policies.as_slice(),
            ),
        };
        let says = |policies: &[Arc<Document>], effect| {
            policies
                .iter()
                .any(|policy| policy.says(effect, steps, question, action))
        };
        let denied = if says(identity, Effect::Deny) {
            Some(PolicyKind::Identity)
        } else if says(session, Effect::Deny) {
            Some(PolicyKind::Session)
        } else {
            None
        };
        Self {
            denied,
            identity: says(identity, Effect::Allow),
            session: session.is_empty() || says(session, Effect::Allow),
        }
    }

    /// What the identity side lacks.
    fn lacking(&self) -> Option<PolicyKind> {
        if !self.identity {
            Some(PolicyKind::Identity)
        } else if !self.session {
            Some(PolicyKind::Session)
        } else {
            None
        }
    }
}

/// What stands at the resource.
struct AtResource {
    denied: bool,
    /// How what allows the request names the caller, at best.
    named: Option<Named>,
}

impl AtResource {
    fn ask(steps: &Steps, question: &Question<'_>, action: &str) -> Self {
        let (policy, grant) = match question.side {
            Side::None => (None, None),
            Side::Bucket { policy, .. } => (policy, None),
            Side::Key { policy, grant, .. } => (Some(policy), grant),
            Side::Role { trust, .. } => (Some(trust), None),
        };
        let named =
            |effect| policy.and_then(|policy| policy.names(effect, steps, question, action));
        Self {
            denied: named(Effect::Deny).is_some(),
            named: named(Effect::Allow).max(grant),
        }
    }
}

impl Document {
    /// Whether a statement of an identity's policy says so.
    fn says(&self, effect: Effect, steps: &Steps, question: &Question<'_>, action: &str) -> bool {
        self.statements.iter().any(|statement| {
            statement.effect == effect && statement.applies(question, action, steps)
        })
    }

    /// How those statements of a resource's policy name the caller that say so, at best.
    fn names(
        &self,
        effect: Effect,
        steps: &Steps,
        question: &Question<'_>,
        action: &str,
    ) -> Option<Named> {
        self.statements
            .iter()
            .filter(|statement| statement.effect == effect)
            .filter_map(|statement| Some((statement.name(question)?, statement)))
            .filter(|(_, statement)| statement.applies(question, action, steps))
            .map(|(named, _)| named)
            .max()
    }
}
