//! How many KMS keys each account has, of every state and manager: a row that changes in the batch that records a key, and
//! in the one that ends it. Where there is none yet, as in a store from before there were any, the keys are counted once.

use minicbor::{Decode, Encode};

use super::Kms;
use super::deletion::LIST_STEP;
use super::error::KmsError;
use super::key::KeyManager;
use super::table::{self, Rows};
use crate::auth::AccountId;
use crate::meta::{Batch, table as tables};

/// The most keys of an account unless the configuration says otherwise, as AWS has it for an account in a region.
pub const KEYS_PER_ACCOUNT_MAX_DEFAULT: u32 = 100_000;

/// `N ‖ account`.
#[derive(Encode, Decode)]
struct KeyCountRecord {
    #[n(0)]
    keys: u64,
}

/// How many keys an account has, and what the batch that changes it requires.
struct KeyCount {
    row: Vec<u8>,
    keys: u64,
    unchanged: Batch,
}

impl KeyCount {
    fn becomes(self, rows: &Rows, keys: u64) -> Batch {
        let record = KeyCountRecord { keys };
        self.unchanged.and(rows.put(self.row, &record))
    }
}

impl Kms {
    /// Checks that an account may have one more key, before anything is made for it.
    pub(super) async fn see_room_for_key(&self, account: &AccountId) -> Result<(), KmsError> {
        let count = self.key_count(&self.rows().await?, account).await?;
        self.check_room(count.keys)
    }

    /// Counts a new key in, in the batch that records it. What the service makes is counted and never refused.
    pub(super) async fn count_key_in(
        &self,
        rows: &Rows,
        account: &AccountId,
        manager: KeyManager,
    ) -> Result<Batch, KmsError> {
        let count = self.key_count(rows, account).await?;
        match manager {
            KeyManager::Customer => self.check_room(count.keys)?,
            KeyManager::Aws | KeyManager::Internal => {}
        }
        let keys = count.keys.saturating_add(1);
        Ok(count.becomes(rows, keys))
    }

    /// Counts a key out, in the batch that ends it.
    pub(super) async fn count_key_out(
        &self,
        rows: &Rows,
        account: &AccountId,
    ) -> Result<Batch, KmsError> {
        let count = self.key_count(rows, account).await?;
        let keys = count.keys.saturating_sub(1);
        Ok(count.becomes(rows, keys))
    }

    fn check_room(&self, keys: u64) -> Result<(), KmsError> {
        let max = self.settings.keys_per_account_max;
        if keys >= u64::from(max) {
            return Err(KmsError::LimitExceeded(format!(
                "An account can have at most {max} KMS keys"
            )));
        }
        Ok(())
    }

    async fn key_count(&self, rows: &Rows, account: &AccountId) -> Result<KeyCount, KmsError> {
        let row = table::key_count_row(account);
        let found = rows.load::<KeyCountRecord>("number of keys", row.clone());
        let unchanged = match found.await {
            Ok(Some(count)) => {
                return Ok(KeyCount {
                    row,
                    keys: count.record.keys,
                    unchanged: count.unchanged(),
                });
            }
            Ok(None) => Batch::new().absent(row.as_slice()),
            // Counting anew makes it good, and keeps no key from its end.
            Err(error @ KmsError::Damaged(_)) => {
                tracing::error!(event = "kms.key_count.damaged", %account, %error);
                Batch::new()
            }
            Err(error) => return Err(error),
        };
        Ok(KeyCount {
            row,
            keys: self.count_keys(rows, account).await?,
            unchanged,
        })
    }

    async fn count_keys(&self, rows: &Rows, account: &AccountId) -> Result<u64, KmsError> {
        let (mut keys, mut after) = (0, None::<Vec<u8>>);
        loop {
            let range = table::rows_after(tables::KMS_KEY, after.as_deref());
            let found = rows.scan(&range, LIST_STEP).await?;
            let is_last = found.len() < LIST_STEP;
            for row in found {
                let key_id = table::key_id_of_row(&row.0)?;
                after = Some(key_id.as_bytes().to_vec());
                let head = self.head_of_row(rows, key_id, row);
                keys += u64::from(head.is_some_and(|(arn, _)| arn.account() == account));
            }
            if is_last {
                return Ok(keys);
            }
        }
    }
}
