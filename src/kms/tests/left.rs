//! What imports leave, with a store of records that fails or shows what was written.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::accounts::them;
use super::import::{import, plain};
use super::{Rig, Value, json, request, text};
use crate::auth::RequestContext;
use crate::kms::key::KeyId;
use crate::kms::table::key_row;
use crate::meta::{Batch, Meta, MetaError, Row, Snapshot, Write, table as tables};

/// A store of records that keeps a copy of every intent.
#[derive(Debug)]
struct Spy {
    inner: Arc<dyn Meta>,
    intents: Mutex<Vec<Row>>,
}

impl Spy {
    /// Puts itself before the records of a rig.
    fn on(rig: &mut Rig) -> Arc<Self> {
        let spy = Arc::new(Self {
            inner: Arc::clone(&rig.meta),
            intents: Mutex::default(),
        });
        rig.meta = Arc::<Self>::clone(&spy);
        rig.restart();
        spy
    }

    fn last_intent(&self) -> Row {
        let intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
        intents.last().expect("an intent").clone()
    }
}

#[async_trait]
impl Meta for Spy {
    async fn commit(&self, batch: Batch) -> Result<(), MetaError> {
        for write in batch.writes() {
            if let Write::Put(row, value) = write
                && row.first() == Some(&tables::KMS_INTENT)
            {
                let mut intents = self.intents.lock().unwrap_or_else(PoisonError::into_inner);
                intents.push((row.clone(), value.clone()));
            }
        }
        self.inner.commit(batch).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, MetaError> {
        self.inner.snapshot().await
    }
}

async fn ok(rig: &Rig, caller: &RequestContext, operation: &str, input: Value) -> Value {
    let (status, body) = rig.api_as(caller, operation, input).await;
    assert_eq!(status, 200, "{operation}: {body}");
    body
}

/// An intent that was genuine until its commit, and is put back after it.
#[tokio::test]
async fn an_intent_that_is_put_back_after_its_commit_destroys_nothing_of_any_account() {
    for caller in [request(), them()] {
        let mut rig = Rig::new();
        let spy = Spy::on(&mut rig);
        let made = ok(&rig, &caller, "CreateKey", json!({ "Origin": "EXTERNAL" })).await;
        let key = made["KeyMetadata"].clone();
        let parameters = json!({
            "KeyId": key["KeyId"], "WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048",
        });
        let parameters = ok(&rig, &caller, "GetParametersForImport", parameters).await;
        let input = import(&key, &parameters, &[5; 32]);
        ok(&rig, &caller, "ImportKeyMaterial", input).await;
        let (row, intent) = spy.last_intent();
        assert!(rig.rows(tables::KMS_INTENT).await.is_empty());
        let held = rig.token_keys().await;

        rig.put(&row, &intent).await;
        rig.restart();
        rig.kms.recover().await.expect("recovers");
        assert_eq!(rig.token_keys().await, held);
        ok(&rig, &caller, "Encrypt", plain(&key)).await;
        assert!(rig.rows(tables::KMS_INTENT).await.is_empty());

        // With nothing recorded of the key either, there is no proof that it is not in use.
        let id = KeyId::parse(&text(&key["KeyId"])).expect("a key id");
        let heads = rig.rows(tables::KMS_KEY).await;
        let head = heads.iter().find(|(row, _)| *row == key_row(id));
        let (place, record) = head.expect("a head").clone();
        let gone = Batch::new().delete(place.as_slice());
        rig.meta.commit(gone).await.expect("committed");
        rig.put(&row, &intent).await;
        for _ in 0..2 {
            rig.restart();
            rig.kms.recover().await.expect("recovers");
            rig.kms.destroy_due_keys().await.expect("tends");
        }
        assert_eq!(rig.token_keys().await, held);
        assert_eq!(rig.rows(tables::KMS_INTENT).await.len(), 1);
        rig.put(&place, &record).await;
        rig.kms.destroy_due_keys().await.expect("tends");
        ok(&rig, &caller, "Encrypt", plain(&key)).await;
        assert_eq!(rig.token_keys().await, held);
    }
}
