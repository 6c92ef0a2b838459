//! Records that somebody with write access to the disk cannot make up.
//!
//! Every row of keys, backing keys, aliases, policies and grants, and what other modules seal so, carries HMAC-SHA-256 over
//! `"strongroom row v1"` ‖ length of the row's key (4 bytes, big-endian) ‖ the row's key ‖ the record. A row that was
//! changed, made up or moved to another key does not verify and is not used. A row that was deleted, and the rollback
//! of rows to what they once were, are not noticed.
//!
//! The MAC key is a data key wrapped by a backing key of its own, in a row of its own, which needs no MAC: only the
//! HSM can make one that unwraps. It is made once, in an empty store, and held in [`MetadataMac`] for the life of the
//! process. A store that has keys but no such row is refused.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use minicbor::{Decode, Encode};
use strongroom_hsm::{DataKey, SecretBytes, Wrapped};

use super::backing::Target;
use super::error::KmsError;
use super::key::{BackingRecord, Cause};
use super::{COMMIT_ATTEMPTS_MAX, Kms, internal, table};
use crate::meta::{Batch, KeyRange, codec, table as tables};

const NAME: &str = "metadata-mac";
const DOMAIN: &[u8] = b"strongroom row v1";
const TAG_BYTES: usize = 32;

/// The MAC key, and all that is done with it.
pub(super) struct MetadataMac(hmac::Key);

impl fmt::Debug for MetadataMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetadataMac(..)")
    }
}

impl MetadataMac {
    fn new(key: &DataKey) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose()))
    }

    fn covered(row: &[u8], record: &[u8]) -> Vec<u8> {
        // Row keys are at most meta::KEY_BYTES_MAX long.
        let length = u32::try_from(row.len()).unwrap_or(u32::MAX).to_be_bytes();
        [DOMAIN, &length, row, record].concat()
    }

    /// What to store under `row`.
    pub(super) fn seal(&self, row: &[u8], record: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.0, &Self::covered(row, record));
        [tag.as_ref(), record].concat()
    }

    /// The record in `stored`, if it is what [`MetadataMac::seal`] made for just this row.
    pub(super) fn open<'a>(&self, row: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, record) = stored.split_at_checked(TAG_BYTES)?;
        hmac::verify(&self.0, &Self::covered(row, record), tag).ok()?;
        Some(record)
    }
}

/// The row of the MAC key.
#[derive(Encode, Decode)]
struct MacRecord {
    #[n(0)]
    backing: BackingRecord,
    #[cbor(n(1), with = "minicbor::bytes")]
    wrapped: Vec<u8>,
}

impl Kms {
    /// What to store under `row`, of another module: the record and its MAC.
    ///
    /// # Errors
    ///
    /// By the HSM, until it has been there once.
    pub(crate) async fn seal_row(&self, row: &[u8], record: &[u8]) -> Result<Vec<u8>, KmsError> {
        Ok(self.mac().await?.seal(row, record))
    }

    /// The record in what [`Kms::seal_row`] gave for just this row.
    ///
    /// # Errors
    ///
    /// [`KmsError::Damaged`] for anything else; by the HSM, until it has been there once.
    pub(crate) async fn open_row(
        &self,
        what: &'static str,
        row: &[u8],
        stored: &[u8],
    ) -> Result<Vec<u8>, KmsError> {
        let mac = self.mac().await?;
        let record = mac.open(row, stored).ok_or(KmsError::Damaged(what))?;
        Ok(record.to_vec())
    }

    /// The MAC key: from memory, else from its row by the HSM, else made.
    pub(super) async fn mac(&self) -> Result<Arc<MetadataMac>, KmsError> {
        if let Some(mac) = self.mac.get() {
            return Ok(Arc::clone(mac));
        }
        // Loading is not serialised: a queue of requests must not each wait out the deadline of a hung HSM in turn.
        if let Some(mac) = self.load_mac().await? {
            return Ok(mac);
        }
        let _making = self.lock_making(&self.making_mac).await?;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            if let Some(mac) = self.load_mac().await? {
                return Ok(mac);
            }
            self.make_mac().await?;
        }
        Err(KmsError::Busy)
    }

    async fn load_mac(&self) -> Result<Option<Arc<MetadataMac>>, KmsError> {
        let snapshot = self.meta.snapshot().await.map_err(KmsError::meta)?;
        let Some(stored) = snapshot
            .load(&table::internal_row(NAME))
            .await
            .map_err(KmsError::meta)?
        else {
            return Ok(None);
        };
        drop(snapshot);
        let damaged = || KmsError::Damaged("metadata MAC key");
        let record: MacRecord =
            codec::decode("metadata MAC key", &stored).map_err(KmsError::meta)?;
        let wrapped = Wrapped::from_bytes(&record.wrapped).map_err(|_scheme| damaged())?;
        let key = self
            .groups
            .default_group()
            .unwrap(
                &record.backing.backing_key()?,
                internal::aad(NAME, &[], &[]),
                wrapped,
            )
            .await
            .map_err(|error| match KmsError::hsm(error) {
                KmsError::InvalidCiphertext => damaged(),
                other => other,
            })?;
        let key = DataKey::from_secret(&key).map_err(|_length| damaged())?;
        Ok(Some(Arc::clone(
            self.mac.get_or_init(|| Arc::new(MetadataMac::new(&key))),
        )))
    }

    /// Makes the MAC key, unless another server does meanwhile.
    async fn make_mac(&self) -> Result<(), KmsError> {
        let empty = [tables::KMS_KEY, tables::KMS_ALIAS, tables::KMS_INTERNAL];
        let snapshot = self.meta.snapshot().await.map_err(KmsError::meta)?;
        for table in empty {
            let rows = snapshot
                .scan(&KeyRange::prefix(&[table]), 1)
                .await
                .map_err(KmsError::meta)?;
            // A row of the MAC key itself was committed since the caller looked.
            if rows
                .iter()
                .any(|(row, _)| *row != table::internal_row(NAME))
            {
                return Err(KmsError::Damaged(
                    "the store has keys but no metadata MAC key",
                ));
            }
        }
        drop(snapshot);
        let made = self
            .make_backing(&Target::MetadataMac, Cause::Creation, self.default_place())
            .await?;
        let key = DataKey::random().map_err(KmsError::hsm)?;
        let wrapped = self
            .groups
            .default_group()
            .wrap(
                made.key(),
                internal::aad(NAME, &[], &[]),
                SecretBytes::from(&key),
            )
            .await;
        let wrapped = match wrapped {
            Ok(wrapped) => wrapped,
            Err(error) => {
                self.abandon(made).await;
                return Err(KmsError::hsm(error));
            }
        };
        let record = MacRecord {
            backing: made.record().clone(),
            wrapped: wrapped.as_bytes().to_vec(),
        };
        let batch = empty
            .iter()
            .fold(Batch::new(), |batch, table| {
                batch.range_empty(KeyRange::prefix(&[*table]))
            })
            .put(table::internal_row(NAME), codec::encode(&record));
        self.commit_made(made, batch).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use strongroom_hsm::DataKey;

    use super::MetadataMac;

    #[test]
    fn a_row_verifies_only_under_its_own_key_and_unchanged() {
        let mac = MetadataMac::new(&DataKey::random().expect("randomness"));
        let stored = mac.seal(b"k1", b"record");
        assert_eq!(mac.open(b"k1", &stored), Some(b"record".as_slice()));
        assert_eq!(mac.open(b"k2", &stored), None);
        assert_eq!(mac.open(b"k1r", &mac.seal(b"k1", b"rrecord")), None);
        for at in 0..stored.len() {
            let mut other = stored.clone();
            other
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|byte| *byte ^= 1);
            assert_eq!(mac.open(b"k1", &other), None);
        }
        assert_eq!(mac.open(b"k1", b"short"), None);
    }
}
