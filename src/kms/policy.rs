//! Key policies: stored with the key. What they mean is decided by [`auth`](crate::auth::policy).

use super::error::KmsError;
use super::key::{KeyArn, KeyRecord, Owner};
use super::{BindError, COMMIT_ATTEMPTS_MAX, Kms, check_proof, table};
use crate::auth::policy::{Bound, Document, Kind, Values, may_change_key_policy};
use crate::auth::{AccountId, Authorised, Principal};
use minicbor::{Decode, Encode};

/// The one name that a key policy can have.
pub const POLICY_NAME: &str = "default";
/// The longest policy, in characters.
pub const POLICY_CHARS_MAX: usize = 131_072;

/// What is recorded of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct PolicyRecord {
    #[n(0)]
    pub(super) document: String,
    /// Whom it meant when it was stored; not said of a policy from before that was kept.
    #[n(1)]
    pub(super) bound: Option<Bound>,
}

impl PolicyRecord {
    /// A policy that names no user and no role.
    pub(super) fn of_accounts(document: String) -> Self {
        Self {
            document,
            bound: None,
        }
    }

    /// What it says.
    pub(super) fn read(&self) -> Result<Document, KmsError> {
        let document = Document::parse(&self.document, Kind::Resource)
            .map_err(|_malformed| KmsError::Damaged("a key policy does not read"))?;
        Ok(match &self.bound {
            Some(bound) => document.meaning(bound.clone()),
            None => document,
        })
    }
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
        let who = (key.account(), proof.principal());
        let record = self
            .checked_policy(document, key.as_str(), who, bypass_lockout_check)
            .await?;
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

    /// Checks that `document` reads as a key policy and names those who exist and, unless told otherwise, that whoever
    /// sets it could change it again.
    pub(super) async fn checked_policy(
        &self,
        document: &str,
        key_arn: &str,
        who: (&AccountId, &Principal),
        bypass_lockout_check: bool,
    ) -> Result<PolicyRecord, KmsError> {
        let policy = parse(document)?;
        let policy = self.bind(policy).await.map_err(|error| match error {
            BindError::Nobody(_) => KmsError::MalformedPolicy(
                "Policy contains a statement with one or more invalid principals.".to_owned(),
            ),
            BindError::Kms(error) => error,
        })?;
        if !bypass_lockout_check {
            check_lockout(&policy, key_arn, who)?;
        }
        Ok(PolicyRecord {
            document: document.to_owned(),
            bound: policy.bound().cloned(),
        })
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

/// The policy of a key that the service manages: who may use S3 uses it through S3, and nobody else does (AWS KMS
/// Developer Guide, "View an AWS managed key policy").
pub(super) fn managed_document(account: &AccountId, region: &str) -> String {
    format!(
        r#"{{
  "Version" : "2012-10-17",
  "Id" : "auto-s3-2",
  "Statement" : [ {{
    "Sid" : "Allow access through S3 for all principals in the account that are authorized to use S3",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "*"
    }},
    "Action" : [ "kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey" ],
    "Resource" : "*",
    "Condition" : {{
      "StringEquals" : {{
        "kms:CallerAccount" : "{account}",
        "kms:ViaService" : "s3.{region}.amazonaws.com"
      }}
    }}
  }}, {{
    "Sid" : "Allow direct access to key metadata to the account",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "arn:aws:iam::{account}:root"
    }},
    "Action" : [ "kms:Describe*", "kms:Get*", "kms:List*" ],
    "Resource" : "*"
  }} ]
}}"#
    )
}

fn parse(document: &str) -> Result<Document, KmsError> {
    if document.chars().count() > POLICY_CHARS_MAX {
        let message = "The policy is too long.".to_owned();
        return Err(KmsError::MalformedPolicy(message));
    }
    Document::parse(document, Kind::Resource)
        .map_err(|error| KmsError::MalformedPolicy(format!("The policy is not valid: {error}.")))
}

/// Checks that whoever sets a policy could change it again.
fn check_lockout(
    policy: &Document,
    key_arn: &str,
    (owner, principal): (&AccountId, &Principal),
) -> Result<(), KmsError> {
    let mut values = Values::of(principal);
    values.add("kms:CallerAccount", principal.account.as_str());
    if may_change_key_policy(principal, owner, key_arn, policy, &values) {
        return Ok(());
    }
    Err(KmsError::MalformedPolicy(
        "The new key policy will not allow you to update the key policy in the future.".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::{KmsError, default_document, managed_document};
    use crate::auth::policy::{Document, Kind};
    use crate::auth::{AccountId, Principal};

    fn check(document: &str, account: &AccountId) -> Result<(), KmsError> {
        let root = Principal::root(account.clone(), "AKIA");
        let policy = super::parse(document)?;
        super::check_lockout(&policy, "arn:aws:kms:r:1:key/k", (account, &root))
    }

    #[test]
    fn the_policy_of_a_managed_key_reads_as_one() {
        let document = managed_document(&account(), "us-west-2");
        Document::parse(&document, Kind::Resource).expect("a policy");
    }

    fn account() -> AccountId {
        AccountId::parse("123456789012").expect("twelve digits")
    }

    #[test]
    fn the_default_policy_passes_its_own_check() {
        check(&default_document(&account()), &account()).expect("keeps root in");
    }

    #[test]
    fn a_policy_that_locks_root_out_is_refused() {
        let other = default_document(&AccountId::parse("210987654321").expect("twelve digits"));
        assert!(check(&other, &account()).is_err());
    }

    #[test]
    fn what_is_no_policy_is_malformed() {
        for document in [
            "",
            "{}",
            "[]",
            "{\"Statement\":[{}]}",
            "{\"Statement\":\"x\"}",
        ] {
            assert!(super::parse(document).is_err(), "{document}");
        }
    }
}
