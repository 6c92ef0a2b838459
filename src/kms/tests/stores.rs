//! Custom key stores: two token groups beside the default one.

use std::collections::BTreeMap;

use serde_json::json;
use strongroom_hsm::testing::memory::MemoryToken;
use strongroom_hsm::{GroupSettings, HsmGroup, HsmHandle, HsmSettings};

use super::*;
use crate::kms::{TokenGroups, cluster_id_of};

/// A control plane with groups `a` and `b`, each of one token in memory.
struct Stores {
    kms: Arc<Kms>,
    rig: Rig,
    a: MemoryToken,
    b: MemoryToken,
    a_hsm: HsmHandle,
    b_hsm: HsmHandle,
}

fn start(token: &MemoryToken) -> HsmHandle {
    let settings = HsmSettings {
        workers: 1,
        ..HsmSettings::default()
    };
    HsmHandle::start(Arc::new(token.clone()), settings).expect("workers")
}

impl Stores {
    fn new() -> Self {
        let rig = Rig::new();
        let (a, b) = (MemoryToken::new(), MemoryToken::new());
        let (a_hsm, b_hsm) = (start(&a), start(&b));
        let named = [
            ("a".to_owned(), a_hsm.clone().into()),
            ("b".to_owned(), b_hsm.clone().into()),
        ];
        let groups = TokenGroups::new(rig.hsm.clone().into(), BTreeMap::from(named));
        let kms = Kms::new(
            Arc::clone(&rig.meta),
            groups,
            Arc::new(rig.clock.clone()),
            rig.settings.clone(),
        );
        Self {
            kms: Arc::new(kms),
            rig,
            a,
            b,
            a_hsm,
            b_hsm,
        }
    }

    async fn ask(&self, operation: &str, body: Value) -> Result<Value, Value> {
        let target = if operation.contains('.') {
            operation.to_owned()
        } else {
            format!("TrentService.{operation}")
        };
        let body = body.to_string();
        let response = api::handle(&self.kms, &request(), &target, body.as_bytes()).await;
        let ok = response.status().is_success();
        let value = if response.body().is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(response.body()).expect("JSON")
        };
        if ok { Ok(value) } else { Err(value) }
    }

    async fn store(&self, name: &str, group: &str) -> String {
        let made = self
            .ask(
                "CreateCustomKeyStore",
                json!({ "CustomKeyStoreName": name, "CloudHsmClusterId": cluster_id_of(group) }),
            )
            .await
            .expect("made");
        let id = text(&made, "/CustomKeyStoreId");
        self.ask("ConnectCustomKeyStore", json!({ "CustomKeyStoreId": id }))
            .await
            .expect("connected");
        id
    }

    async fn key_in(&self, store: &str) -> Value {
        let made = self
            .ask(
                "CreateKey",
                json!({ "CustomKeyStoreId": store, "Origin": "AWS_CLOUDHSM" }),
            )
            .await
            .expect("made");
        made.pointer("/KeyMetadata").expect("metadata").clone()
    }

    async fn encrypt(&self, key: &str) -> Result<Value, Value> {
        self.ask("Encrypt", json!({ "KeyId": key, "Plaintext": "c2VjcmV0" }))
            .await
    }

    async fn decrypts(&self, encrypted: &Value) {
        let blob = text(encrypted, "/CiphertextBlob");
        let answer = self
            .ask("Decrypt", json!({ "CiphertextBlob": blob }))
            .await
            .expect("decrypts");
        assert_eq!(text(&answer, "/Plaintext"), "c2VjcmV0");
    }
}

fn text(value: &Value, at: &str) -> String {
    value
        .pointer(at)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{at} in {value}"))
        .to_owned()
}

fn code(error: &Value) -> String {
    text(error, "/__type")
}

async fn keys_on(hsm: &HsmHandle) -> usize {
    hsm.list_keys().await.expect("a list").len()
}

#[tokio::test]
async fn a_key_is_made_and_used_in_its_store_and_nowhere_else() {
    let s = Stores::new();
    let store = s.store("payroll", "a").await;
    let before = s.rig.token_keys().await;
    let key = s.key_in(&store).await;
    assert_eq!(text(&key, "/CustomKeyStoreId"), store);
    assert_eq!(text(&key, "/CloudHsmClusterId"), cluster_id_of("a"));
    assert_eq!(text(&key, "/Origin"), "AWS_CLOUDHSM");
    let id = text(&key, "/KeyId");
    let encrypted = s.encrypt(&id).await.expect("encrypts");
    s.decrypts(&encrypted).await;
    assert_eq!(keys_on(&s.a_hsm).await, 1);
    assert_eq!(keys_on(&s.b_hsm).await, 0);
    assert_eq!(s.rig.token_keys().await, before);
    s.ask("RotateKeyOnDemand", json!({ "KeyId": id }))
        .await
        .expect("rotates");
    assert_eq!(keys_on(&s.a_hsm).await, 2);
    s.decrypts(&encrypted).await;
}

#[tokio::test]
async fn an_outage_of_one_store_is_no_outage_of_another() {
    let s = Stores::new();
    let store = s.store("payroll", "a").await;
    let inside = text(&s.key_in(&store).await, "/KeyId");
    let outside = s.rig.key().await.to_string();
    s.a.set_present(false);
    let refused = s.encrypt(&inside).await.expect_err("its token is away");
    assert_eq!(code(&refused), "KeyUnavailableException");
    s.encrypt(&outside).await.expect("another token's");
    let described = s
        .ask("DescribeCustomKeyStores", json!({}))
        .await
        .expect("answers");
    assert_eq!(
        text(&described, "/CustomKeyStores/0/ConnectionState"),
        "FAILED"
    );
    s.a.set_present(true);
}

#[tokio::test]
async fn a_disconnected_store_makes_its_keys_unavailable_until_it_is_connected() {
    let s = Stores::new();
    let store = s.store("payroll", "a").await;
    let key = text(&s.key_in(&store).await, "/KeyId");
    let encrypted = s.encrypt(&key).await.expect("encrypts");
    let id = json!({ "CustomKeyStoreId": store });
    s.ask("DisconnectCustomKeyStore", id.clone())
        .await
        .expect("disconnects");
    let refused = s.encrypt(&key).await.expect_err("disconnected");
    assert_eq!(code(&refused), "KMSInvalidStateException");
    let described = s
        .ask("DescribeKey", json!({ "KeyId": key }))
        .await
        .expect("answers");
    assert_eq!(text(&described, "/KeyMetadata/KeyState"), "Unavailable");
    let refused = s
        .ask(
            "CreateKey",
            json!({ "CustomKeyStoreId": store, "Origin": "AWS_CLOUDHSM" }),
        )
        .await
        .expect_err("disconnected");
    assert_eq!(code(&refused), "CustomKeyStoreInvalidStateException");
    s.ask("ConnectCustomKeyStore", id).await.expect("connects");
    s.decrypts(&encrypted).await;
}

#[tokio::test]
async fn a_key_moves_under_its_arn_and_what_was_encrypted_before_decrypts() {
    let s = Stores::new();
    let (a, b) = (s.store("a", "a").await, s.store("b", "b").await);
    let made = s.key_in(&a).await;
    let (id, arn) = (text(&made, "/KeyId"), text(&made, "/Arn"));
    let in_a = s.encrypt(&id).await.expect("encrypts");
    s.ask(
        "Strongroom.MoveKey",
        json!({ "KeyId": id, "CustomKeyStoreId": b }),
    )
    .await
    .expect("moves");
    assert_eq!((keys_on(&s.a_hsm).await, keys_on(&s.b_hsm).await), (1, 1));
    let in_b = s.encrypt(&id).await.expect("encrypts");
    let described = s
        .ask("DescribeKey", json!({ "KeyId": id }))
        .await
        .expect("answers");
    assert_eq!(text(&described, "/KeyMetadata/CustomKeyStoreId"), b);
    assert_eq!(text(&described, "/KeyMetadata/Arn"), arn);
    s.ask("Strongroom.MoveKey", json!({ "KeyId": id }))
        .await
        .expect("moves to the default group");
    let described = s
        .ask("DescribeKey", json!({ "KeyId": id }))
        .await
        .expect("answers");
    assert_eq!(text(&described, "/KeyMetadata/Origin"), "AWS_KMS");
    for encrypted in [&in_a, &in_b, &s.encrypt(&id).await.expect("encrypts")] {
        s.decrypts(encrypted).await;
    }
    // What is encrypted in a store keeps the store from going.
    for store in [&a, &b] {
        s.ask(
            "DisconnectCustomKeyStore",
            json!({ "CustomKeyStoreId": store }),
        )
        .await
        .expect("disconnects");
        let refused = s
            .ask("DeleteCustomKeyStore", json!({ "CustomKeyStoreId": store }))
            .await
            .expect_err("holds an earlier version");
        assert_eq!(code(&refused), "CustomKeyStoreHasCMKsException");
    }
}

#[tokio::test]
async fn a_store_goes_when_its_last_key_is_destroyed() {
    let s = Stores::new();
    let store = s.store("payroll", "a").await;
    let key = text(&s.key_in(&store).await, "/KeyId");
    s.ask("RotateKeyOnDemand", json!({ "KeyId": key }))
        .await
        .expect("rotates");
    s.ask(
        "ScheduleKeyDeletion",
        json!({ "KeyId": key, "PendingWindowInDays": 7 }),
    )
    .await
    .expect("scheduled");
    s.rig.clock.shift_to(8 * DAY);
    assert_eq!(s.kms.destroy_due_keys().await.expect("destroys"), 1);
    assert_eq!(keys_on(&s.a_hsm).await, 0);
    let id = json!({ "CustomKeyStoreId": store });
    let refused = s
        .ask("DeleteCustomKeyStore", id.clone())
        .await
        .expect_err("it is connected");
    assert_eq!(code(&refused), "CustomKeyStoreInvalidStateException");
    s.ask("DisconnectCustomKeyStore", id.clone())
        .await
        .expect("disconnects");
    s.ask("DeleteCustomKeyStore", id.clone())
        .await
        .expect("deletes");
    let refused = s
        .ask("ConnectCustomKeyStore", id)
        .await
        .expect_err("it is gone");
    assert_eq!(code(&refused), "CustomKeyStoreNotFoundException");
}

#[tokio::test]
async fn names_and_groups_are_given_once_and_only_configured_groups() {
    let s = Stores::new();
    s.store("payroll", "a").await;
    let create = |name: &str, cluster: String| {
        s.ask(
            "CreateCustomKeyStore",
            json!({ "CustomKeyStoreName": name, "CloudHsmClusterId": cluster }),
        )
    };
    let refused = create("payroll", cluster_id_of("b"))
        .await
        .expect_err("name");
    assert_eq!(code(&refused), "CustomKeyStoreNameInUseException");
    let refused = create("other", cluster_id_of("a"))
        .await
        .expect_err("group");
    assert_eq!(code(&refused), "CloudHsmClusterInUseException");
    let refused = create("other", cluster_id_of("c")).await.expect_err("none");
    assert_eq!(code(&refused), "CloudHsmClusterNotFoundException");
    let refused = s
        .ask(
            "CreateCustomKeyStore",
            json!({ "CustomKeyStoreName": "other", "CloudHsmClusterId": cluster_id_of("b"),
                    "KeyStorePassword": "1234567" }),
        )
        .await
        .expect_err("a PIN never comes by the API");
    assert_eq!(code(&refused), "UnsupportedOperationException");
    assert!(!refused.to_string().contains("1234567"));
}

#[tokio::test]
async fn a_store_goes_to_another_group_only_if_that_holds_its_keys() {
    let s = Stores::new();
    let store = s.store("payroll", "a").await;
    let key = text(&s.key_in(&store).await, "/KeyId");
    let encrypted = s.encrypt(&key).await.expect("encrypts");
    s.ask(
        "DisconnectCustomKeyStore",
        json!({ "CustomKeyStoreId": store }),
    )
    .await
    .expect("disconnects");
    let update = json!({ "CustomKeyStoreId": store, "CloudHsmClusterId": cluster_id_of("b") });
    let refused = s
        .ask("UpdateCustomKeyStore", update.clone())
        .await
        .expect_err("b is empty");
    assert_eq!(code(&refused), "CloudHsmClusterNotRelatedException");

    // The token of group b is now the one of group a.
    let clone = s.a.clone();
    let named = [("b".to_owned(), HsmGroup::from(start(&clone)))];
    let groups = TokenGroups::new(s.rig.hsm.clone().into(), BTreeMap::from(named));
    let kms = Kms::new(
        Arc::clone(&s.rig.meta),
        groups,
        Arc::new(s.rig.clock.clone()),
        s.rig.settings.clone(),
    );
    let s = Stores {
        kms: Arc::new(kms),
        ..s
    };
    s.ask("UpdateCustomKeyStore", update).await.expect("moves");
    s.ask(
        "ConnectCustomKeyStore",
        json!({ "CustomKeyStoreId": store }),
    )
    .await
    .expect("connects");
    s.decrypts(&encrypted).await;
}

#[tokio::test]
async fn what_a_former_group_holds_is_destroyed_there_as_well() {
    let s = Stores::new();
    let store = s.store("payroll", "a").await;
    let key = text(&s.key_in(&store).await, "/KeyId");
    // The maker clones the key into group b, and a keeps it.
    s.a.clone_keys_into(&s.b);
    for (operation, body) in [
        (
            "DisconnectCustomKeyStore",
            json!({ "CustomKeyStoreId": store }),
        ),
        (
            "UpdateCustomKeyStore",
            json!({ "CustomKeyStoreId": store, "CloudHsmClusterId": cluster_id_of("b") }),
        ),
        (
            "ConnectCustomKeyStore",
            json!({ "CustomKeyStoreId": store }),
        ),
        (
            "ScheduleKeyDeletion",
            json!({ "KeyId": key, "PendingWindowInDays": 7 }),
        ),
    ] {
        s.ask(operation, body).await.expect(operation);
    }
    s.rig.clock.shift_to(8 * DAY);
    assert_eq!(s.kms.destroy_due_keys().await.expect("destroys"), 1);
    assert_eq!((keys_on(&s.a_hsm).await, keys_on(&s.b_hsm).await), (0, 0));
}

#[tokio::test]
async fn an_outage_of_one_store_keeps_no_key_of_another_from_its_end() {
    let s = Stores::new();
    let store = s.store("payroll", "a").await;
    let inside = text(&s.key_in(&store).await, "/KeyId");
    let outside = s.rig.key().await.key_id().to_string();
    for key in [inside, outside] {
        let body = json!({ "KeyId": key, "PendingWindowInDays": 7 });
        s.ask("ScheduleKeyDeletion", body).await.expect("scheduled");
    }
    s.a.set_present(false);
    s.rig.clock.shift_to(8 * DAY);
    let before = s.rig.token_keys().await;
    s.kms
        .destroy_due_keys()
        .await
        .expect_err("one token is away");
    assert_eq!(s.rig.token_keys().await, before - 1);
    s.a.set_present(true);
    let healed = async {
        while s.kms.destroy_due_keys().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), healed)
        .await
        .expect("it heals");
    assert_eq!(keys_on(&s.a_hsm).await, 0);
}

#[tokio::test]
async fn a_key_is_not_taken_for_destroyed_by_the_word_of_another_token() {
    let s = Stores::new();
    let store = s.store("payroll", "a").await;
    let key = text(&s.key_in(&store).await, "/KeyId");
    let body = json!({ "KeyId": key, "PendingWindowInDays": 7 });
    s.ask("ScheduleKeyDeletion", body).await.expect("scheduled");
    s.rig.clock.shift_to(8 * DAY);
    // Behind the same name in the configuration there is an empty token now.
    let other = MemoryToken::with_serial("another");
    let named = [("a".to_owned(), HsmGroup::from(start(&other)))];
    let groups = TokenGroups::new(s.rig.hsm.clone().into(), BTreeMap::from(named));
    let kms = Kms::new(
        Arc::clone(&s.rig.meta),
        groups,
        Arc::new(s.rig.clock.clone()),
        s.rig.settings.clone(),
    );
    kms.destroy_due_keys()
        .await
        .expect_err("its token is not there");
    assert_eq!(keys_on(&s.a_hsm).await, 1);
    assert_eq!(s.kms.destroy_due_keys().await.expect("it is"), 1);
    assert_eq!(keys_on(&s.a_hsm).await, 0);
}

#[tokio::test]
async fn a_key_store_and_its_origin_go_together() {
    let s = Stores::new();
    let store = s.store("payroll", "a").await;
    for body in [
        json!({ "CustomKeyStoreId": store }),
        json!({ "Origin": "AWS_CLOUDHSM" }),
        json!({ "CustomKeyStoreId": store, "Origin": "AWS_KMS" }),
    ] {
        let refused = s.ask("CreateKey", body).await.expect_err("half");
        assert_eq!(code(&refused), "ValidationException");
    }
}

#[test]
fn a_quorum_that_cannot_be_reached_is_refused() {
    let hsm = start(&MemoryToken::new());
    for quorum in [0, 2] {
        let settings = GroupSettings {
            quorum,
            clone_wait: Duration::ZERO,
        };
        assert!(HsmGroup::new(vec![hsm.clone()], settings).is_err());
    }
}

#[tokio::test]
async fn what_was_made_in_a_store_is_of_no_use_in_memory_once_that_is_disconnected() {
    let s = Stores::new();
    let store = s.store("payroll", "a").await;
    let key = text(&s.key_in(&store).await, "/KeyId");
    let key = crate::kms::KeyRef::parse(&key).expect("a key id");
    let key = s.kms.resolve(&account(), &key).await.expect("there");
    let (generate, decrypt) = (may_key(GENERATE, &key), may_key(DECRYPT, &key));
    let (_, encrypted) = s
        .kms
        .generate_data_key(&generate, &key, &context(&[]))
        .await
        .expect("made");
    let check = async || {
        let generates = s.kms.check_generates(&generate, &key).await;
        let decrypts = s.kms.check_decrypts(&decrypt, &encrypted).await;
        (generates.map(|_version| ()), decrypts)
    };
    assert!(matches!(check().await, (Ok(()), Ok(()))));
    let id = json!({ "CustomKeyStoreId": store });
    s.ask("DisconnectCustomKeyStore", id)
        .await
        .expect("disconnected");
    assert!(matches!(
        check().await,
        (
            Err(KmsError::InvalidState { .. }),
            Err(KmsError::InvalidState { .. })
        )
    ));
}
