//! Managed policies that are there from the start, under `arn:aws:iam::aws:policy/`.
//!
//! Three of them keep duties apart: who manages keys does not use them, who uses them does not manage them, and who looks
//! does neither. They forbid what they do not allow, so that a key policy or a second policy does not undo it by mistake:
//! whoever has two of them can do what both allow, which is to look.

/// When all of them were made, in seconds since 1970: 2026-11-24.
pub(super) const CREATED: i64 = 1_795_478_400;

const ARN_STEM: &str = "arn:aws:iam::aws:policy/";

/// A ready policy.
#[derive(Debug)]
pub(super) struct ReadyPolicy {
    pub(super) name: &'static str,
    pub(super) id: &'static str,
    pub(super) description: &'static str,
    pub(super) document: &'static str,
}

impl ReadyPolicy {
    pub(super) fn arn(&self) -> String {
        format!("{ARN_STEM}{}", self.name)
    }
}

/// The ready policy with this ARN.
pub(super) fn find(arn: &str) -> Option<&'static ReadyPolicy> {
    let name = arn.strip_prefix(ARN_STEM)?;
    POLICIES.iter().find(|policy| policy.name == name)
}

/// All of them, by name.
pub(super) const POLICIES: [ReadyPolicy; 8] = [
    ReadyPolicy {
        name: "AdministratorAccess",
        id: "ANPASTRONGROOMADMINAA",
        description: "Everything.",
        document: r#"{
  "Version": "2012-10-17",
  "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]
}"#,
    },
    ReadyPolicy {
        name: "AmazonS3FullAccess",
        id: "ANPASTRONGROOMS3FULLA",
        description: "All buckets and objects.",
        document: r#"{
  "Version": "2012-10-17",
  "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]
}"#,
    },
    ReadyPolicy {
        name: "AmazonS3ReadOnlyAccess",
        id: "ANPASTRONGROOMS3READA",
        description: "Reads all buckets and objects.",
        document: r#"{
  "Version": "2012-10-17",
  "Statement": [{"Effect": "Allow", "Action": ["s3:Get*", "s3:List*", "s3:Describe*"], "Resource": "*"}]
}"#,
    },
    ReadyPolicy {
        name: "IAMFullAccess",
        id: "ANPASTRONGROOMIAMFULL",
        description: "All identities and their policies.",
        document: r#"{
  "Version": "2012-10-17",
  "Statement": [{"Effect": "Allow", "Action": "iam:*", "Resource": "*"}]
}"#,
    },
    ReadyPolicy {
        name: "IAMReadOnlyAccess",
        id: "ANPASTRONGROOMIAMREAD",
        description: "Reads identities and their policies.",
        document: r#"{
  "Version": "2012-10-17",
  "Statement": [{"Effect": "Allow", "Action": ["iam:Get*", "iam:List*"], "Resource": "*"}]
}"#,
    },
    ReadyPolicy {
        name: "StrongroomAuditor",
        id: "ANPASTRONGROOMAUDITOR",
        description: "Sees keys, policies, identities and buckets; uses and changes no key, reads and writes no object.",
        document: r#"{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Sid": "Look",
      "Effect": "Allow",
      "Action": [
        "kms:DescribeCustomKeyStores", "kms:DescribeKey", "kms:GetKeyLastUsage", "kms:GetKeyPolicy",
        "kms:GetKeyRotationStatus", "kms:GetPublicKey", "kms:List*",
        "iam:Get*", "iam:List*",
        "s3:GetBucket*", "s3:GetEncryptionConfiguration", "s3:ListAllMyBuckets", "s3:ListBucket",
        "s3:ListBucketMultipartUploads", "s3:ListBucketVersions"
      ],
      "Resource": "*"
    },
    {
      "Sid": "NoUseAndNoChange",
      "Effect": "Deny",
      "Action": [
        "kms:Cancel*", "kms:Connect*", "kms:Create*", "kms:Decrypt", "kms:Delete*", "kms:DeriveSharedSecret",
        "kms:Disable*", "kms:Disconnect*", "kms:Enable*", "kms:Encrypt", "kms:Generate*", "kms:GetParametersForImport",
        "kms:Import*", "kms:Put*", "kms:ReEncrypt*", "kms:Replicate*", "kms:RetireGrant", "kms:RevokeGrant",
        "kms:Rotate*", "kms:Schedule*", "kms:Sign", "kms:Start*", "kms:TagResource", "kms:UntagResource", "kms:Update*",
        "kms:Verify", "kms:VerifyMac",
        "s3:Abort*", "s3:Create*", "s3:Delete*", "s3:GetObject*", "s3:Put*", "s3:Replicate*", "s3:Restore*",
        "s3:Update*"
      ],
      "Resource": "*"
    }
  ]
}"#,
    },
    ReadyPolicy {
        name: "StrongroomKeyAdministrator",
        id: "ANPASTRONGROOMKEYADMN",
        description: "Manages keys; uses none, and lets itself use none by a grant.",
        document: r#"{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Sid": "Manage",
      "Effect": "Allow",
      "Action": [
        "kms:Cancel*", "kms:Connect*", "kms:CreateAlias", "kms:CreateCustomKeyStore", "kms:CreateKey", "kms:Delete*",
        "kms:Describe*", "kms:Disable*", "kms:Disconnect*", "kms:Enable*", "kms:Get*", "kms:Import*", "kms:List*",
        "kms:Put*", "kms:Replicate*", "kms:RevokeGrant", "kms:Rotate*", "kms:Schedule*", "kms:TagResource",
        "kms:UntagResource", "kms:Update*"
      ],
      "Resource": "*"
    },
    {
      "Sid": "NoUse",
      "Effect": "Deny",
      "Action": [
        "kms:CreateGrant", "kms:Decrypt", "kms:DeriveSharedSecret", "kms:Encrypt", "kms:GenerateDataKey*",
        "kms:GenerateMac", "kms:ReEncrypt*", "kms:Sign", "kms:Verify", "kms:VerifyMac"
      ],
      "Resource": "*"
    }
  ]
}"#,
    },
    ReadyPolicy {
        name: "StrongroomKeyUser",
        id: "ANPASTRONGROOMKEYUSER",
        description: "Uses keys; manages none.",
        document: r#"{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Sid": "Use",
      "Effect": "Allow",
      "Action": [
        "kms:Decrypt", "kms:DeriveSharedSecret", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*",
        "kms:GenerateMac", "kms:GenerateRandom", "kms:GetPublicKey", "kms:ListAliases", "kms:ListKeys",
        "kms:ReEncrypt*", "kms:Sign", "kms:Verify", "kms:VerifyMac"
      ],
      "Resource": "*"
    },
    {
      "Sid": "NoManagement",
      "Effect": "Deny",
      "Action": [
        "kms:Cancel*", "kms:Connect*", "kms:Create*", "kms:Delete*", "kms:Disable*", "kms:Disconnect*", "kms:Enable*",
        "kms:GetParametersForImport", "kms:Import*", "kms:Put*", "kms:Replicate*", "kms:RevokeGrant", "kms:Rotate*",
        "kms:Schedule*", "kms:TagResource", "kms:UntagResource", "kms:Update*"
      ],
      "Resource": "*"
    }
  ]
}"#,
    },
];

#[cfg(test)]
mod tests {
    use super::super::documents::{Use, check, counted_chars};
    use super::*;

    #[test]
    fn every_ready_policy_is_one() {
        for policy in &POLICIES {
            check(Use::Identity, policy.document).expect(policy.name);
            assert!(counted_chars(policy.document) <= super::super::MANAGED_CHARS_MAX);
            assert_eq!(policy.id.len(), 21, "{}", policy.name);
            assert_eq!(find(&policy.arn()).map(|found| found.id), Some(policy.id));
        }
        assert!(POLICIES.is_sorted_by_key(|policy| policy.name));
        assert!(find("arn:aws:iam::aws:policy/Other").is_none());
    }
}
