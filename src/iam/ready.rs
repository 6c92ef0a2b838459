//! Managed policies that are there from the start, under `arn:aws:iam::aws:policy/`.
//!
//! Three of them keep duties apart: who manages keys does not use them, who uses them does not manage them, and who looks
//! does neither. They forbid the others' part, so that a key policy or a second policy does not undo it by mistake:
//! whoever has two of them can do what both allow, which is to look. What the tests below say of every action is the
//! whole of it.

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
        "kms:DescribeCustomKeyStores", "kms:DescribeKey", "kms:DescribeRewrap", "kms:GetKeyLastUsage",
        "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:GetKeyUsage", "kms:GetPublicKey", "kms:List*",
        "strongroom:KeyInventory", "strongroom:VerifyAuditCheckpoints",
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
        "kms:Import*", "kms:Move*", "kms:Put*", "kms:ReEncrypt*", "kms:Replicate*", "kms:RetireGrant",
        "kms:RevokeGrant", "kms:Rotate*", "kms:Schedule*", "kms:Sign", "kms:Start*", "kms:TagResource",
        "kms:UntagResource", "kms:Update*", "kms:Verify", "kms:VerifyMac",
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
        "kms:Move*", "kms:Put*", "kms:Replicate*", "kms:RevokeGrant", "kms:Rotate*", "kms:Schedule*", "kms:TagResource",
        "kms:UntagResource", "kms:Update*"
      ],
      "Resource": "*"
    },
    {
      "Sid": "NoUse",
      "Effect": "Deny",
      "Action": [
        "kms:CreateGrant", "kms:Decrypt", "kms:DeriveSharedSecret", "kms:Encrypt", "kms:GenerateDataKey*",
        "kms:GenerateMac", "kms:ReEncrypt*", "kms:Sign", "kms:Start*", "kms:Verify", "kms:VerifyMac"
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
        "kms:GetParametersForImport", "kms:Import*", "kms:Move*", "kms:Put*", "kms:Replicate*", "kms:RevokeGrant",
        "kms:Rotate*", "kms:Schedule*", "kms:Start*", "kms:TagResource", "kms:UntagResource", "kms:Update*"
      ],
      "Resource": "*"
    }
  ]
}"#,
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::Arc;

    use super::super::documents::{Use, check, counted_chars};
    use super::*;
    use crate::auth::policy::{
        Decision, Denial, Document, Kind, PolicyKind, Question, RequestSteps, Side, Values, decide,
    };
    use crate::auth::{AccountId, Identity, Principal, User};

    /// What a ready policy makes of an action.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Said {
        /// Allowed by it alone.
        May,
        /// Forbidden, also beside a second policy that allows everything.
        MayNot,
        /// Neither: a second policy decides.
        Nothing,
    }
    use Said::{May, MayNot, Nothing};

    const APART: [&str; 3] = [
        "StrongroomKeyAdministrator",
        "StrongroomKeyUser",
        "StrongroomAuditor",
    ];

    /// Every action on keys and on what is the operator's: what [`APART`] say of it, in their order.
    const ACTIONS: [(&str, [Said; 3]); 60] = [
        ("kms:CancelKeyDeletion", [May, MayNot, MayNot]),
        ("kms:CancelRewrap", [May, MayNot, MayNot]),
        ("kms:ConnectCustomKeyStore", [May, MayNot, MayNot]),
        ("kms:CreateAlias", [May, MayNot, MayNot]),
        ("kms:CreateCustomKeyStore", [May, MayNot, MayNot]),
        ("kms:CreateGrant", [MayNot, MayNot, MayNot]),
        ("kms:CreateKey", [May, MayNot, MayNot]),
        ("kms:Decrypt", [MayNot, May, MayNot]),
        ("kms:DeleteAlias", [May, MayNot, MayNot]),
        ("kms:DeleteCustomKeyStore", [May, MayNot, MayNot]),
        ("kms:DeleteImportedKeyMaterial", [May, MayNot, MayNot]),
        ("kms:DescribeCustomKeyStores", [May, Nothing, May]),
        ("kms:DescribeKey", [May, May, May]),
        ("kms:DescribeRewrap", [May, Nothing, May]),
        ("kms:DisableKey", [May, MayNot, MayNot]),
        ("kms:DisableKeyRotation", [May, MayNot, MayNot]),
        ("kms:DisconnectCustomKeyStore", [May, MayNot, MayNot]),
        ("kms:EnableKey", [May, MayNot, MayNot]),
        ("kms:EnableKeyRotation", [May, MayNot, MayNot]),
        ("kms:Encrypt", [MayNot, May, MayNot]),
        ("kms:GenerateDataKey", [MayNot, May, MayNot]),
        ("kms:GenerateDataKeyPair", [MayNot, May, MayNot]),
        (
            "kms:GenerateDataKeyPairWithoutPlaintext",
            [MayNot, May, MayNot],
        ),
        ("kms:GenerateDataKeyWithoutPlaintext", [MayNot, May, MayNot]),
        ("kms:GenerateMac", [MayNot, May, MayNot]),
        ("kms:GenerateRandom", [Nothing, May, MayNot]),
        ("kms:GetKeyLastUsage", [May, Nothing, May]),
        ("kms:GetKeyPolicy", [May, Nothing, May]),
        ("kms:GetKeyRotationStatus", [May, Nothing, May]),
        ("kms:GetKeyUsage", [May, Nothing, May]),
        ("kms:GetParametersForImport", [May, MayNot, MayNot]),
        ("kms:GetPublicKey", [May, May, May]),
        ("kms:ImportKeyMaterial", [May, MayNot, MayNot]),
        ("kms:ListAliases", [May, May, May]),
        ("kms:ListGrants", [May, Nothing, May]),
        ("kms:ListKeyPolicies", [May, Nothing, May]),
        ("kms:ListKeyRotations", [May, Nothing, May]),
        ("kms:ListKeys", [May, May, May]),
        ("kms:ListResourceTags", [May, Nothing, May]),
        ("kms:ListRetirableGrants", [May, Nothing, May]),
        ("kms:ListRewraps", [May, Nothing, May]),
        ("kms:MoveKey", [May, MayNot, MayNot]),
        ("kms:PutKeyPolicy", [May, MayNot, MayNot]),
        ("kms:ReEncryptFrom", [MayNot, May, MayNot]),
        ("kms:ReEncryptTo", [MayNot, May, MayNot]),
        ("kms:RetireGrant", [Nothing, Nothing, MayNot]),
        ("kms:RevokeGrant", [May, MayNot, MayNot]),
        ("kms:RotateKeyOnDemand", [May, MayNot, MayNot]),
        ("kms:ScheduleKeyDeletion", [May, MayNot, MayNot]),
        ("kms:Sign", [MayNot, May, MayNot]),
        ("kms:StartRewrap", [MayNot, MayNot, MayNot]),
        ("kms:TagResource", [May, MayNot, MayNot]),
        ("kms:UntagResource", [May, MayNot, MayNot]),
        ("kms:UpdateAlias", [May, MayNot, MayNot]),
        ("kms:UpdateCustomKeyStore", [May, MayNot, MayNot]),
        ("kms:UpdateKeyDescription", [May, MayNot, MayNot]),
        ("kms:Verify", [MayNot, May, MayNot]),
        ("kms:VerifyMac", [MayNot, May, MayNot]),
        ("strongroom:KeyInventory", [Nothing, Nothing, May]),
        ("strongroom:VerifyAuditCheckpoints", [Nothing, Nothing, May]),
    ];

    /// What is asked of policies under the name of an action, but is the name of a condition.
    const CONDITIONS: [&str; 28] = [
        "kms:BypassPolicyLockoutSafetyCheck",
        "kms:CallerAccount",
        "kms:DataKeyPairSpec",
        "kms:EncryptionAlgorithm",
        "kms:EncryptionContextKeys",
        "kms:ExpirationModel",
        "kms:GrantConstraintType",
        "kms:GrantIsForAWSResource",
        "kms:GrantOperations",
        "kms:GranteePrincipal",
        "kms:KeyOrigin",
        "kms:KeySpec",
        "kms:KeyUsage",
        "kms:MacAlgorithm",
        "kms:MessageType",
        "kms:MultiRegion",
        "kms:ReEncryptOnSameKey",
        "kms:RequestAlias",
        "kms:ResourceAliases",
        "kms:RetiringPrincipal",
        "kms:RotationPeriodInDays",
        "kms:ScheduleKeyDeletionPendingWindowInDays",
        "kms:SigningAlgorithm",
        "kms:TrailingDaysWithoutKeyUsage",
        "kms:ValidTo",
        "kms:ViaService",
        "kms:WrappingAlgorithm",
        "kms:WrappingKeySpec",
    ];

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

    fn document(name: &str) -> &'static str {
        let found = POLICIES.iter().find(|policy| policy.name == name);
        found.expect(name).document
    }

    /// What is decided about an identity that these are all the policies of.
    fn decision(texts: &[&str], action: &str) -> Decision {
        let read = |text: &&str| Arc::new(Document::parse(text, Kind::Identity).expect("a policy"));
        let user = User {
            id: "AIDAALICE".into(),
            path: "/".into(),
            name: "alice".into(),
            policies: texts.iter().map(read).collect(),
        };
        let principal = Principal {
            account: AccountId::parse("000000000000").expect("twelve digits"),
            access_key_id: "AKIATEST".into(),
            identity: Identity::User(Arc::new(user)),
        };
        let question = Question {
            principal: &principal,
            canonical_id: None,
            action,
            resource: "*",
            values: &Values::default(),
            side: Side::None,
        };
        decide(&question, &RequestSteps::default())
    }

    fn said(policy: &str, action: &str) -> Said {
        let forbidden = Decision::Denied(Denial::Explicit {
            by: PolicyKind::Identity,
        });
        let policy = document(policy);
        let beside = decision(&[policy, document("AdministratorAccess")], action);
        match decision(&[policy], action) {
            Decision::Allowed => {
                assert_eq!(beside, Decision::Allowed, "{action}");
                May
            }
            Decision::Denied(_) if beside == Decision::Allowed => Nothing,
            Decision::Denied(_) => {
                assert_eq!(beside, forbidden, "{action}");
                MayNot
            }
        }
    }

    #[test]
    fn duties_are_apart_for_every_action_on_keys() {
        for (action, wanted) in ACTIONS {
            assert_eq!(APART.map(|policy| said(policy, action)), wanted, "{action}");
        }
    }

    #[test]
    fn what_two_of_them_allow_is_to_look() {
        let looks = |action: &str| {
            let (_, name) = action.split_once(':').expect("a service");
            ["Describe", "Get", "List"]
                .iter()
                .any(|look| name.starts_with(look))
        };
        for (action, wanted) in ACTIONS {
            let may = wanted.iter().filter(|said| **said == May).count();
            assert!(may < 2 || looks(action), "{action}");
        }
    }

    #[test]
    fn an_auditor_sees_objects_names_and_nothing_of_them() {
        for (action, wanted) in [
            ("s3:ListBucket", May),
            ("s3:GetBucketPolicy", May),
            ("iam:ListUsers", May),
            ("s3:GetObject", MayNot),
            ("s3:PutObject", MayNot),
            ("s3:UpdateObjectEncryption", MayNot),
            ("s3:DeleteBucket", MayNot),
            ("iam:CreateUser", Nothing),
        ] {
            assert_eq!(said("StrongroomAuditor", action), wanted, "{action}");
        }
    }

    /// Names in quotes, of the form `kms:Name` or `strongroom:Name`, in the sources; not in those of tests.
    fn named_in(dir: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.ends_with("tests") || path.ends_with("tests.rs") || path.ends_with("ready.rs") {
                continue;
            }
            if path.is_dir() {
                named_in(&path, names);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source");
            let text = text.split("#[cfg(test)]").next().expect("a first part");
            let quoted = text.split('"').filter(|quoted| {
                let name = quoted.strip_prefix("kms:");
                let name = name.or_else(|| quoted.strip_prefix("strongroom:"));
                name.is_some_and(|name| {
                    name.starts_with(|c: char| c.is_ascii_uppercase())
                        && name.bytes().all(|b| b.is_ascii_alphanumeric())
                })
            });
            names.extend(quoted.map(str::to_owned));
        }
    }

    #[test]
    fn every_action_of_the_server_is_in_the_list() {
        let mut names = BTreeSet::new();
        named_in(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut names,
        );
        let listed = ACTIONS.iter().map(|(action, _)| *action);
        let listed = listed.chain(CONDITIONS);
        let listed: BTreeSet<_> = listed.map(str::to_owned).collect();
        assert_eq!(names, listed);
    }
}
