//! What is derived from a data key, and from nothing else.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::rand;

use super::segment::TAG_BYTES;
use super::{
    ATTRIBUTES_BYTES_MAX, BLOB_ID_BYTES, DataKey, EnvelopeError, HEADER_BYTES, Manifest, Opener,
    SALT_BYTES, Sealer,
};

const BLOB_MAGIC: &[u8; 4] = b"SRB\x01";
const ATTRIBUTES_MAGIC: &[u8; 4] = b"SRA\x01";

/// A tag over the fields of a part's record.
pub type PartTag = [u8; 32];

/// Owns a data key for the length of a request, and derives from it.
#[derive(Debug)]
pub struct KeySchedule {
    data_key: DataKey,
}

/// 32 bytes out of HKDF.
struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

impl KeySchedule {
    /// Takes the data key over.
    pub fn new(data_key: DataKey) -> Self {
        Self { data_key }
    }

    /// The data key, to be wrapped again for a copy.
    pub fn data_key(&self) -> &DataKey {
        &self.data_key
    }

    /// Begins a blob with a fresh salt.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Random`].
    pub fn sealer(&self, blob_id: &[u8; BLOB_ID_BYTES]) -> Result<Sealer, EnvelopeError> {
        Ok(self.sealer_with_salt(blob_id, fresh_salt()?))
    }

    /// Begins a blob with a given salt; only for golden vectors, hence private to this module.
    pub(super) fn sealer_with_salt(
        &self,
        blob_id: &[u8; BLOB_ID_BYTES],
        salt: [u8; SALT_BYTES],
    ) -> Sealer {
        let (key, commitment) = self.blob_keys(blob_id, &salt);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(BLOB_MAGIC);
        header.extend_from_slice(&salt);
        header.extend_from_slice(&commitment);
        Sealer::new(key, *blob_id, salt, header)
    }

    /// Begins to read a blob of `plaintext_bytes`, whose manifest says that it has this salt.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Format`] for a header of another kind; [`EnvelopeError::Commitment`] when the data key, the
    /// blob id or the salt is not what the blob was sealed with.
    pub fn opener(
        &self,
        blob_id: &[u8; BLOB_ID_BYTES],
        salt: &[u8; SALT_BYTES],
        plaintext_bytes: u64,
        header: &[u8],
    ) -> Result<Opener, EnvelopeError> {
        let rest = header
            .strip_prefix(BLOB_MAGIC)
            .ok_or(EnvelopeError::Format("blob"))?;
        let (stored_salt, commitment) = rest
            .split_at_checked(SALT_BYTES)
            .ok_or(EnvelopeError::Format("blob"))?;
        let (key, expected) = self.blob_keys(blob_id, salt);
        if stored_salt != salt || verify_slices_are_equal(commitment, &expected).is_err() {
            return Err(EnvelopeError::Commitment);
        }
        Opener::new(key, *blob_id, plaintext_bytes)
    }

    /// The bytes of `manifest`, authenticated under a fresh salt.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Random`]; [`EnvelopeError::Limit`].
    pub fn seal_manifest(&self, manifest: &Manifest) -> Result<Vec<u8>, EnvelopeError> {
        self.seal_manifest_with_salt(manifest, fresh_salt()?)
    }

    pub(super) fn seal_manifest_with_salt(
        &self,
        manifest: &Manifest,
        salt: [u8; SALT_BYTES],
    ) -> Result<Vec<u8>, EnvelopeError> {
        let mut bytes = manifest.encode(&salt)?;
        let tag = hmac::sign(&self.mac_key(&salt, b"strongroom manifest v1"), &bytes);
        bytes.extend_from_slice(tag.as_ref());
        Ok(bytes)
    }

    /// Reads a manifest, if it was made under this data key for this identity and these attributes.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Format`]; [`EnvelopeError::Unauthentic`].
    pub fn open_manifest(
        &self,
        bytes: &[u8],
        identity: &[u8],
        attributes_digest: &[u8; 32],
    ) -> Result<Manifest, EnvelopeError> {
        let (body, tag) = bytes
            .len()
            .checked_sub(32)
            .and_then(|at| bytes.split_at_checked(at))
            .ok_or(EnvelopeError::Format("manifest"))?;
        let salt = Manifest::salt(body)?;
        hmac::verify(&self.mac_key(salt, b"strongroom manifest v1"), body, tag)
            .map_err(|_unspecified| EnvelopeError::Unauthentic("manifest"))?;
        let manifest = Manifest::decode(body)?;
        if manifest.identity != identity || manifest.attributes_digest != *attributes_digest {
            return Err(EnvelopeError::Unauthentic("manifest"));
        }
        Ok(manifest)
    }

    /// Seals small attributes that say something about the plaintext, such as its checksums.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Random`]; [`EnvelopeError::Limit`] beyond [`ATTRIBUTES_BYTES_MAX`].
    pub fn seal_attributes(
        &self,
        identity: &[u8],
        attributes: &[u8],
    ) -> Result<Vec<u8>, EnvelopeError> {
        self.seal_attributes_with_salt(identity, attributes, fresh_salt()?)
    }

    pub(super) fn seal_attributes_with_salt(
        &self,
        identity: &[u8],
        attributes: &[u8],
        salt: [u8; SALT_BYTES],
    ) -> Result<Vec<u8>, EnvelopeError> {
        if attributes.len() > ATTRIBUTES_BYTES_MAX {
            return Err(EnvelopeError::Limit("attributes"));
        }
        let key = aead_key(&prk(&salt, &self.data_key), &[b"strongroom attributes v1"]);
        let mut sealed = attributes.to_vec();
        // The key is used for this one message: its salt is fresh.
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key([0; 12]),
            Aad::from(identity),
            &mut sealed,
        )
        .map_err(|_unspecified| EnvelopeError::Limit("attributes"))?;
        Ok([ATTRIBUTES_MAGIC.as_slice(), &salt, &sealed].concat())
    }

    /// Opens what [`KeySchedule::seal_attributes`] made for the same identity.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Format`]; [`EnvelopeError::Unauthentic`].
    pub fn open_attributes(
        &self,
        identity: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, EnvelopeError> {
        let rest = sealed
            .strip_prefix(ATTRIBUTES_MAGIC)
            .ok_or(EnvelopeError::Format("attributes"))?;
        let (salt, body) = rest
            .split_first_chunk::<SALT_BYTES>()
            .ok_or(EnvelopeError::Format("attributes"))?;
        let key = aead_key(&prk(salt, &self.data_key), &[b"strongroom attributes v1"]);
        let mut body = body.to_vec();
        let length = key
            .open_in_place(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::from(identity),
                &mut body,
            )
            .map_err(|_unspecified| EnvelopeError::Unauthentic("attributes"))?
            .len();
        body.truncate(length);
        Ok(body)
    }

    /// A tag over the fields of a part's record.
    pub fn part_tag(&self, fields: &[u8]) -> PartTag {
        let tag = hmac::sign(&self.mac_key(&[], b"strongroom part v1"), fields);
        let mut out = [0; 32];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Checks a tag over the fields of a part's record.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Unauthentic`].
    pub fn verify_part_tag(&self, fields: &[u8], tag: &PartTag) -> Result<(), EnvelopeError> {
        hmac::verify(&self.mac_key(&[], b"strongroom part v1"), fields, tag)
            .map_err(|_unspecified| EnvelopeError::Unauthentic("part record"))
    }

    fn blob_keys(
        &self,
        blob_id: &[u8; BLOB_ID_BYTES],
        salt: &[u8; SALT_BYTES],
    ) -> (LessSafeKey, [u8; 32]) {
        let prk = prk(salt, &self.data_key);
        let key = aead_key(&prk, &[b"strongroom blob segment v1", blob_id]);
        (
            key,
            expand32(&prk, &[b"strongroom blob commitment v1", blob_id]),
        )
    }

    fn mac_key(&self, salt: &[u8], purpose: &[u8]) -> hmac::Key {
        let mut bytes = zeroize::Zeroizing::new(expand32(&prk(salt, &self.data_key), &[purpose]));
        let key = hmac::Key::new(HMAC_SHA256, bytes.as_slice());
        bytes.fill(0);
        key
    }
}

/// The nonce of segment `index`.
pub(super) fn segment_nonce(index: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[0] = u8::from(last);
    nonce[4..].copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// The AAD of every segment of a blob.
pub(super) fn segment_aad(blob_id: &[u8; BLOB_ID_BYTES]) -> Aad<[u8; 1 + BLOB_ID_BYTES]> {
    let mut aad = [1; 1 + BLOB_ID_BYTES];
    aad[1..].copy_from_slice(blob_id);
    Aad::from(aad)
}

const _: () = assert!(TAG_BYTES == 16);

fn fresh_salt() -> Result<[u8; SALT_BYTES], EnvelopeError> {
    let mut salt = [0; SALT_BYTES];
    rand::fill(&mut salt).map_err(|_unspecified| EnvelopeError::Random)?;
    Ok(salt)
}

fn prk(salt: &[u8], data_key: &DataKey) -> Prk {
    Salt::new(HKDF_SHA256, salt).extract(data_key.expose())
}

fn expand32(prk: &Prk, info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    prk.expand(info, Bytes32)
        .and_then(|okm| okm.fill(&mut out))
        .expect("32 bytes are within the 255 * 32 that HKDF-SHA-256 gives");
    out
}

fn aead_key(prk: &Prk, info: &[&[u8]]) -> LessSafeKey {
    let okm = prk
        .expand(info, &AES_256_GCM)
        .expect("32 bytes are within the 255 * 32 that HKDF-SHA-256 gives");
    LessSafeKey::new(UnboundKey::from(okm))
}
