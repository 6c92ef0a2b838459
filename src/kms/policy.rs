//! Key policies: stored with the key. Evaluation is `auth`'s.

use minicbor::{Decode, Encode};
use serde_json::Value;

use super::error::KmsError;
use super::key::{KeyArn, KeyRecord, Owner};
use super::{COMMIT_ATTEMPTS_MAX, Kms, check_proof, table};
use crate::auth::{AccountId, Authorised};

/// The one name that a key policy can have.
pub const POLICY_NAME: &str = "default";
/// The longest policy, in characters.
pub const POLICY_CHARS_MAX: usize = 131_072;

/// What is recorded of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct PolicyRecord {
    #[n(0)]
    pub(super) document: String,
}

impl Kms {
    /// Replaces a key's policy.
    ///
    /// # Errors
    ///
    /// [`KmsError::MalformedPolicy`]; [`KmsError::Managed`]; by the key's state.
    pub async fn put_key_policy(
        &self,
        proof: &Authorised,
        key: &KeyArn,
        document: &str,
        bypass_lockout_check: bool,
    ) -> Result<(), KmsError> {
        const ACTION: &str = "kms:PutKeyPolicy";
        check_proof(proof, &[ACTION], key)?;
        check(document, self.account(), bypass_lockout_check)?;
        let record = PolicyRecord {
            document: document.to_owned(),
        };
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let rows = self.rows().await?;
            let head = rows.head(&Owner::Key(key.clone())).await?;
            head.record.customer_managed(key, ACTION)?;
            head.record.not_dying(key)?;
            let row = table::policy_row(key.key_id(), POLICY_NAME);
            let put = match rows.load::<PolicyRecord>("key policy", row.clone()).await? {
                Some(policy) => rows.replace(&policy, &record),
                None => rows.insert(row, &record),
            };
            if self.commit(put.and(head.unchanged())).await? {
                self.tell(key);
                return Ok(());
            }
        }
        Err(KmsError::Busy)
    }

    /// A key's policy.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`].
    pub async fn key_policy(&self, proof: &Authorised, key: &KeyArn) -> Result<String, KmsError> {
        check_proof(proof, &["kms:GetKeyPolicy"], key)?;
        let rows = self.rows().await?;
        rows.head(&Owner::Key(key.clone())).await?;
        let row = table::policy_row(key.key_id(), POLICY_NAME);
        let policy = rows.load::<PolicyRecord>("key policy", row).await?;
        Ok(policy
            .ok_or(KmsError::Damaged("a key policy is missing"))?
            .record
            .document)
    }

    /// The names of a key's policies: always [`POLICY_NAME`] alone.
    ///
    /// # Errors
    ///
    /// [`KmsError::NotFound`].
    pub async fn list_key_policies(
        &self,
        proof: &Authorised,
        key: &KeyArn,
    ) -> Result<Vec<&'static str>, KmsError> {
        check_proof(proof, &["kms:ListKeyPolicies"], key)?;
        let _head: KeyRecord = self
            .rows()
            .await?
            .head(&Owner::Key(key.clone()))
            .await?
            .record;
        Ok(vec![POLICY_NAME])
    }
}

/// The policy of a key for which none is given: whatever the account's own policies allow.
pub(super) fn default_document(account: &AccountId) -> String {
    format!(
        r#"{{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {{
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "arn:aws:iam::{account}:root"
    }},
    "Action" : "kms:*",
    "Resource" : "*"
  }} ]
}}"#
    )
}

/// Checks that `document` reads as a policy and, unless told otherwise, that it leaves the account's root a way to
/// change it again.
pub(super) fn check(
    document: &str,
    account: &AccountId,
    bypass_lockout_check: bool,
) -> Result<(), KmsError> {
    let malformed = || KmsError::MalformedPolicy("The policy is not a valid policy document.");
    if document.chars().count() > POLICY_CHARS_MAX {
        return Err(KmsError::MalformedPolicy("The policy is too long."));
    }
    let policy: Value = serde_json::from_str(document).map_err(|_syntax| malformed())?;
    let statements = match policy
        .as_object()
        .and_then(|policy| policy.get("Statement"))
    {
        Some(Value::Array(statements)) => statements.iter().collect(),
        Some(statement @ Value::Object(_)) => vec![statement],
        _ => return Err(malformed()),
    };
    let is_statement = |statement: &&Value| {
        matches!(
            statement.get("Effect").and_then(Value::as_str),
            Some("Allow" | "Deny")
        )
    };
    if !statements.iter().all(is_statement) {
        return Err(malformed());
    }
    if bypass_lockout_check
        || statements
            .iter()
            .any(|statement| keeps_open(statement, account))
    {
        return Ok(());
    }
    Err(KmsError::MalformedPolicy(
        "The new key policy will not allow you to update the key policy in the future.",
    ))
}

fn keeps_open(statement: &Value, account: &AccountId) -> bool {
    let root = format!("arn:aws:iam::{account}:root");
    let is_root = |name: &str| name == "*" || name == root || name == account.as_str();
    let may_put = |action: &str| {
        let action = action.to_ascii_lowercase();
        match action.strip_suffix('*') {
            Some(stem) => "kms:putkeypolicy".starts_with(stem),
            None => action == "kms:putkeypolicy",
        }
    };
    let principal = match statement.get("Principal") {
        Some(Value::Object(principals)) => principals.get("AWS"),
        other => other,
    };
    statement.get("Effect").and_then(Value::as_str) == Some("Allow")
        && any_text(principal, is_root)
        && any_text(statement.get("Action"), may_put)
}

/// Whether `check` holds for a string, or for one in an array of them.
fn any_text(value: Option<&Value>, check: impl Fn(&str) -> bool) -> bool {
    match value {
        Some(Value::String(text)) => check(text),
        Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).any(check),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{check, default_document};
    use crate::auth::AccountId;

    fn account() -> AccountId {
        AccountId::parse("123456789012").expect("twelve digits")
    }

    #[test]
    fn the_default_policy_passes_its_own_check() {
        check(&default_document(&account()), &account(), false).expect("keeps root in");
    }

    #[test]
    fn a_policy_that_locks_root_out_needs_the_bypass() {
        let other = default_document(&AccountId::parse("210987654321").expect("twelve digits"));
        assert!(check(&other, &account(), false).is_err());
        check(&other, &account(), true).expect("bypassed");
    }

    #[test]
    fn what_is_no_policy_is_malformed_even_with_the_bypass() {
        for document in [
            "",
            "{}",
            "[]",
            "{\"Statement\":[{}]}",
            "{\"Statement\":\"x\"}",
        ] {
            assert!(check(document, &account(), true).is_err(), "{document}");
        }
    }
}
