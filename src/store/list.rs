//! `ListObjects` and `ListMultipartUploads`. No HSM, and no row that is not shown.

use super::record::{ObjectRecord, UploadRecord, Uuid, key_prefix, split_row};
use super::{Store, StoreError};
use crate::auth::{AccountId, Authorised};
use crate::meta::{KeyRange, MetaError, codec, successor, table};

/// The most entries of one answer: AWS's limit.
pub const LIST_ENTRIES_MAX: usize = 1000;

/// Rows read at a time.
const SCAN_ROWS: usize = 250;

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Keys that share what comes before it are rolled up.
    pub delimiter: Option<String>,
    /// Only keys and rolled-up prefixes after this.
    pub after: String,
    /// At most so many entries, up to [`LIST_ENTRIES_MAX`].
    pub entries_max: usize,
}

/// What there is.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    /// Keys in order.
    pub entries: Vec<(String, T)>,
    /// Rolled-up prefixes in order.
    pub prefixes: Vec<String>,
    /// The last key or prefix, if there is more.
    pub next: Option<String>,
    /// The account that owns the bucket, and so all that is in it.
    pub owner: AccountId,
}

/// Uploads under way: key, then upload id and record.
pub type UploadListing = Listing<(Uuid, UploadRecord)>;

impl Store {
    /// Lists objects.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`].
    pub async fn list(
        &self,
        proof: &Authorised,
        request: &ListRequest,
    ) -> Result<Listing<ObjectRecord>, StoreError> {
        self.list_table(proof, request, table::OBJECT, None, |_, value| {
            Ok(codec::decode("object", value)?)
        })
        .await
    }

    /// Lists uploads under way; `after_upload` is the last upload id of key `request.after` that was shown.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSuchBucket`].
    pub async fn list_uploads(
        &self,
        proof: &Authorised,
        request: &ListRequest,
        after_upload: Option<&Uuid>,
    ) -> Result<UploadListing, StoreError> {
        self.list_table(proof, request, table::UPLOAD, after_upload, |id, value| {
            Ok((id, codec::decode("upload", value)?))
        })
        .await
    }

    async fn list_table<T>(
        &self,
        proof: &Authorised,
        request: &ListRequest,
        table: u8,
        after_id: Option<&Uuid>,
        decode: impl Fn(Uuid, &[u8]) -> Result<T, StoreError>,
    ) -> Result<Listing<T>, StoreError> {
        let snapshot = self.meta.snapshot().await?;
        let bucket = self.proven_bucket(&*snapshot, proof).await?.record;
        let row_of = |key: &str| key_prefix(table, &bucket.uuid, key.as_bytes());
        let delimiter = request
            .delimiter
            .as_deref()
            .filter(|delimiter| !delimiter.is_empty());
        let entries_max = request.entries_max.min(LIST_ENTRIES_MAX);
        let mut listing = Listing {
            entries: Vec::new(),
            prefixes: Vec::new(),
            next: None,
            owner: bucket.owner(self.kms.account()),
        };
        let mut range = KeyRange::prefix(&row_of(&request.prefix));
        if !request.after.is_empty() {
            let start = start_after(
                &row_of(&request.after),
                &request.after,
                &request.prefix,
                delimiter,
                after_id,
            );
            range.start = range.start.max(start);
        }
        if entries_max == 0 {
            return Ok(listing);
        }
        let mut last = None;
        while range.start < range.end {
            let rows = snapshot.scan(&range, SCAN_ROWS).await?;
            let whole = rows.len() < SCAN_ROWS;
            let mut jump = None;
            for (row, value) in rows {
                if listing.entries.len() + listing.prefixes.len() == entries_max {
                    listing.next = last;
                    return Ok(listing);
                }
                let (key, id) = split_row(&row).ok_or(MetaError::Damaged("object key"))?;
                if let Some(rolled) = roll_up(&key, &request.prefix, delimiter) {
                    jump = Some(successor(&row_of(rolled)));
                    listing.prefixes.push(rolled.to_owned());
                    last = Some(rolled.to_owned());
                    break;
                }
                range.start = [row.as_slice(), &[0]].concat();
                last = Some(key.clone());
                listing.entries.push((key, decode(id, &value)?));
            }
            match jump {
                Some(start) => range.start = start,
                None if whole => break,
                None => {}
            }
        }
        Ok(listing)
    }
}

/// The common prefix that `key` is shown under, if it has a delimiter after `prefix`.
fn roll_up<'k>(key: &'k str, prefix: &str, delimiter: Option<&str>) -> Option<&'k str> {
    let delimiter = delimiter?;
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// The first row after `after`: after its last version or the given id, or after everything that it rolls up.
fn start_after(
    row: &[u8],
    after: &str,
    prefix: &str,
    delimiter: Option<&str>,
    after_id: Option<&Uuid>,
) -> Vec<u8> {
    if after.starts_with(prefix) && roll_up(after, prefix, delimiter) == Some(after) {
        return successor(row);
    }
    match after_id {
        Some(id) => [row, &[0, 0], id.as_slice(), &[0]].concat(),
        None => successor(&[row, &[0, 0]].concat()),
    }
}
