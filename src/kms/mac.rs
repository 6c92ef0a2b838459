//! Records that somebody with write access to the disk cannot make up.
//!
//! Every row of keys, backing keys, aliases, policies and grants, and what other modules seal so, carries HMAC-SHA-256 over
//! `"strongroom row v1"` ‖ length of the row's key (4 bytes, big-endian) ‖ the row's key ‖ the record. A row that was
//! changed, made up or moved to another key does not verify and is not used. A row that was deleted, and the rollback
//! of rows to what they once were, are not noticed.
//!
//! The MAC key is a data key wrapped by a backing key of its own, in a row of its own, which needs no MAC: only the
//! HSM can make one that unwraps. It is made once, in an empty store, and held in [`MetadataMac`] for the life of the
//! process. A store that has keys or identities but no such row is refused. Its wrap also says whether all rows are sealed
//! that once were not: those of buckets.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use minicbor::{Decode, Encode};
use strongroom_hsm::{DataKey, HsmError, SecretBytes, Wrapped};

use super::backing::{Kind, Target};
use super::error::KmsError;
use super::key::{BackingRecord, Cause};
use super::{COMMIT_ATTEMPTS_MAX, Kms, internal, table};
use crate::meta::{Batch, KeyRange, codec, table as tables};

/// Its name in its row and its AAD.
pub(super) const NAME: &str = "metadata-mac";
const DOMAIN: &[u8] = b"strongroom row v1";
const TAG_BYTES: usize = 32;
/// In the MAC key's row and its wrap's AAD: buckets have MACs.
const SEALED_ALL: u8 = 1;
const MISSING: KmsError = KmsError::Damaged("metadata MAC key");

/// The MAC key, and all that is done with it.
pub(super) struct MetadataMac {
    key: hmac::Key,
    /// Whether other modules have sealed all rows that they began to seal later.
    sealed_all: AtomicBool,
}

impl fmt::Debug for MetadataMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetadataMac(..)")
    }
}

impl MetadataMac {
    fn new(key: &DataKey, sealed_all: bool) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.expose()),
            sealed_all: AtomicBool::new(sealed_all),
        }
    }

    fn covered(row: &[u8], record: &[u8]) -> Vec<u8> {
        // Row keys are at most meta::KEY_BYTES_MAX long.
        let length = u32::try_from(row.len()).unwrap_or(u32::MAX).to_be_bytes();
        [DOMAIN, &length, row, record].concat()
    }

    /// What to store under `row`.
    pub(super) fn seal(&self, row: &[u8], record: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.key, &Self::covered(row, record));
        [tag.as_ref(), record].concat()
    }

    /// The record in `stored`, if it is what [`MetadataMac::seal`] made for just this row.
    pub(super) fn open<'a>(&self, row: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, record) = stored.split_at_checked(TAG_BYTES)?;
        hmac::verify(&self.key, &Self::covered(row, record), tag).ok()?;
        Some(record)
    }
}

/// A sealing that has begun: the HSM was there, and the MAC key is that of the records.
#[must_use = "what has begun is to be committed"]
pub(crate) struct Sealing {
    stored: Vec<u8>,
    record: MacRecord,
    key: DataKey,
}

/// The row of the MAC key.
#[derive(Encode, Decode)]
struct MacRecord {
    #[n(0)]
    backing: BackingRecord,
    #[cbor(n(1), with = "minicbor::bytes")]
    wrapped: Vec<u8>,
    /// What the wrap's AAD says, too: [`SEALED_ALL`], or 0.
    #[cbor(n(2), default)]
    sealed: u8,
}

impl MacRecord {
    fn aad(&self) -> Vec<u8> {
        let header: &[u8] = match self.sealed {
            0 => &[],
            ref sealed => std::slice::from_ref(sealed),
        };
        internal::aad(NAME, header, &[])
    }
}

impl Kms {
    /// Whether every row that other modules seal is sealed: those of buckets once had no MAC.
    ///
    /// # Errors
    ///
    /// By the HSM, until it has been there once.
    pub(crate) async fn has_sealed_all(&self) -> Result<bool, KmsError> {
        Ok(self.mac().await?.sealed_all.load(Ordering::Acquire))
    }

    /// As [`Kms::has_sealed_all`], without the HSM. `false`: not that we knew.
    pub(crate) fn knows_that_all_are_sealed(&self) -> bool {
        let mac = self.mac.get();
        mac.is_some_and(|mac| mac.sealed_all.load(Ordering::Acquire))
    }

    /// Begins to seal what is not sealed yet. None: it is, by a commit whose outcome was not known.
    ///
    /// # Errors
    ///
    /// By the HSM and the records.
    pub(crate) async fn begin_sealing(&self) -> Result<Option<Sealing>, KmsError> {
        let mac = self.mac().await?;
        let (stored, record) = self.mac_record().await?.ok_or(MISSING)?;
        let key = self.unwrap_mac(&record).await?;
        if record.sealed == SEALED_ALL {
            mac.sealed_all.store(true, Ordering::Release);
            return Ok(None);
        }
        Ok(Some(Sealing {
            stored,
            record,
            key,
        }))
    }

    /// Commits the last batch of a sealing, and that all is sealed now, by another wrap of the MAC key. Only the HSM can
    /// make that wrap, and there is no way back but to a store of before. `false`: something had changed meanwhile.
    ///
    /// # Errors
    ///
    /// By the HSM and the records.
    pub(crate) async fn commit_sealing(
        &self,
        sealing: Sealing,
        batch: Batch,
    ) -> Result<bool, KmsError> {
        let mac = self.mac().await?;
        let Sealing {
            stored,
            record,
            key,
        } = sealing;
        let mut sealed = MacRecord {
            sealed: SEALED_ALL,
            ..record
        };
        let wrapped = self
            .groups
            .default_group()
            .wrap(
                &sealed.backing.backing_key()?,
                sealed.aad(),
                SecretBytes::from(&key),
            )
            .await
            .map_err(KmsError::hsm)?;
        sealed.wrapped = wrapped.as_bytes().to_vec();
        // It takes the place of the only wrap that there is, whatever the settings say of decrypting back.
        let opens = match self.unwrap_mac(&sealed).await {
            Ok(opened) => verify_slices_are_equal(opened.expose(), key.expose()).is_ok(),
            Err(KmsError::Damaged(_)) => false,
            Err(error) => return Err(error),
        };
        if !opens {
            return Err(KmsError::hsm(HsmError::WrapNotReadable));
        }
        let row = table::internal_row(NAME);
        let batch = batch
            .unchanged(row.as_slice(), Some(&stored))
            .put(row, codec::encode(&sealed));
        let committed = self.commit(batch).await?;
        if committed {
            mac.sealed_all.store(true, Ordering::Release);
        }
        Ok(committed)
    }

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
        let Some((_, record)) = self.mac_record().await? else {
            return Ok(None);
        };
        let key = self.unwrap_mac(&record).await?;
        let sealed_all = record.sealed == SEALED_ALL;
        let mac = Arc::new(MetadataMac::new(&key, sealed_all));
        // No record is believed before.
        self.check_first_account(&mac).await?;
        Ok(Some(Arc::clone(self.mac.get_or_init(|| mac))))
    }

    /// Whether there is a MAC key. No HSM.
    pub(super) async fn mac_is_made(&self) -> Result<bool, KmsError> {
        Ok(self.mac_record().await?.is_some())
    }

    /// The row of the MAC key, if it has been made.
    async fn mac_record(&self) -> Result<Option<(Vec<u8>, MacRecord)>, KmsError> {
        let snapshot = self.meta.snapshot().await.map_err(KmsError::meta)?;
        let stored = snapshot.load(&table::internal_row(NAME)).await;
        let Some(stored) = stored.map_err(KmsError::meta)? else {
            return Ok(None);
        };
        let record = codec::decode("metadata MAC key", &stored).map_err(KmsError::meta)?;
        Ok(Some((stored, record)))
    }

    async fn unwrap_mac(&self, record: &MacRecord) -> Result<DataKey, KmsError> {
        let wrapped = Wrapped::from_bytes(&record.wrapped).map_err(|_scheme| MISSING)?;
        let key = self
            .groups
            .default_group()
            .unwrap(&record.backing.backing_key()?, record.aad(), wrapped)
            .await
            .map_err(|error| match KmsError::hsm(error) {
                KmsError::InvalidCiphertext => MISSING,
                other => other,
            })?;
        DataKey::from_secret(&key).map_err(|_length| MISSING)
    }

    /// The backing key of the MAC key, which has been made.
    pub(super) async fn mac_backing(&self) -> Result<BackingRecord, KmsError> {
        let (_, record) = self.mac_record().await?.ok_or(MISSING)?;
        Ok(record.backing)
    }

    /// Makes the MAC key, unless another server does meanwhile.
    async fn make_mac(&self) -> Result<(), KmsError> {
        let empty = [
            tables::KMS_KEY,
            tables::KMS_ALIAS,
            tables::KMS_INTERNAL,
            tables::IAM,
        ];
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
                    "the store has keys or identities but no metadata MAC key",
                ));
            }
        }
        drop(snapshot);
        let made = self
            .make_backing(
                &Target::MetadataMac,
                Kind::Wrapping,
                Cause::Creation,
                self.default_place(),
            )
            .await?;
        let key = DataKey::random().map_err(KmsError::hsm)?;
        let wrapped = self
            .groups
            .default_group()
            .wrap(
                &made.record().backing_key()?,
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
            sealed: 0,
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
        let mac = MetadataMac::new(&DataKey::random().expect("randomness"), true);
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
