//! Each branch of the decision: who is refused first.

use super::{
    OURS, THEIRS, account, alice, foreign_alice, foreign_root, foreign_session, root, session,
};
use crate::auth::policy::PolicyKind::{Identity, Resource, Session};
use crate::auth::policy::{
    Decision, Denial, Document, Kind, Named, PolicyKind, Question, RequestSteps, STEPS_MAX,
    STEPS_OF_REQUEST_MAX, Side, Values, decide, decide::decide_in, may_change_key_policy, names,
    steps::Steps,
};
use crate::auth::{AccountId, Action, DecidedBucket, Principal, RequestContext, authorise};

const KEY: &str = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const OBJECT: &str = "arn:aws:s3:::bucket/key";
const ROLE: &str = "arn:aws:iam::111122223333:role/app/writer";

const ALLOW_ALL: &str = r#"{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
const DENY_ALL: &str = r#"{"Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}"#;
const ALLOW_OTHER: &str = r#"{"Statement":{"Effect":"Allow","Action":"iam:*","Resource":"*"}}"#;

const OUR_ACCOUNT: &str = "arn:aws:iam::111122223333:root";
const THEIR_ACCOUNT: &str = "arn:aws:iam::444455556666:root";
const OUR_ALICE: &str = "arn:aws:iam::111122223333:user/alice";
const THEIR_ALICE: &str = "arn:aws:iam::444455556666:user/alice";
const OUR_SESSION: &str = "arn:aws:sts::111122223333:assumed-role/writer/night";

const ALLOWED: Decision = Decision::Allowed;

fn lacking(lacking: PolicyKind) -> Decision {
    Decision::Denied(Denial::Implicit { lacking })
}

fn denied(by: PolicyKind) -> Decision {
    Decision::Denied(Denial::Explicit { by })
}

/// A policy of a resource, of statements of this effect for each principal.
fn resource(statements: &[(&str, &str)]) -> Document {
    let statements: Vec<_> = statements
        .iter()
        .map(|(effect, who)| {
            format!(r#"{{"Effect":"{effect}","Principal":{{"AWS":"{who}"}},"Action":"*","Resource":"*"}}"#)
        })
        .collect();
    let text = format!(r#"{{"Statement":[{}]}}"#, statements.join(","));
    Document::parse(&text, Kind::Resource).expect("a resource's policy")
}

fn ask(principal: &Principal, action: &str, resource: &str, side: Side<'_>) -> Decision {
    let values = Values::of(principal);
    let question = Question {
        principal,
        canonical_id: None,
        action,
        resource,
        values: &values,
        side,
    };
    decide(&question, &RequestSteps::default())
}

fn without_policy(principal: &Principal) -> Decision {
    ask(
        principal,
        "s3:ListAllMyBuckets",
        "arn:aws:s3:::*",
        Side::None,
    )
}

fn bucket<'a>(owner: &'a AccountId, policy: Option<&'a Document>) -> Side<'a> {
    Side::Bucket {
        bucket: DecidedBucket {
            uuid: [7; 16],
            verified: true,
        },
        owner,
        policy,
    }
}

fn get(principal: &Principal, policy: Option<&Document>) -> Decision {
    let owner = account(OURS);
    ask(principal, "s3:GetObject", OBJECT, bucket(&owner, policy))
}

fn key(principal: &Principal, action: &str, policy: &Document, grant: Option<Named>) -> Decision {
    let owner = account(OURS);
    let side = Side::Key {
        owner: &owner,
        policy,
        grant,
    };
    ask(principal, action, KEY, side)
}

fn decrypt(principal: &Principal, policy: &Document) -> Decision {
    key(principal, "kms:Decrypt", policy, None)
}

fn assume(principal: &Principal, who: &str) -> Decision {
    let text = format!(
        r#"{{"Statement":{{"Effect":"Allow","Principal":{{"AWS":"{who}"}},"Action":"sts:AssumeRole"}}}}"#
    );
    let trust = Document::parse(&text, Kind::Trust).expect("a trust policy");
    let owner = account(OURS);
    let side = Side::Role {
        owner: &owner,
        trust: &trust,
    };
    ask(principal, "sts:AssumeRole", ROLE, side)
}

#[test]
fn without_a_resource_policy_the_identity_side_decides() {
    assert_eq!(without_policy(&alice(&[])), lacking(Identity));
    assert_eq!(without_policy(&alice(&[ALLOW_OTHER])), lacking(Identity));
    assert_eq!(
        without_policy(&alice(&[ALLOW_ALL, DENY_ALL])),
        denied(Identity)
    );
    assert_eq!(
        without_policy(&session(&[], &[ALLOW_ALL])),
        lacking(Identity)
    );
    assert_eq!(
        without_policy(&session(&[ALLOW_ALL], &[ALLOW_OTHER])),
        lacking(Session)
    );
    assert_eq!(
        without_policy(&session(&[ALLOW_ALL], &[ALLOW_ALL, DENY_ALL])),
        denied(Session)
    );
    assert_eq!(without_policy(&alice(&[ALLOW_OTHER, ALLOW_ALL])), ALLOWED);
    assert_eq!(without_policy(&session(&[ALLOW_ALL], &[])), ALLOWED);
    // One session policy that allows is enough, as one identity policy is.
    assert_eq!(
        without_policy(&session(&[ALLOW_ALL], &[ALLOW_OTHER, ALLOW_ALL])),
        ALLOWED
    );
    assert_eq!(without_policy(&root()), ALLOWED);
}

#[test]
fn a_statement_is_about_its_actions_and_resources_only() {
    let ask = |statement: &str, action: &str, resource: &str| {
        let policy =
            format!(r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow",{statement}}}}}"#);
        ask(&alice(&[&policy]), action, resource, Side::None) == ALLOWED
    };
    let home = r#""Action":"s3:Get*","Resource":"arn:aws:s3:::bucket/${aws:username}/*""#;
    assert!(!ask(home, "s3:PutObject", "arn:aws:s3:::bucket/alice/x"));
    assert!(!ask(home, "s3:GetObject", "arn:aws:s3:::bucket/bob/x"));
    assert!(!ask(home, "s3:GetObject", "arn:aws:s3:::bucket"));
    assert!(!ask(home, "s3:GetObject", "arn:aws:s3:::bucket/Alice/x"));
    assert!(!ask(home, "xs3:GetObject", "arn:aws:s3:::bucket/alice/x"));
    assert!(!ask(home, "s3:GetObject", "*"));
    assert!(ask(home, "S3:getobject", "arn:aws:s3:::bucket/alice/x"));
    let other =
        r#""NotAction":["s3:Put*","s3:De?eteObject"],"NotResource":"arn:aws:s3:::secret/*""#;
    assert!(!ask(other, "s3:PutObject", OBJECT));
    assert!(!ask(other, "s3:DELETEOBJECT", OBJECT));
    assert!(!ask(other, "s3:GetObject", "arn:aws:s3:::secret/x"));
    assert!(ask(other, "s3:GetObject", OBJECT));
    // The example of "Policy evaluation logic".
    let lists = r#""Action":["s3:ListAllMyBuckets"],"Resource":"arn:aws:s3:::*""#;
    assert!(ask(lists, "s3:ListAllMyBuckets", "arn:aws:s3:::*"));
}

#[test]
fn a_bucket_is_open_to_its_account_by_either_side() {
    let for_alice = resource(&[("Allow", OUR_ALICE)]);
    let for_account = resource(&[("Allow", OUR_ACCOUNT)]);
    let for_all = resource(&[("Allow", "*")]);
    assert_eq!(get(&alice(&[]), None), lacking(Identity));
    assert_eq!(get(&session(&[], &[]), Some(&for_alice)), lacking(Identity));
    // To name the account is to delegate to its identity policies.
    assert_eq!(get(&alice(&[]), Some(&for_account)), lacking(Identity));
    assert_eq!(get(&alice(&[DENY_ALL]), Some(&for_alice)), denied(Identity));
    assert_eq!(get(&alice(&[ALLOW_ALL]), None), ALLOWED);
    assert_eq!(get(&alice(&[ALLOW_ALL]), Some(&for_account)), ALLOWED);
    assert_eq!(get(&alice(&[]), Some(&for_alice)), ALLOWED);
    assert_eq!(get(&alice(&[]), Some(&for_all)), ALLOWED);
}

#[test]
fn a_bucket_policy_that_denies_wins_over_everything() {
    for (who, caller) in [
        (OUR_ALICE, alice(&[ALLOW_ALL])),
        (OUR_ACCOUNT, alice(&[ALLOW_ALL])),
        ("111122223333", session(&[ALLOW_ALL], &[])),
        (ROLE, session(&[ALLOW_ALL], &[])),
        (OUR_SESSION, session(&[ALLOW_ALL], &[])),
        ("*", root()),
        (OUR_ACCOUNT, root()),
    ] {
        let policy = resource(&[("Allow", "*"), ("Deny", who)]);
        assert_eq!(get(&caller, Some(&policy)), denied(Resource), "{who}");
    }
    let policy = resource(&[("Deny", OUR_ALICE)]);
    assert_eq!(get(&session(&[ALLOW_ALL], &[]), Some(&policy)), ALLOWED);
}

#[test]
fn root_may_do_everything_to_its_buckets_and_always_mend_their_policies() {
    let owner = account(OURS);
    let shut = resource(&[("Deny", "*")]);
    let side = bucket(&owner, Some(&shut));
    let bucket = "arn:aws:s3:::bucket";
    for action in [
        "s3:PutBucketAcl",
        "s3:GetBucketPolicyStatus",
        "s3:DeleteBucket",
    ] {
        assert_eq!(
            ask(&root(), action, bucket, side),
            denied(Resource),
            "{action}"
        );
    }
    for action in [
        "s3:GetBucketPolicy",
        "s3:PutBucketPolicy",
        "s3:DeleteBucketPolicy",
    ] {
        assert_eq!(
            ask(&foreign_root(), action, bucket, side),
            denied(Resource),
            "{action}"
        );
        assert_eq!(
            ask(&alice(&[ALLOW_ALL]), action, bucket, side),
            denied(Resource),
            "{action}"
        );
        assert_eq!(ask(&root(), action, bucket, side), ALLOWED, "{action}");
    }
    assert_eq!(get(&root(), None), ALLOWED);
}

#[test]
fn the_policy_of_a_bucket_is_its_accounts_alone() {
    let owner = account(OURS);
    let open = resource(&[("Allow", "*")]);
    let shut = resource(&[("Allow", "*"), ("Deny", THEIR_ACCOUNT)]);
    let named = "arn:aws:s3:::bucket";
    let owners_alone = Decision::Denied(Denial::OwnersAlone);
    for action in [
        "s3:GetBucketPolicy",
        "s3:PutBucketPolicy",
        "s3:DeleteBucketPolicy",
        "S3:putbucketpolicy",
    ] {
        let ask = |who: &Principal, policy| ask(who, action, named, bucket(&owner, policy));
        for foreign in [
            foreign_root(),
            foreign_alice(&[ALLOW_ALL]),
            foreign_session(&[ALLOW_ALL], &[ALLOW_ALL]),
        ] {
            assert_eq!(ask(&foreign, Some(&open)), owners_alone, "{action}");
            assert_eq!(ask(&foreign, Some(&shut)), denied(Resource), "{action}");
            assert_eq!(ask(&foreign, None), lacking(Resource), "{action}");
        }
        let without = foreign_alice(&[]);
        assert_eq!(ask(&without, Some(&open)), lacking(Identity), "{action}");
        assert_eq!(ask(&alice(&[]), Some(&open)), ALLOWED, "{action}");
    }
    let status = "s3:GetBucketPolicyStatus";
    let of_it = bucket(&owner, Some(&open));
    assert_eq!(ask(&foreign_root(), status, named, of_it), ALLOWED);
}

#[test]
fn a_bucket_of_another_account_needs_both_sides() {
    let account = resource(&[("Allow", THEIR_ACCOUNT)]);
    let user = resource(&[("Allow", THEIR_ALICE)]);
    let all = resource(&[("Allow", "*")]);
    let ours = resource(&[("Allow", OUR_ACCOUNT)]);
    assert_eq!(get(&foreign_alice(&[ALLOW_ALL]), None), lacking(Resource));
    assert_eq!(get(&foreign_root(), None), lacking(Resource));
    assert_eq!(get(&foreign_root(), Some(&ours)), lacking(Resource));
    assert_eq!(get(&foreign_root(), Some(&user)), lacking(Resource));
    for policy in [&account, &user, &all] {
        assert_eq!(get(&foreign_alice(&[]), Some(policy)), lacking(Identity));
        assert_eq!(
            get(&foreign_alice(&[DENY_ALL]), Some(policy)),
            denied(Identity)
        );
        assert_eq!(get(&foreign_alice(&[ALLOW_ALL]), Some(policy)), ALLOWED);
    }
    assert_eq!(
        get(&foreign_session(&[ALLOW_ALL], &[ALLOW_OTHER]), Some(&all)),
        lacking(Session)
    );
    assert_eq!(
        get(&foreign_session(&[ALLOW_ALL], &[ALLOW_ALL]), Some(&account)),
        ALLOWED
    );
    assert_eq!(get(&foreign_root(), Some(&account)), ALLOWED);
}

/// The table "Resource-based policies and implicit denies in other policy types (same account)".
#[test]
fn a_policy_that_names_the_role_is_cut_down_by_the_session_and_one_that_names_the_session_is_not() {
    let by_role = resource(&[("Allow", ROLE)]);
    let by_session = resource(&[("Allow", OUR_SESSION)]);
    let by_all = resource(&[("Allow", "*")]);
    let plain = session(&[], &[]);
    let cut_down = session(&[], &[ALLOW_OTHER]);
    let allowing = session(&[], &[ALLOW_ALL]);
    let denying = session(&[], &[DENY_ALL]);
    assert_ne!(get(&cut_down, Some(&by_role)), ALLOWED);
    assert_eq!(decrypt(&cut_down, &by_role), lacking(Session));
    for policy in [&by_role, &by_session, &by_all] {
        assert_eq!(get(&denying, Some(policy)), denied(Session));
        assert_eq!(decrypt(&denying, policy), denied(Session));
        for caller in [&plain, &allowing] {
            assert_eq!(get(caller, Some(policy)), ALLOWED);
            assert_eq!(decrypt(caller, policy), ALLOWED);
        }
    }
    for policy in [&by_session, &by_all] {
        assert_eq!(get(&cut_down, Some(policy)), ALLOWED);
        assert_eq!(decrypt(&cut_down, policy), ALLOWED);
    }
}

#[test]
fn a_key_that_does_not_delegate_is_closed_even_to_administrators_and_root() {
    for policy in [
        resource(&[("Allow", OUR_ALICE)]),
        resource(&[("Allow", THEIR_ACCOUNT)]),
        resource(&[("Deny", THEIR_ACCOUNT)]),
    ] {
        assert_eq!(decrypt(&root(), &policy), lacking(Resource));
        assert_eq!(
            decrypt(&session(&[ALLOW_ALL], &[]), &policy),
            lacking(Resource)
        );
    }
    let for_alice = resource(&[("Allow", OUR_ALICE)]);
    assert_eq!(decrypt(&alice(&[]), &for_alice), ALLOWED);
}

#[test]
fn a_key_that_delegates_is_open_to_whom_the_account_lets_in() {
    let delegates = resource(&[("Allow", OUR_ACCOUNT)]);
    assert_eq!(decrypt(&alice(&[]), &delegates), lacking(Identity));
    assert_eq!(
        decrypt(&session(&[ALLOW_ALL], &[ALLOW_OTHER]), &delegates),
        lacking(Session)
    );
    assert_eq!(
        decrypt(&alice(&[DENY_ALL, ALLOW_ALL]), &delegates),
        denied(Identity)
    );
    let denies = resource(&[("Allow", OUR_ACCOUNT), ("Deny", OUR_ALICE)]);
    assert_eq!(decrypt(&alice(&[ALLOW_ALL]), &denies), denied(Resource));
    assert_eq!(decrypt(&alice(&[ALLOW_ALL]), &delegates), ALLOWED);
    assert_eq!(decrypt(&session(&[ALLOW_ALL], &[]), &delegates), ALLOWED);
    assert_eq!(decrypt(&root(), &delegates), ALLOWED);
}

#[test]
fn a_key_delegates_for_the_very_action_and_conditions_only() {
    let policy = |condition: &str| {
        let text = format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"AWS":"111122223333"}},
            "Action":"kms:D*","Resource":"*","Condition":{condition}}}}}"#
        );
        Document::parse(&text, Kind::Resource).expect("a key policy")
    };
    let open = policy("{}");
    let via_s3 = policy(r#"{"StringEquals":{"kms:ViaService":"s3.us-east-1.amazonaws.com"}}"#);
    let admin = alice(&[ALLOW_ALL]);
    assert_eq!(key(&admin, "kms:Encrypt", &open, None), lacking(Resource));
    assert_eq!(key(&root(), "kms:Encrypt", &open, None), lacking(Resource));
    assert_eq!(decrypt(&admin, &via_s3), lacking(Resource));
    assert_eq!(decrypt(&root(), &via_s3), lacking(Resource));
    assert_eq!(decrypt(&admin, &open), ALLOWED);
}

#[test]
fn a_grant_is_an_allow_of_the_key_and_no_more() {
    let shut = resource(&[("Allow", THEIR_ACCOUNT)]);
    let denies = resource(&[("Deny", "*")]);
    let ask = |caller: &Principal, grantee: &str, policy: &Document| {
        key(caller, "kms:Decrypt", policy, names(grantee, None, caller))
    };
    assert_eq!(ask(&alice(&[]), ROLE, &shut), lacking(Resource));
    assert_eq!(ask(&alice(&[]), OUR_ALICE, &denies), denied(Resource));
    assert_eq!(ask(&alice(&[DENY_ALL]), OUR_ALICE, &shut), denied(Identity));
    assert_eq!(ask(&alice(&[]), OUR_ACCOUNT, &shut), lacking(Identity));
    assert_eq!(
        ask(&session(&[], &[ALLOW_OTHER]), ROLE, &shut),
        lacking(Session)
    );
    assert_eq!(ask(&alice(&[]), OUR_ALICE, &shut), ALLOWED);
    assert_eq!(ask(&alice(&[ALLOW_ALL]), OUR_ACCOUNT, &shut), ALLOWED);
    assert_eq!(ask(&session(&[], &[]), ROLE, &shut), ALLOWED);
    assert_eq!(
        ask(&session(&[], &[ALLOW_OTHER]), OUR_SESSION, &shut),
        ALLOWED
    );
    assert_eq!(ask(&root(), OUR_ACCOUNT, &shut), ALLOWED);
}

#[test]
fn a_key_of_another_account_needs_both_sides() {
    let ours = resource(&[("Allow", OUR_ACCOUNT)]);
    let theirs = resource(&[("Allow", OUR_ACCOUNT), ("Allow", THEIR_ACCOUNT)]);
    assert_eq!(
        decrypt(&foreign_alice(&[ALLOW_ALL]), &ours),
        lacking(Resource)
    );
    assert_eq!(decrypt(&foreign_root(), &ours), lacking(Resource));
    for policy in [
        &theirs,
        &resource(&[("Allow", THEIR_ALICE)]),
        &resource(&[("Allow", "*")]),
    ] {
        assert_eq!(decrypt(&foreign_alice(&[]), policy), lacking(Identity));
        assert_eq!(decrypt(&foreign_alice(&[ALLOW_ALL]), policy), ALLOWED);
    }
    let grant = Some(Named::Itself);
    let by_grant = |caller: &Principal| key(caller, "kms:Decrypt", &ours, grant);
    assert_eq!(by_grant(&foreign_alice(&[])), lacking(Identity));
    assert_eq!(by_grant(&foreign_alice(&[ALLOW_ALL])), ALLOWED);
    assert_eq!(decrypt(&foreign_root(), &theirs), ALLOWED);
}

#[test]
fn a_key_is_not_managed_from_another_account() {
    let open = resource(&[("Allow", "*")]);
    for action in [
        "kms:PutKeyPolicy",
        "kms:ScheduleKeyDeletion",
        "kms:DisableKey",
        "kms:TagResource",
        "kms:ListKeyPolicies",
    ] {
        let denied = lacking(Resource);
        assert_eq!(
            key(&foreign_root(), action, &open, None),
            denied,
            "{action}"
        );
        assert_eq!(
            key(&foreign_alice(&[ALLOW_ALL]), action, &open, None),
            denied,
            "{action}"
        );
        assert_eq!(key(&alice(&[]), action, &open, None), ALLOWED, "{action}");
    }
    assert_eq!(
        key(&foreign_root(), "kms:DescribeKey", &open, None),
        ALLOWED
    );
}

#[test]
fn a_role_is_assumed_by_whom_its_trust_policy_lets_in() {
    assert_eq!(assume(&alice(&[ALLOW_ALL]), OUR_SESSION), lacking(Resource));
    assert_eq!(assume(&alice(&[]), OUR_ACCOUNT), lacking(Identity));
    assert_eq!(assume(&foreign_alice(&[]), THEIR_ALICE), lacking(Identity));
    assert_eq!(
        assume(&foreign_alice(&[ALLOW_ALL]), OUR_ACCOUNT),
        lacking(Resource)
    );
    assert_eq!(assume(&alice(&[DENY_ALL]), OUR_ALICE), denied(Identity));
    assert_eq!(assume(&alice(&[]), OUR_ALICE), ALLOWED);
    assert_eq!(assume(&alice(&[ALLOW_ALL]), OUR_ACCOUNT), ALLOWED);
    assert_eq!(assume(&foreign_alice(&[ALLOW_ALL]), THEIR_ACCOUNT), ALLOWED);
    assert_eq!(assume(&session(&[], &[]), ROLE), ALLOWED);
}

#[test]
fn root_assumes_no_role() {
    assert_eq!(assume(&root(), OUR_ACCOUNT), lacking(Resource));
    assert_eq!(assume(&root(), "*"), lacking(Resource));
    assert_eq!(assume(&foreign_root(), THEIR_ACCOUNT), lacking(Resource));
}

#[test]
fn not_principal_denies_all_whom_it_does_not_spare() {
    let policy = |spared: &[&str]| {
        let spared: Vec<_> = spared.iter().map(|who| format!("{who:?}")).collect();
        let text = format!(
            r#"{{"Statement":[{{"Effect":"Deny","NotPrincipal":{{"AWS":[{}]}},"Action":"s3:*","Resource":"*"}}]}}"#,
            spared.join(",")
        );
        Document::parse(&text, Kind::Resource).expect("a bucket policy")
    };
    let user = policy(&[OUR_ALICE, OUR_ACCOUNT]);
    let writer = policy(&[OUR_SESSION, ROLE, OUR_ACCOUNT]);
    let admin = alice(&[ALLOW_ALL]);
    let worker = session(&[ALLOW_ALL], &[]);
    assert_eq!(get(&worker, Some(&user)), denied(Resource));
    assert_eq!(get(&admin, Some(&writer)), denied(Resource));
    assert_eq!(get(&admin, Some(&policy(&[OUR_ALICE]))), denied(Resource));
    assert_eq!(
        get(&worker, Some(&policy(&[ROLE, OUR_ACCOUNT]))),
        denied(Resource)
    );
    assert_eq!(get(&root(), Some(&policy(&[OUR_ALICE]))), denied(Resource));
    assert_eq!(get(&admin, Some(&user)), ALLOWED);
    assert_eq!(get(&worker, Some(&writer)), ALLOWED);
    assert_eq!(get(&root(), Some(&user)), ALLOWED);
}

#[test]
fn who_is_locked_out_by_a_key_policy_is_known_before() {
    let (owner, foreign) = (account(OURS), account(THEIRS));
    let may = |caller: &Principal, owner, policy: &Document| {
        may_change_key_policy(caller, owner, KEY, policy, &Values::of(caller))
    };
    let delegates = resource(&[("Allow", OUR_ACCOUNT)]);
    let for_alice = resource(&[("Allow", OUR_ALICE)]);
    assert!(!may(&root(), &owner, &for_alice));
    assert!(!may(&alice(&[]), &owner, &delegates));
    assert!(!may(&root(), &foreign, &delegates));
    assert!(!may(
        &root(),
        &owner,
        &resource(&[("Allow", "*"), ("Deny", OUR_ACCOUNT)])
    ));
    let only_uses =
        r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}}"#;
    let only_uses = Document::parse(only_uses, Kind::Resource).expect("a key policy");
    assert!(!may(&root(), &owner, &only_uses));
    assert!(may(&root(), &owner, &delegates));
    assert!(may(&alice(&[]), &owner, &for_alice));
    assert!(may(&alice(&[ALLOW_ALL]), &owner, &delegates));
}

#[test]
fn a_refusal_says_which_policy_in_the_words_of_aws() {
    for (denial, reason) in [
        (
            Denial::Implicit { lacking: Identity },
            "because no identity-based policy allows the kms:Decrypt action",
        ),
        (
            Denial::Implicit { lacking: Session },
            "because no session policy allows the kms:Decrypt action",
        ),
        (
            Denial::Implicit { lacking: Resource },
            "because no resource-based policy allows the kms:Decrypt action",
        ),
        (
            Denial::Explicit { by: Identity },
            "with an explicit deny in an identity-based policy",
        ),
        (
            Denial::Explicit { by: Session },
            "with an explicit deny in a session policy",
        ),
        (
            Denial::Explicit { by: Resource },
            "with an explicit deny in a resource-based policy",
        ),
    ] {
        assert_eq!(denial.reason("kms:Decrypt"), reason);
    }
}

#[test]
fn a_canonical_id_in_a_bucket_policy_means_the_callers_account() {
    let canonical = "0".repeat(64);
    let policy = format!(
        r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"CanonicalUser":"{canonical}"}},
            "Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/*"}}}}"#
    );
    let policy = Document::parse(&policy, Kind::Resource).expect("a policy");
    let theirs = AccountId::parse("444455556666").expect("twelve digits");
    let owner = AccountId::parse("111122223333").expect("twelve digits");
    let asks = |id: Option<&str>| {
        let mut context = RequestContext::new(Principal::root(theirs.clone(), "AKIA"), "r");
        context.canonical_id = id.map(str::to_owned);
        let side = bucket(&owner, Some(&policy));
        let object = crate::auth::Resource::Object("bucket".into(), "k".into());
        let decided = authorise(&context, Action("s3:GetObject"), object, side, |_values| ());
        decided.is_ok()
    };
    assert!(!asks(None));
    assert!(!asks(Some(&"1".repeat(64))));
    assert!(asks(Some(&canonical)));
}

#[test]
fn the_decisions_of_a_request_share_its_steps_and_when_they_are_used_up_each_is_a_denial() {
    let owner = account(OURS);
    let policy = Document::parse(
        r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::bucket/*"}}"#,
        Kind::Resource,
    )
    .expect("a policy");
    let principal = root();
    let values = Values::of(&principal);
    let question = Question {
        principal: &principal,
        canonical_id: None,
        action: "s3:GetObject",
        resource: OBJECT,
        values: &values,
        side: bucket(&owner, Some(&policy)),
    };
    let ample = RequestSteps::default();
    assert_eq!(decide(&question, &ample), ALLOWED);
    let one = STEPS_OF_REQUEST_MAX - ample.left();
    assert!(one > 0);
    let undecided = Decision::Denied(Denial::Undecided);
    for (left, expected) in [
        (3 * one, [ALLOWED, ALLOWED, ALLOWED, undecided]),
        (3 * one - 1, [ALLOWED, ALLOWED, undecided, undecided]),
    ] {
        let steps = RequestSteps::new(left);
        // A clone has no steps of its own.
        let decided = [(); 4].map(|()| decide(&question, &steps.clone()));
        assert_eq!(decided, expected, "{left}");
        assert_eq!(steps.left(), 0);
    }
    // However many there are, one decision has its own limit.
    let long = long_policy("Deny", &format!("*{}b*", "a".repeat(500)));
    let object = format!("arn:aws:s3:::bucket/{}", "a".repeat(1_024));
    let question = Question {
        resource: &object,
        side: bucket(&owner, Some(&long)),
        ..question
    };
    let steps = RequestSteps::default();
    for decisions in 1..=12 {
        assert_eq!(decide(&question, &steps), undecided);
        let used = STEPS_OF_REQUEST_MAX.min(decisions * STEPS_MAX);
        assert_eq!(steps.left(), STEPS_OF_REQUEST_MAX - used);
    }
}

/// A policy of as many bytes as a bucket's may have, whose resources are all like `pattern`.
fn long_policy(effect: &str, pattern: &str) -> Document {
    let resource = format!(r#""arn:aws:s3:::bucket/{pattern}""#);
    let resources = vec![resource.as_str(); 20_000 / (resource.len() + 1)].join(",");
    let text = format!(
        r#"{{"Statement":[{{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}},
            {{"Effect":"{effect}","Principal":"*","Action":"*","Resource":[{resources}]}}]}}"#
    );
    Document::parse(&text, Kind::Resource).expect("a policy")
}

#[test]
fn what_is_not_decided_within_the_limit_is_denied() {
    let object = format!("arn:aws:s3:::bucket/{}", "a".repeat(1_024));
    let owner = account(OURS);
    let principal = foreign_alice(&[ALLOW_ALL]);
    let values = Values::of(&principal);
    let steps_of = |policy: &Document, resource: &str| {
        let question = Question {
            principal: &principal,
            canonical_id: None,
            action: "s3:GetObject",
            resource,
            values: &values,
            side: bucket(&owner, Some(policy)),
        };
        let steps = Steps::default();
        let _decision = decide_in(&steps, &question);
        let decision = decide(&question, &RequestSteps::default());
        (decision, STEPS_MAX - steps.left())
    };
    let undecided = Decision::Denied(Denial::Undecided);
    // Every place of the text is tried against half of its length: the product, again for each pattern.
    let halves = format!("*{}b*", "a".repeat(500));
    for effect in ["Allow", "Deny"] {
        let policy = long_policy(effect, &halves);
        let (decision, steps) = steps_of(&policy, &object);
        assert_eq!(decision, undecided, "{effect}");
        assert_eq!(steps, STEPS_MAX, "{effect}");
        // An ordinary key is decided about by the same policy.
        let (decision, steps) = steps_of(&policy, OBJECT);
        assert_eq!(decision, ALLOWED, "{effect}");
        assert!(steps < 5_000, "{effect}: {steps}");
    }
    // However many stars: each pattern goes once through the text.
    for pattern in [format!("{}b*", "*a".repeat(500)), "*a*b*".to_owned()] {
        let policy = long_policy("Deny", &pattern);
        let (decision, steps) = steps_of(&policy, &object);
        let patterns = policy.text().matches(pattern.as_str()).count();
        let once = patterns * (object.len() + pattern.len() + 100);
        assert_eq!((decision, steps <= once), (ALLOWED, true), "{steps} {once}");
    }
}
