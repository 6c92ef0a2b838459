//! What is recorded of calls of IAM and STS, and what becomes of them without a record.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{ALLOW_ALL, HOME, Iam, Rig, Service, accounts, kms, root, tag};
use crate::audit::query::{Filter, query};
use crate::audit::{Audit, AuditSettings, Durability, OnFailure, ServerId, room_of_tests};
use crate::auth::Principal;
use crate::meta::PanickingMeta;

impl Rig {
    fn audit_dir(&self) -> PathBuf {
        self.directory.path().join("audit")
    }

    fn audited() -> Self {
        Self::new().with_audit()
    }

    fn with_audit(self) -> Self {
        let mut rig = self;
        let settings = AuditSettings {
            dir: rig.audit_dir(),
            durability: Durability::Interval(Duration::from_millis(10)),
            on_failure: OnFailure::Refuse,
            file_bytes_max: 1 << 20,
            checkpoint_records: 1000,
            checkpoint_interval: Duration::from_mins(1),
        };
        let clock = Arc::new(rig.clock.clone());
        let audit = Audit::open(ServerId::random(), None, settings, clock).expect("an audit");
        let kms = kms(&rig.meta, &rig.hsm, &rig.clock).with_audit(Arc::new(audit));
        rig.iam = Iam::new(Arc::new(kms), Arc::new(rig.clock.clone()), accounts());
        rig
    }

    fn events(&self) -> Vec<Value> {
        let mut events = Vec::new();
        query(&self.audit_dir(), &Filter::default(), |_, event| {
            events.push(event.clone());
            Ok(true)
        })
        .expect("readable");
        events
    }

    fn last_event(&self) -> Value {
        self.events().pop().expect("an event")
    }

    fn audit_text(&self) -> String {
        let files = std::fs::read_dir(self.audit_dir()).expect("a directory");
        files
            .map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("UTF-8"))
            .collect()
    }
}

#[tokio::test]
async fn calls_are_recorded_with_what_they_made_and_without_secrets() {
    let rig = Rig::audited();
    rig.ok("Action=CreateUser&UserName=bob&Path=/ops/").await;
    let event = rig.last_event();
    assert_eq!(event["eventSource"], "iam.amazonaws.com");
    assert_eq!(event["eventName"], "CreateUser");
    assert_eq!(
        event["requestParameters"],
        json!({ "userName": "bob", "path": "/ops/" })
    );
    let user = &event["responseElements"]["user"];
    assert_eq!(
        user["arn"],
        format!("arn:aws:iam::{HOME}:user/ops/bob").as_str()
    );
    assert_eq!(
        event["userIdentity"]["arn"],
        format!("arn:aws:iam::{HOME}:root").as_str()
    );
    assert_eq!(event["readOnly"], false);

    let body = rig.ok("Action=CreateAccessKey&UserName=bob").await;
    let (id, secret) = (tag(&body, "AccessKeyId"), tag(&body, "SecretAccessKey"));
    let made = &rig.last_event()["responseElements"]["accessKey"];
    assert_eq!(made["accessKeyId"], id.as_str());
    assert_eq!(made["secretAccessKey"], Value::Null);
    assert!(!rig.audit_text().contains(&secret));

    rig.ok("Action=ListUsers&MaxItems=5").await;
    let event = rig.last_event();
    assert_eq!(event["requestParameters"], json!({ "maxItems": 5 }));
    assert_eq!(
        (&event["readOnly"], &event["responseElements"]),
        (&json!(true), &Value::Null)
    );

    rig.fails("Action=DeleteUser&UserName=nobody").await;
    let event = rig.last_event();
    assert_eq!(event["errorCode"], "NoSuchEntityException");
    assert_eq!(event["responseElements"], Value::Null);

    let bob = rig.principal(&id).await;
    let denied = rig
        .ask_as(
            bob,
            Service::Iam,
            "Action=AttachUserPolicy&UserName=bob&PolicyArn=arn:aws:iam::aws:policy/AdministratorAccess",
        )
        .await;
    assert_eq!(denied.0, 403);
    let event = rig.last_event();
    assert_eq!(event["errorCode"], "AccessDenied");
    assert_eq!(event["userIdentity"]["userName"], "bob");
    assert!(
        event["errorMessage"]
            .as_str()
            .is_some_and(|text| text.contains("iam:AttachUserPolicy"))
    );

    rig.fails("Action=NoSuchThing").await;
    assert_eq!(rig.last_event()["errorCode"], "InvalidAction");
}

#[tokio::test]
async fn a_session_can_be_joined_to_who_assumed_the_role() {
    let rig = Rig::audited();
    let id = rig.user("bob").await;
    rig.ok(&format!(
        "Action=PutUserPolicy&UserName=bob&PolicyName=all&PolicyDocument={ALLOW_ALL}"
    ))
    .await;
    let trust = format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"arn:aws:iam::{HOME}:user/bob"}},"Action":"sts:AssumeRole"}}]}}"#
    );
    rig.ok(&format!(
        "Action=CreateRole&RoleName=writer&AssumeRolePolicyDocument={trust}"
    ))
    .await;
    let role = format!("arn:aws:iam::{HOME}:role/writer");
    let ask = format!("Action=AssumeRole&RoleSessionName=night&RoleArn={role}");
    let bob: Principal = rig.principal(&id).await;
    let (status, body) = rig.ask_as(bob, Service::Sts, &ask).await;
    assert_eq!(status, 200, "{body}");
    let (session_key, token, secret) = (
        tag(&body, "AccessKeyId"),
        tag(&body, "SessionToken"),
        tag(&body, "SecretAccessKey"),
    );
    let assumed = rig.last_event();
    assert_eq!(assumed["eventSource"], "sts.amazonaws.com");
    assert_eq!(assumed["userIdentity"]["accessKeyId"], id.as_str());
    assert_eq!(
        assumed["responseElements"]["credentials"]["accessKeyId"],
        session_key.as_str()
    );
    assert_eq!(
        assumed["responseElements"]["assumedRoleUser"]["arn"],
        format!("arn:aws:sts::{HOME}:assumed-role/writer/night").as_str()
    );
    assert_eq!(
        assumed["resources"],
        json!([{ "accountId": HOME, "type": "AWS::IAM::Role", "ARN": role }])
    );
    for secret in [token.as_str(), &secret] {
        assert!(!rig.audit_text().contains(secret));
    }

    let holder = rig.iam.lookup(&session_key, Some(&token)).await;
    let session = holder.expect("known").principal;
    rig.ask_as(session, Service::Sts, "Action=GetCallerIdentity")
        .await;
    let event = rig.last_event();
    let who = &event["userIdentity"];
    assert_eq!(who["type"], "AssumedRole");
    assert_eq!(who["accessKeyId"], session_key.as_str());
    assert_eq!(who["sessionContext"]["sessionIssuer"]["arn"], role.as_str());
    // Whoever looks for the session's key finds the call that made it, too.
    let mut names = Vec::new();
    let filter = Filter {
        principal: Some(session_key),
        ..Filter::default()
    };
    query(&rig.audit_dir(), &filter, |_, event| {
        names.push(event["eventName"].clone());
        Ok(true)
    })
    .expect("readable");
    assert_eq!(names, ["AssumeRole", "GetCallerIdentity"]);
}

#[tokio::test]
async fn without_a_record_nothing_is_changed() {
    let rig = Rig::audited();
    rig.ok("Action=CreateUser&UserName=bob").await;
    let before = rig.rows().await;
    let room = room_of_tests(&rig.audit_dir());
    *room.lock().expect("no panic") = Some(0);
    // The first finds out that nothing can be written; from then on nothing is begun.
    rig.fails("Action=ListUsers").await;
    let (code, message) = rig.fails("Action=CreateUser&UserName=ann").await;
    assert_eq!(code, "ServiceFailure");
    assert_eq!(
        message,
        "The audit record of this request cannot be written. Please try again."
    );
    assert_eq!(rig.rows().await, before);
    *room.lock().expect("no panic") = None;
}

#[tokio::test]
async fn no_caller_makes_the_audit_unreadable_or_says_what_a_call_was_about() {
    let rig = Rig::audited();
    rig.ok("Action=ListUsers&RoleArn=arn:aws:iam::210987654321:role/other")
        .await;
    assert_eq!(rig.last_event()["resources"], Value::Null);
    let long = "%01".repeat(1_000_000);
    // Not by what prints the form when it fails.
    let ask = async |form: String| rig.ask_as(root(), Service::Iam, &form).await.0;
    let form = format!("Action=ListUsers&RoleArn={long}");
    assert_eq!(ask(form).await, 200);
    let event = rig.last_event();
    assert_eq!(event["eventName"], "ListUsers");
    assert_eq!(event["resources"], Value::Null);
    // Nor short of what it did, whatever else came with it.
    rig.ok("Action=CreateUser&UserName=bob").await;
    let long = "\u{1}".repeat(131_072);
    let arn = "arn:aws:iam::aws:policy/AdministratorAccess";
    let form = format!(
        "Action=AttachUserPolicy&UserName=bob&PolicyArn={arn}&Description={long}\
         &Policy={long}&PolicyDocument={long}&AssumeRolePolicyDocument={long}"
    );
    assert!(form.len() <= crate::iam::api::REQUEST_BYTES_MAX);
    assert_eq!(ask(form).await, 200);
    let request = &rig.last_event()["requestParameters"];
    assert_eq!(request["shortened"], true);
    assert_eq!(
        (&request["userName"], &request["policyArn"]),
        (&json!("bob"), &json!(arn))
    );
    let verified = crate::audit::verify::verify(&rig.audit_dir(), None, &[]).expect("readable");
    assert_eq!(verified.findings, []);
}

#[tokio::test]
async fn a_call_that_panics_is_recorded() {
    let mut rig = Rig::new();
    let panics = Arc::new(AtomicBool::new(false));
    rig.meta = Arc::new(PanickingMeta {
        inner: Arc::clone(&rig.meta),
        panics: Arc::clone(&panics),
    });
    let rig = rig.with_audit();
    rig.ok("Action=ListUsers").await;
    panics.store(true, Ordering::SeqCst);
    let (code, _) = rig.fails("Action=CreateUser&UserName=bob").await;
    assert_eq!(code, "ServiceFailure");
    let event = rig.last_event();
    assert_eq!(event["eventName"], "CreateUser");
    assert_eq!(event["errorCode"], "ServiceFailureException");
    assert_eq!(event["requestParameters"]["userName"], "bob");
}
