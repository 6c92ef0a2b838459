//! What is recorded, what is not, and what becomes of key use without a record.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use strongroom_hsm::testing::fault::{Fault, Op};

use super::{
    DAY, DECRYPT, GENERATE, Rig, account, api, context, import, materials, may, may_key, request,
    text,
};
use crate::audit::query::{Filter, query};
use crate::audit::verify::{Expected, verify};
use crate::audit::{Audit, AuditSettings, Checkpoint, Durability, OnFailure};
use crate::auth::policy::{Denial, PolicyKind, Side};
use crate::auth::{Action, Denied, Resource, authorise};
use crate::kms::{KeyRef, KmsError, audited_chain};
use crate::meta::PanickingMeta;

impl Rig {
    fn audit_dir(&self) -> PathBuf {
        self.directory.path().join("audit")
    }

    /// A rig with an audit.
    pub(super) async fn audited() -> Self {
        Self::new().with_audit().await
    }

    async fn with_audit(self) -> Self {
        let mut rig = self;
        let settings = AuditSettings {
            dir: rig.audit_dir(),
            durability: Durability::Interval(Duration::from_millis(10)),
            on_failure: OnFailure::Refuse,
            file_bytes_max: 1 << 20,
            checkpoint_records: 1000,
            checkpoint_interval: Duration::from_mins(1),
        };
        let (server, head) = audited_chain(rig.meta.as_ref()).await.expect("a chain");
        let clock = Arc::new(rig.clock.clone());
        let audit = Audit::open(server, head, settings, clock).expect("an audit");
        rig.kms = Arc::new(rig.another().with_audit(Arc::new(audit)));
        rig
    }

    pub(super) fn events(&self) -> Vec<Value> {
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

    /// From now on nothing can be written.
    fn fill_disk(&self) {
        let room = crate::audit::room_of_tests(&self.audit_dir());
        *room.lock().expect("no panic") = Some(0);
    }

    /// There is room again, and the audit has found out.
    async fn free_disk(&self) {
        let room = crate::audit::room_of_tests(&self.audit_dir());
        *room.lock().expect("no panic") = None;
        for _ in 0..100 {
            if self.kms.check_audit().is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the audit does not heal");
    }

    fn audit_text(&self) -> String {
        let files = std::fs::read_dir(self.audit_dir()).expect("a directory");
        files
            .map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("UTF-8"))
            .collect()
    }
}

#[tokio::test]
async fn key_use_by_s3_is_recorded_with_the_request_that_caused_it() {
    let rig = Rig::audited().await;
    let key = rig.key().await;
    let mut request = request();
    request.source_ip = Some([192, 0, 2, 1].into());
    request.user_agent = Some("agent/1".to_owned());
    let object = Resource::Object("vault".to_owned(), "a/b".to_owned());
    request.operation.name(Action("s3:PutObject"), &object);
    let on_key = Resource::KmsKey(key.to_string());
    let proof = authorise(&request, Action(GENERATE), on_key, Side::None, |_values| ());
    let proof = proof.expect("root may");
    let context = context(&[("aws:s3:arn", "arn:aws:s3:::vault/a/b")]);
    let (_, encrypted) = rig
        .kms
        .generate_data_key(&proof, &key, &context)
        .await
        .expect("a data key");
    let event = rig.last_event();
    assert_eq!(event["eventName"], "GenerateDataKey");
    assert_eq!(event["eventSource"], "kms.amazonaws.com");
    assert_eq!(
        event["userIdentity"]["arn"],
        "arn:aws:iam::123456789012:root"
    );
    assert_eq!(event["userIdentity"]["invokedBy"], "AWS Internal");
    assert_eq!(event["sourceIPAddress"], "AWS Internal");
    let parameters = json!({
        "keyId": key.as_str(),
        "keySpec": "AES_256",
        "encryptionContext": { "aws:s3:arn": "arn:aws:s3:::vault/a/b" },
    });
    assert_eq!(event["requestParameters"], parameters);
    assert_eq!(event["resources"][0]["ARN"], key.as_str());
    assert_eq!(
        text(&event["additionalEventData"]["keyMaterialId"]).len(),
        64
    );
    let cause = json!({
        "action": "s3:PutObject",
        "resource": "arn:aws:s3:::vault/a/b",
        "requestId": "request-1",
        "sourceIPAddress": "192.0.2.1",
        "userAgent": "agent/1",
    });
    assert_eq!(event["s3Request"], cause);
    assert_eq!(
        (&event["readOnly"], &event["errorCode"]),
        (&json!(true), &Value::Null)
    );

    let on_key = Resource::KmsKey(key.to_string());
    let proof = authorise(&request, Action(DECRYPT), on_key, Side::None, |_values| ());
    let proof = proof.expect("root may");
    let other = super::context(&[("aws:s3:arn", "other")]);
    let failed = rig.kms.unwrap_data_key(&proof, &encrypted, &other).await;
    assert!(matches!(failed, Err(KmsError::InvalidCiphertext)));
    let event = rig.last_event();
    assert_eq!(
        (text(&event["eventName"]), text(&event["errorCode"])),
        (
            "Decrypt".to_owned(),
            "InvalidCiphertextException".to_owned()
        )
    );
    assert_eq!(event["additionalEventData"], Value::Null);
}

#[tokio::test]
async fn a_denial_on_the_object_path_is_recorded() {
    let rig = Rig::audited().await;
    let key = rig.key().await;
    let denied = Denied {
        principal: "arn:aws:iam::123456789012:user/ann".to_owned(),
        action: DECRYPT,
        resource: key.to_string(),
        denial: Denial::Implicit {
            lacking: PolicyKind::Identity,
        },
        own: true,
    };
    rig.kms
        .record_denied(&request(), &denied, &key, &context(&[]))
        .await
        .expect("recorded");
    let event = rig.last_event();
    let told = (text(&event["eventName"]), text(&event["errorCode"]));
    assert_eq!(told, ("Decrypt".to_owned(), "AccessDenied".to_owned()));
    assert!(text(&event["errorMessage"]).contains("kms:Decrypt"));
    assert_eq!(event["resources"][0]["ARN"], key.as_str());
}

#[tokio::test]
async fn calls_of_the_api_are_recorded_with_what_they_changed() {
    let rig = Rig::audited().await;
    let made = rig.api_ok("CreateKey", json!({ "Description": "d" })).await;
    let arn = text(&made["KeyMetadata"]["Arn"]);
    let event = rig.last_event();
    assert_eq!(event["eventName"], "CreateKey");
    assert_eq!(event["requestParameters"], json!({ "description": "d" }));
    assert_eq!(
        event["responseElements"]["keyMetadata"]["arn"],
        arn.as_str()
    );
    assert_eq!(event["resources"][0]["ARN"], arn.as_str());
    assert_eq!(event["readOnly"], false);

    rig.api_ok("DescribeKey", json!({ "KeyId": arn })).await;
    let event = rig.last_event();
    assert_eq!(
        (&event["readOnly"], &event["responseElements"]),
        (&json!(true), &Value::Null)
    );

    rig.api_error("DescribeKey", json!({ "KeyId": "nonsense" }))
        .await;
    let event = rig.last_event();
    assert_eq!(event["errorCode"], "NotFoundException");
    assert_eq!(event["errorMessage"], "Invalid keyId 'nonsense'");
    assert_eq!(event["resources"], Value::Null);

    rig.api_error("NoSuchThing", json!({})).await;
    assert_eq!(rig.last_event()["errorCode"], "UnknownOperationException");

    rig.api_ok("RotateKeyOnDemand", json!({ "KeyId": arn }))
        .await;
    let names: Vec<_> = rig
        .events()
        .iter()
        .rev()
        .take(2)
        .map(|event| text(&event["eventType"]))
        .collect();
    assert_eq!(names, ["AwsApiCall", "AwsServiceEvent"]);
}

#[tokio::test]
async fn no_plaintext_and_no_ciphertext_is_in_a_record() {
    let rig = Rig::audited().await;
    let key = rig.key().await.to_string();
    let plaintext = "dGhlIHBsYWludGV4dCBvZiBhIGNhbGxlcg==";
    let encrypted = rig
        .api_ok("Encrypt", json!({ "KeyId": key, "Plaintext": plaintext, "EncryptionContext": { "Case": "Kept" } }))
        .await;
    let ciphertext = text(&encrypted["CiphertextBlob"]);
    let event = rig.last_event();
    assert_eq!(
        event["requestParameters"]["encryptionContext"],
        json!({ "Case": "Kept" })
    );
    assert_eq!(
        text(&event["additionalEventData"]["keyMaterialId"]).len(),
        64
    );
    let input = json!({ "CiphertextBlob": ciphertext, "EncryptionContext": { "Case": "Kept" } });
    rig.api_ok("Decrypt", input).await;
    let made = rig
        .api_ok(
            "GenerateDataKey",
            json!({ "KeyId": key, "KeySpec": "AES_256" }),
        )
        .await;
    let re = json!({ "CiphertextBlob": ciphertext, "SourceEncryptionContext": { "Case": "Kept" }, "DestinationKeyId": key });
    rig.api_ok("ReEncrypt", re).await;
    let event = rig.last_event();
    assert_eq!(
        text(&event["additionalEventData"]["sourceKeyMaterialId"]).len(),
        64
    );
    let all = rig.audit_text();
    for secret in [
        plaintext,
        &ciphertext,
        &text(&made["Plaintext"]),
        &text(&made["CiphertextBlob"]),
    ] {
        assert!(!all.contains(secret), "{secret}");
    }
    assert_eq!(rig.events().len(), 4);
}

#[tokio::test]
async fn without_a_record_no_key_is_used_and_nothing_is_changed() {
    let rig = Rig::audited().await;
    let key = rig.key().await;
    let made = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &key), &key, &context(&[]))
        .await;
    let (_, encrypted) = made.expect("a data key");
    rig.fill_disk();
    let refused = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &key), &key, &context(&[]))
        .await;
    assert!(matches!(refused, Err(KmsError::Audit(_))), "{refused:?}");
    // Nor is what a key has wrapped used from memory.
    let asked = rig
        .kms
        .check_generates(&may_key(GENERATE, &key), &key)
        .await;
    assert!(matches!(asked, Err(KmsError::Audit(_))), "{asked:?}");
    let asked = rig
        .kms
        .check_decrypts(&may_key(DECRYPT, &key), &encrypted)
        .await;
    assert!(matches!(asked, Err(KmsError::Audit(_))), "{asked:?}");
    let before = rig.token_keys().await;
    let (code, message) = rig.api_error("CreateKey", json!({})).await;
    assert_eq!(code, "KMSInternalException");
    assert_eq!(
        message,
        "The audit record of this request cannot be written. Please try again."
    );
    assert_eq!(
        rig.token_keys().await,
        before,
        "it is refused before anything is done"
    );
    rig.free_disk().await;
    rig.api_ok("CreateKey", json!({})).await;
    let verified = verify(&rig.audit_dir(), None, &[]).expect("readable");
    assert_eq!((verified.findings_in_all, verified.gaps.len()), (0, 1));
}

#[tokio::test]
async fn what_cannot_be_undone_is_recorded_before_it_is_done() {
    let rig = Rig::audited().await;
    let (dying, turning) = (rig.key().await, rig.key().await);
    rig.kms
        .enable_key_rotation(&may_key("kms:EnableKeyRotation", &turning), &turning, 90)
        .await
        .expect("enabled");
    rig.kms
        .schedule_key_deletion(&may_key("kms:ScheduleKeyDeletion", &dying), &dying, 7)
        .await
        .expect("scheduled");
    let before = rig.token_keys().await;
    rig.clock.shift_to(91 * DAY);
    rig.fill_disk();
    let _logged = rig.kms.rotate_due_keys().await;
    let _logged = rig.kms.destroy_due_keys().await;
    assert_eq!(rig.token_keys().await, before, "nothing without a record");
    rig.free_disk().await;
    // And with one, the process may die right after it.
    rig.faults.always(Op::Destroy, Fault::Fail);
    let _outage = rig.kms.destroy_due_keys().await;
    assert_eq!(rig.token_keys().await, before);
    let event = rig.last_event();
    assert_eq!(event["eventName"], "DeleteKey");
    assert_eq!(event["resources"][0]["ARN"], dying.as_str());
    rig.faults.heal();
    assert_eq!(rig.kms.destroy_due_keys().await.expect("gone"), 1);
    assert_eq!(rig.kms.rotate_due_keys().await.expect("rotated"), 1);
    assert_eq!(rig.last_event()["eventName"], "RotateKey");
}

#[tokio::test]
async fn the_service_makes_rotates_and_destroys_nothing_without_a_record() {
    let rig = Rig::audited().await;
    let before = rig.token_keys().await;
    rig.fill_disk();
    // Once when it finds out, and once when it knows.
    for _ in 0..2 {
        let made = rig.kms.resolve_default_s3_key(&account()).await;
        assert!(matches!(made, Err(KmsError::Audit(_))), "{made:?}");
    }
    rig.free_disk().await;
    // The key of the records' MAC is there by now.
    assert!(rig.token_keys().await <= before + 1);
    let made = rig.kms.resolve_default_s3_key(&account()).await;
    let event = rig.last_event();
    assert_eq!(event["eventName"], "CreateKey");
    assert_eq!(event["resources"][0]["ARN"], made.expect("made").as_str());

    let key = import::imported(&rig).await;
    let current = import::describe(&rig, &key).await["CurrentKeyMaterialId"].clone();
    materials::taken(&rig, &key, 6, materials::new()).await;
    let named = KeyRef::parse(&text(&key["Arn"])).expect("an ARN");
    let arn = rig.kms.resolve(&account(), &named).await.expect("there");
    let proof = may_key("kms:RotateKeyOnDemand", &arn);
    rig.fill_disk();
    let rotated = rig.kms.rotate_key_on_demand(&proof, &arn).await;
    assert!(matches!(rotated, Err(KmsError::Audit(_))), "{rotated:?}");
    rig.free_disk().await;
    let described = import::describe(&rig, &key).await;
    assert_eq!(described["CurrentKeyMaterialId"], current);

    // What has expired, and what an import left.
    let expiring = import::create(&rig).await;
    let now = rig.kms.now().millis() / 1000;
    let until = json!({ "ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": now + 2 * DAY });
    materials::taken(&rig, &expiring, 5, until).await;
    let left = import::create(&rig).await;
    rig.faults.once(Op::MakeCanary, 1, Fault::Fail);
    assert_ne!(materials::take(&rig, &left, 5, json!({})).await.0, 200);
    rig.clock.shift_to(3 * DAY);
    rig.kms
        .end_pairs()
        .await
        .expect("nothing else that is left");
    let before = rig.token_keys().await;
    rig.fill_disk();
    let _logged = rig.kms.destroy_due_keys().await;
    rig.kms.recover().await.expect("it is postponed");
    assert_eq!(rig.token_keys().await, before);
    rig.free_disk().await;
    rig.kms.destroy_due_keys().await.expect("tends");
    assert_eq!(rig.token_keys().await, before - 2);
}

#[tokio::test]
async fn a_denial_for_an_alias_that_leads_nowhere_is_recorded() {
    let rig = Rig::audited().await;
    let alias = "arn:aws:kms:us-west-2:210987654321:alias/none";
    let denied = Denied {
        principal: "arn:aws:iam::123456789012:user/ann".to_owned(),
        action: GENERATE,
        resource: alias.to_owned(),
        denial: Denial::Implicit {
            lacking: PolicyKind::Resource,
        },
        own: false,
    };
    rig.kms
        .record_denied_alias(&request(), &denied, &context(&[]))
        .await
        .expect("recorded");
    let event = rig.last_event();
    assert_eq!(event["errorCode"], "AccessDenied");
    assert_eq!(event["resources"][0]["ARN"], alias);
    assert_eq!(event["recipientAccountId"], "210987654321");
}

#[tokio::test]
async fn checkpoints_are_proven_by_the_hsm_and_known_to_the_records() {
    let rig = Rig::audited().await;
    rig.key().await;
    rig.api_ok("ListKeys", json!({})).await;
    rig.kms.checkpoint_audit().await.expect("a checkpoint");
    rig.kms.checkpoint_audit().await.expect("nothing to do");
    let verified = verify(&rig.audit_dir(), None, &[]).expect("readable");
    let [placed] = &verified.checkpoints[..] else {
        panic!("{:?}", verified.checkpoints);
    };
    let good = placed.checkpoint.clone();
    let mut other = good.clone();
    other.head.hash[0] ^= 1;
    let mut elsewhere = good.clone();
    elsewhere.server = crate::audit::ServerId::random();
    let garbled = Checkpoint {
        proof: vec![1; 40],
        ..good.clone()
    };
    let proof = may("strongroom:VerifyAuditCheckpoints", Resource::Service);
    let asked = [good.clone(), other, elsewhere, garbled];
    let (genuine, known) = rig
        .kms
        .verify_audit_checkpoints(&proof, &asked)
        .await
        .expect("the HSM is there");
    assert_eq!(genuine, [true, false, false, false]);
    let known = known.expect("a head");
    assert_eq!((known.head, known.is_genuine), (good.head, true));
    let (server, head) = audited_chain(rig.meta.as_ref()).await.expect("a chain");
    assert_eq!((server, head), (good.server, Some(good.head)));
    let expected = [Expected::Head(known.head)];
    let verified = verify(&rig.audit_dir(), None, &expected).expect("readable");
    assert_eq!(verified.findings, []);
}

#[tokio::test]
async fn records_go_on_without_the_hsm_and_are_attested_when_it_is_back() {
    let rig = Rig::audited().await;
    rig.key().await;
    rig.kms.checkpoint_audit().await.expect("a checkpoint");
    rig.faults.always(Op::Wrap, Fault::Fail);
    rig.api_ok("ListKeys", json!({})).await;
    rig.kms
        .checkpoint_audit()
        .await
        .expect_err("the HSM is away");
    rig.api_ok("ListKeys", json!({})).await;
    assert_eq!(rig.kms.audit_stats().expect("an audit").unattested, 2);
    rig.faults.heal();
    rig.kms.checkpoint_audit().await.expect("it is back");
    assert_eq!(rig.kms.audit_stats().expect("an audit").unattested, 0);
    let verified = verify(&rig.audit_dir(), None, &[]).expect("readable");
    assert_eq!(
        (verified.findings_in_all, verified.checkpoints.len()),
        (0, 2)
    );
}

#[tokio::test]
async fn the_inventory_has_every_key_page_by_page() {
    let rig = Rig::audited().await;
    for _ in 0..3 {
        rig.key().await;
    }
    rig.kms
        .checkpoint_audit()
        .await
        .expect("makes the audit key");
    let proof = may("strongroom:KeyInventory", Resource::Service);
    let first = rig
        .kms
        .key_inventory(&proof, 2, None)
        .await
        .expect("a page");
    assert_eq!(first.items.len(), 2);
    let rest = rig
        .kms
        .key_inventory(&proof, 2, first.next)
        .await
        .expect("a page");
    assert_eq!(rest.next, None);
    let names: Vec<_> = rest.items.iter().map(|entry| entry.name.clone()).collect();
    assert_eq!(names[1..], ["internal/audit", "internal/metadata-mac"]);
    for entry in first.items.iter().chain(&rest.items) {
        let [version] = &entry.versions[..] else {
            panic!("{entry:?}");
        };
        assert_eq!((version.opens.clone(), version.is_current), (Ok(()), true));
        assert_eq!((version.scheme, &*version.group), ("aes-gcm", "default"));
    }
    let wrong = may("kms:ListKeys", Resource::Service);
    rig.kms
        .key_inventory(&wrong, 2, None)
        .await
        .expect_err("another proof");
}

#[tokio::test]
async fn what_does_not_read_as_its_record_is_not_done() {
    let rig = Rig::audited().await;
    let key = rig.key().await;
    let grantee = "arn:aws:iam::123456789012:root";
    // A list reads into a structure by position.
    let by_position = json!([
        key.as_str(),
        grantee,
        null,
        ["Decrypt"],
        null,
        null,
        null,
        null,
        null,
        null
    ]);
    let with = |more: &str| {
        format!(
            r#"{{"KeyId":"{key}","GranteePrincipal":"{grantee}","Operations":["Decrypt"],{more}}}"#
        )
    };
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let mut bodies = vec![
        by_position.to_string(),
        " [] ".to_owned(),
        "null".to_owned(),
    ];
    bodies.extend(
        [
            r#""Limit":1e999"#,
            r#""Policy":"\ud800""#,
            &format!(r#""Tags":{deep}"#),
        ]
        .map(with),
    );
    bodies.push(with(r#""Limit":1"#) + "{}");
    for target in ["TrentService.CreateGrant", "Strongroom.ListRewraps"] {
        for body in &bodies {
            let answer = api::handle(&rig.kms, &request(), target, body.as_bytes()).await;
            assert_eq!(answer.status(), 400, "{target} {body}");
            let told = String::from_utf8_lossy(answer.body());
            assert!(told.contains("SerializationException"), "{told}");
            let event = rig.last_event();
            assert_eq!(event["errorCode"], "SerializationException");
            assert_eq!(event["requestParameters"], Value::Null);
        }
    }
    let grants = rig
        .api_ok("ListGrants", json!({ "KeyId": key.as_str() }))
        .await;
    assert_eq!(grants["Grants"], json!([]));
    // What no record takes anything of may be anything.
    let lenient = with(r#""Nobodys":1e999"#);
    let (caller, target) = (request(), "TrentService.CreateGrant");
    let answer = api::handle(&rig.kms, &caller, target, lenient.as_bytes()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        rig.last_event()["requestParameters"]["granteePrincipal"],
        grantee
    );
}

#[tokio::test]
async fn a_call_that_panics_is_recorded() {
    let mut rig = Rig::new();
    let panics = Arc::new(AtomicBool::new(false));
    rig.meta = Arc::new(PanickingMeta {
        inner: Arc::clone(&rig.meta),
        panics: Arc::clone(&panics),
    });
    let rig = rig.with_audit().await;
    let key = rig.key().await;
    panics.store(true, Ordering::SeqCst);
    let alias = json!({ "AliasName": "alias/a", "TargetKeyId": key.as_str() });
    let (code, message) = rig.api_error("CreateAlias", alias).await;
    assert_eq!(code, "KMSInternalException");
    assert!(!message.contains("told to"), "{message}");
    let event = rig.last_event();
    assert_eq!(event["eventName"], "CreateAlias");
    assert_eq!(event["errorCode"], "KMSInternalException");
    assert_eq!(event["requestParameters"]["aliasName"], "alias/a");
}

#[tokio::test]
async fn a_use_that_nobody_waits_for_is_recorded() {
    let rig = Rig::audited().await;
    let key = rig.key().await;
    let (context, soon) = (context(&[("a", "b")]), Duration::from_millis(100));
    let generate = may_key(GENERATE, &key);
    let made = rig.kms.generate_data_key(&generate, &key, &context).await;
    let (_, encrypted) = made.expect("a data key");
    rig.faults.always(Op::Wrap, Fault::Hang(10 * soon));
    rig.faults.always(Op::Unwrap, Fault::Hang(10 * soon));
    let making = rig.kms.generate_data_key(&generate, &key, &context);
    tokio::time::timeout(soon, making)
        .await
        .expect_err("it hangs");
    let decrypt = may_key(DECRYPT, &key);
    let opening = rig.kms.unwrap_data_key(&decrypt, &encrypted, &context);
    tokio::time::timeout(soon, opening)
        .await
        .expect_err("it hangs");
    rig.api_ok("ListKeys", json!({})).await;
    let events = rig.events();
    let [made, opened, _listed] = &events[events.len() - 3..] else {
        panic!("{events:?}");
    };
    for (event, name) in [(made, "GenerateDataKey"), (opened, "Decrypt")] {
        assert_eq!(event["eventName"], name);
        assert_eq!(event["errorCode"], "Abandoned");
        assert_eq!(event["requestID"], "request-1");
        assert_eq!(event["requestParameters"]["keyId"], key.as_str());
        assert_eq!(
            event["requestParameters"]["encryptionContext"],
            json!({ "a": "b" })
        );
    }
}
