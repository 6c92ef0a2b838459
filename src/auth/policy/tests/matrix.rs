//! The matrix of principals, key policies, bucket policies and grants, whose answers were written by
//! `tests/vectors/access/generate.py` without a look at this code.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::account;
use crate::auth::policy::{
    Decision, Document, Kind, Named, Question, RequestSteps, Side, Values, decide, names,
};
use crate::auth::{DecidedBucket, Identity, Principal, RoleSession, User};

const DOCUMENTS: &str = include_str!("../../../../tests/vectors/access/documents.json");
const CASES: &str = include_str!("../../../../tests/vectors/access/cases.csv");
/// The fewest cases that count as a matrix.
const CASES_MIN: usize = 200;

const OWNER: &str = "123456789012";
const KEY: &str = "arn:aws:kms:us-west-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const OTHER_KEY: &str =
    "arn:aws:kms:us-west-2:123456789012:key/0987dcba-09fe-87dc-65ba-ab0987654321";
const OBJECT: &str = "arn:aws:s3:::bucket/key";

#[derive(Deserialize)]
struct Documents {
    principals: BTreeMap<String, Who>,
    key_policies: BTreeMap<String, Value>,
    bucket_policies: BTreeMap<String, Option<Value>>,
    grants: BTreeMap<String, Grant>,
    requests: BTreeMap<String, Request>,
}

#[derive(Deserialize)]
struct Who {
    account: String,
    kind: String,
    policies: Vec<Value>,
    groups: Vec<Value>,
    session_policy: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Grant {
    grantee_principal: String,
    operations: Vec<String>,
    constraints: Constraints,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Constraints {
    encryption_context_equals: Option<BTreeMap<String, String>>,
    encryption_context_subset: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Request {
    bucket_action: Option<String>,
    key_action: Option<String>,
    context: BTreeMap<String, String>,
    algorithm: Option<String>,
    other_key: bool,
}

fn document(policy: &Value, kind: Kind) -> Document {
    let text = policy
        .to_string()
        .replace("@KEY@", KEY)
        .replace("@BUCKET@", "bucket");
    Document::parse(&text, kind).unwrap_or_else(|error| panic!("{error}: {text}"))
}

impl Who {
    fn principal(&self, name: &str) -> Principal {
        let documents = |policies: &[Value]| -> Vec<_> {
            policies
                .iter()
                .map(|policy| Arc::new(document(policy, Kind::Identity)))
                .collect()
        };
        let name = name.strip_prefix("their ").unwrap_or(name);
        let identity = match self.kind.as_str() {
            "root" => Identity::Root,
            "user" => Identity::User(Arc::new(User {
                id: format!("AIDA{name}"),
                path: "/".into(),
                name: name.into(),
                policies: documents(&[self.policies.as_slice(), &self.groups].concat()),
            })),
            "session" => {
                let (role, session) = name.split_once('/').expect("ROLE/SESSION");
                Identity::Session(Arc::new(RoleSession {
                    role_id: format!("AROA{role}"),
                    path: "/".into(),
                    role: role.into(),
                    name: session.into(),
                    policies: documents(&self.policies),
                    session_policies: documents(self.session_policy.as_slice()),
                }))
            }
            other => panic!("{other}"),
        };
        Principal {
            account: account(&self.account),
            access_key_id: "AKIATEST".into(),
            identity,
        }
    }
}

/// What every request here has: it comes from this machine, in the clear.
fn values_of_all(principal: &Principal) -> Values {
    let mut values = Values::of(principal);
    values.add("aws:SourceIp", "127.0.0.1");
    values.add("aws:SecureTransport", "false");
    values.add("aws:CurrentTime", "2026-11-24T12:00:00Z");
    values
}

impl Request {
    /// What the key's authorisation sees as encryption context.
    fn full_context(&self) -> BTreeMap<String, String> {
        let mut context = self.context.clone();
        if self.bucket_action.is_some() {
            context.insert("aws:s3:arn".into(), OBJECT.into());
        }
        context
    }

    fn bucket_values(&self, principal: &Principal) -> Values {
        let mut values = values_of_all(principal);
        if let Some(algorithm) = &self.algorithm {
            values.add("s3:x-amz-server-side-encryption", algorithm);
            if algorithm == "aws:kms" {
                let key = if self.other_key { OTHER_KEY } else { KEY };
                values.add("s3:x-amz-server-side-encryption-aws-kms-key-id", key);
            }
        }
        values
    }

    fn key_values(&self, principal: &Principal) -> Values {
        let mut values = values_of_all(principal);
        values.add("kms:CallerAccount", principal.account.as_str());
        if self.bucket_action.is_some() {
            values.add("kms:ViaService", "s3.us-west-2.amazonaws.com");
        }
        for (name, value) in self.full_context() {
            values.add(&format!("kms:EncryptionContext:{name}"), value);
            values.add("kms:EncryptionContextKeys", name);
        }
        values
    }
}

impl Grant {
    /// How the grant names the caller, if it allows this request.
    fn names(&self, principal: &Principal, request: &Request) -> Option<Named> {
        let context = request.full_context();
        let operation = request.key_action.as_deref()?.strip_prefix("kms:")?;
        let equals = self.constraints.encryption_context_equals.as_ref();
        let subset = self.constraints.encryption_context_subset.as_ref();
        let allows = self.operations.iter().any(|allowed| allowed == operation)
            && equals.is_none_or(|equals| *equals == context)
            && subset.is_none_or(|subset| {
                subset
                    .iter()
                    .all(|(name, value)| context.get(name) == Some(value))
            });
        allows.then(|| names(&self.grantee_principal, None, principal))?
    }
}

fn allows(
    principal: &Principal,
    action: &str,
    resource: &str,
    values: &Values,
    side: Side<'_>,
) -> bool {
    let question = Question {
        principal,
        canonical_id: None,
        action,
        resource,
        values,
        side,
    };
    decide(&question, &RequestSteps::default()) == Decision::Allowed
}

/// The action that is denied, or `allowed`.
fn outcome(documents: &Documents, case: &[&str]) -> String {
    let [who, key_policy, bucket_policy, grant, request, ..] = case else {
        panic!("{case:?}");
    };
    let owner = account(OWNER);
    let principal = documents.principals[*who].principal(who);
    let request = &documents.requests[*request];
    if let Some(action) = &request.bucket_action {
        let policy = documents.bucket_policies[*bucket_policy]
            .as_ref()
            .map(|policy| document(policy, Kind::Resource));
        let side = Side::Bucket {
            bucket: DecidedBucket {
                uuid: [7; 16],
                verified: true,
            },
            owner: &owner,
            policy: policy.as_ref(),
        };
        if !allows(
            &principal,
            action,
            OBJECT,
            &request.bucket_values(&principal),
            side,
        ) {
            return action.clone();
        }
    }
    if let Some(action) = &request.key_action {
        let policy = document(&documents.key_policies[*key_policy], Kind::Resource);
        let side = Side::Key {
            owner: &owner,
            policy: &policy,
            grant: documents
                .grants
                .get(*grant)
                .and_then(|grant| grant.names(&principal, request)),
        };
        let key = if request.other_key { OTHER_KEY } else { KEY };
        if !allows(
            &principal,
            action,
            key,
            &request.key_values(&principal),
            side,
        ) {
            return action.clone();
        }
    }
    "allowed".into()
}

#[test]
fn every_case_of_the_matrix_has_the_answer_that_was_written_down() {
    let documents: Documents = serde_json::from_str(DOCUMENTS).expect("the documents");
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in CASES.lines().skip(1) {
        let case: Vec<&str> = line.split(',').collect();
        let found = outcome(&documents, &case);
        if case.get(5) != Some(&found.as_str()) {
            wrong.push(format!("{found}, not {line}"));
        }
        count += 1;
    }
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(count >= CASES_MIN, "{count} cases");
}
