//! What is wrapped comes back only as it was wrapped.

use strongroom_hsm::DataKey;

use super::{DECRYPT, GENERATE, Rig, account, context, may_key, round_trip};
use crate::kms::{EncryptedDataKey, InternalKey, KmsError, PLAINTEXT_BYTES_MAX};

#[tokio::test]
async fn a_data_key_comes_back() {
    let rig = Rig::new();
    let key = rig.key().await;
    round_trip(&rig.kms, &key).await.expect("comes back");
}

#[tokio::test]
async fn another_context_is_rejected() {
    let rig = Rig::new();
    let key = rig.key().await;
    let (_, encrypted) = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &key), &key, &context(&[("a", "b")]))
        .await
        .expect("a data key");
    for other in [
        context(&[]),
        context(&[("a", "c")]),
        context(&[("a", "b"), ("c", "d")]),
    ] {
        let error = rig
            .kms
            .unwrap_data_key(&may_key(DECRYPT, &key), &encrypted, &other)
            .await;
        assert!(
            matches!(error, Err(KmsError::InvalidCiphertext)),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn every_changed_bit_of_an_encrypted_data_key_is_rejected() {
    let rig = Rig::new();
    let key = rig.key().await;
    let encrypted = rig.encrypted_data_key(&key).await;
    for at in 0..encrypted.as_bytes().len() {
        let mut bytes = encrypted.as_bytes().to_vec();
        bytes
            .iter_mut()
            .skip(at)
            .take(1)
            .for_each(|byte| *byte ^= 1);
        let Ok(changed) = EncryptedDataKey::from_bytes(bytes) else {
            continue;
        };
        let proof = may_key(DECRYPT, &rig.kms.key_arn(&account(), changed.key_id()));
        let result = rig
            .kms
            .unwrap_data_key(&proof, &changed, &context(&[]))
            .await;
        // A changed key id names a key that is not there.
        let expected = matches!(
            result,
            Err(KmsError::InvalidCiphertext | KmsError::NotFound(_))
        );
        assert!(expected, "byte {at}: {result:?}");
    }
}

#[tokio::test]
async fn a_wrap_moved_under_another_key_id_is_rejected() {
    let rig = Rig::new();
    let (one, two) = (rig.key().await, rig.key().await);
    let (_, encrypted) = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &one), &one, &context(&[]))
        .await
        .expect("a data key");
    let mut bytes = encrypted.as_bytes().to_vec();
    bytes.splice(1..17, two.key_id().as_bytes().iter().copied());
    let moved = EncryptedDataKey::from_bytes(bytes).expect("well-formed");
    let result = rig
        .kms
        .unwrap_data_key(&may_key(DECRYPT, &two), &moved, &context(&[]))
        .await;
    assert!(
        matches!(result, Err(KmsError::InvalidCiphertext)),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_wrap_moved_under_another_version_of_its_key_is_rejected() {
    let rig = Rig::new();
    let key = rig.key().await;
    let encrypted = rig.encrypted_data_key(&key).await;
    rig.kms
        .rotate_key_on_demand(&may_key("kms:RotateKeyOnDemand", &key), &key)
        .await
        .expect("rotated");
    for version in [0_u32, 2, 3, u32::MAX] {
        let mut bytes = encrypted.as_bytes().to_vec();
        bytes.splice(17..21, version.to_be_bytes());
        let moved = EncryptedDataKey::from_bytes(bytes).expect("well-formed");
        let result = rig
            .kms
            .unwrap_data_key(&may_key(DECRYPT, &key), &moved, &context(&[]))
            .await;
        assert!(
            matches!(result, Err(KmsError::InvalidCiphertext)),
            "{version}: {result:?}"
        );
    }
}

#[tokio::test]
async fn a_proof_of_another_action_or_key_opens_nothing() {
    let rig = Rig::new();
    let (one, two) = (rig.key().await, rig.key().await);
    let (_, encrypted) = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &one), &one, &context(&[]))
        .await
        .expect("a data key");
    for proof in [may_key(DECRYPT, &two), may_key(GENERATE, &one)] {
        let result = rig
            .kms
            .unwrap_data_key(&proof, &encrypted, &context(&[]))
            .await;
        assert!(
            matches!(result, Err(KmsError::Internal { .. })),
            "{result:?}"
        );
    }
    let result = rig
        .kms
        .generate_data_key(&may_key(DECRYPT, &one), &one, &context(&[]))
        .await;
    assert!(
        matches!(result, Err(KmsError::Internal { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_re_wrapped_data_key_is_the_same_key_under_another() {
    let rig = Rig::new();
    let (one, two) = (rig.key().await, rig.key().await);
    let (data_key, _) = rig
        .kms
        .generate_data_key(&may_key(GENERATE, &one), &one, &context(&[]))
        .await
        .expect("a data key");
    let other = context(&[("copy", "yes")]);
    let moved = rig
        .kms
        .wrap_data_key(&may_key(GENERATE, &two), &two, &other, &data_key)
        .await
        .expect("wrapped");
    assert_eq!(moved.key_id(), two.key_id());
    let read = rig
        .kms
        .unwrap_data_key(&may_key(DECRYPT, &two), &moved, &other)
        .await
        .expect("unwraps");
    assert_eq!(read.expose(), data_key.expose());
}

#[tokio::test]
async fn encrypt_takes_every_length_to_its_limit_and_no_more() {
    let rig = Rig::new();
    let key = rig.key().await;
    let context = context(&[("a", "b")]);
    for length in [1, 32, 64, 65, PLAINTEXT_BYTES_MAX] {
        let plaintext = vec![0xA5; length];
        let encrypted = rig
            .kms
            .encrypt(&may_key("kms:Encrypt", &key), &key, &context, &plaintext)
            .await
            .expect("fits");
        let decrypted = rig
            .kms
            .decrypt(
                &may_key(DECRYPT, &key),
                &encrypted.ciphertext,
                &context,
                Some(&key),
            )
            .await
            .expect("opens");
        assert_eq!(*decrypted.plaintext, plaintext);
        assert_eq!(decrypted.material, encrypted.material);
    }
    let plaintext = vec![0; PLAINTEXT_BYTES_MAX + 1];
    let result = rig
        .kms
        .encrypt(&may_key("kms:Encrypt", &key), &key, &context, &plaintext)
        .await;
    assert!(matches!(result, Err(KmsError::Validation(_))), "{result:?}");
}

#[tokio::test]
async fn a_large_ciphertext_is_no_data_key() {
    let rig = Rig::new();
    let key = rig.key().await;
    let large = rig
        .kms
        .encrypt(
            &may_key("kms:Encrypt", &key),
            &key,
            &context(&[]),
            &[0; 100],
        )
        .await
        .expect("encrypted");
    let result = rig
        .kms
        .unwrap_data_key(&may_key(DECRYPT, &key), &large.ciphertext, &context(&[]))
        .await;
    assert!(
        matches!(result, Err(KmsError::InvalidCiphertext)),
        "{result:?}"
    );
}

#[tokio::test]
async fn an_internal_wrap_opens_only_for_its_purpose_and_aad() {
    let rig = Rig::new();
    let data_key = DataKey::random().expect("randomness");
    let wrapped = rig
        .kms
        .wrap_internal(InternalKey::SseS3, b"aad", &data_key)
        .await
        .expect("wrapped");
    let credential = rig
        .kms
        .wrap_internal(InternalKey::Credential, b"aad", &data_key)
        .await;
    credential.expect("wrapped");
    let read = rig
        .kms
        .unwrap_internal(InternalKey::SseS3, b"aad", &wrapped)
        .await
        .expect("unwraps");
    assert_eq!(read.expose(), data_key.expose());
    for (purpose, aad) in [
        (InternalKey::SseS3, b"aae"),
        (InternalKey::Credential, b"aad"),
    ] {
        let result = rig.kms.unwrap_internal(purpose, aad, &wrapped).await;
        assert!(
            matches!(result, Err(KmsError::InvalidCiphertext)),
            "{purpose:?}: {result:?}"
        );
    }
    for cut in 0..wrapped.len() {
        let cut = wrapped.get(..cut).expect("a prefix");
        let result = rig
            .kms
            .unwrap_internal(InternalKey::SseS3, b"aad", cut)
            .await;
        assert!(
            matches!(result, Err(KmsError::InvalidCiphertext)),
            "{result:?}"
        );
    }
}

#[tokio::test]
async fn an_internal_key_is_made_once_under_a_race() {
    let rig = Rig::new();
    let data_key = DataKey::random().expect("randomness");
    let other = rig.another();
    let wraps = futures::future::join_all((0..8).map(|at| {
        let kms = if at % 2 == 0 { &rig.kms } else { &other };
        kms.wrap_internal(InternalKey::SseS3, b"", &data_key)
    }));
    for wrapped in wraps.await {
        let wrapped = wrapped.expect("wrapped");
        rig.kms
            .unwrap_internal(InternalKey::SseS3, b"", &wrapped)
            .await
            .expect("unwraps");
    }
    // The metadata MAC key and this one; what lost the race is gone again.
    assert_eq!(rig.token_keys().await, 2);
}

#[tokio::test]
async fn internal_keys_are_not_listed_and_have_no_alias() {
    let rig = Rig::new();
    let data_key = DataKey::random().expect("randomness");
    rig.kms
        .wrap_internal(InternalKey::SseS3, b"", &data_key)
        .await
        .expect("wrapped");
    let keys = rig.api_ok("ListKeys", serde_json::json!({})).await;
    let aliases = rig.api_ok("ListAliases", serde_json::json!({})).await;
    assert_eq!(keys["Keys"], serde_json::json!([]));
    assert_eq!(aliases["Aliases"], serde_json::json!([]));
}
