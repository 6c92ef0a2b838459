//! The way out for keys that are bound to PCRs: policies that an offline key signs.
//!
//! # The file of a signed policy
//!
//! ```text
//! strongroom PCR policy v1
//! pcrs 4 7
//! values <64 hex digits: SHA-256 of the values of these PCRs, in ascending order>
//! signature <hex digits: ECDSA over SHA-256 of the message, as DER>
//! ```
//!
//! The recovery key is an ECDSA key on NIST P-256 that is kept offline. `openssl dgst -sha256 -sign` signs the
//! [`PcrPolicy::message`].

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::unavailable;
use super::policy::{POLICY_REF, START, with_pcrs};
use super::wire::{Digest, Name, SHA256_ID, put_sized};
use crate::{HsmError, HsmResult};

/// PCRs of a TPM of a PC (TCG PC Client Platform TPM Profile §4.6).
const PCRS: u8 = 24;

/// The most bytes of a key or policy file that are read.
const FILE_BYTES_MAX: usize = 4096;

const HEADING: &str = "strongroom PCR policy v1";

/// `SubjectPublicKeyInfo` of a key on P-256 up to its point, which is not compressed (RFC 5480 §2).
const P256_HEAD: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A,
    0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
const COORDINATE_BYTES: usize = 32;

/// PCR values under which a recovery key lets the keys be used that it was named for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PcrPolicy {
    pub(super) selection: u32,
    pub(super) values: Digest,
}

impl PcrPolicy {
    /// The policy that wants these PCRs to have these values, as `TpmToken::pcr_values` gives them.
    ///
    /// # Errors
    ///
    /// [`HsmError::Config`] for no PCR, a PCR that no TPM has, or one that is named twice.
    pub fn new(pcrs: &[u8], values: Digest) -> HsmResult<Self> {
        match selection(pcrs)? {
            0 => Err(HsmError::Config("TPM: a PCR policy names no PCR".into())),
            selection => Ok(Self { selection, values }),
        }
    }

    /// What the recovery key signs, with ECDSA over its SHA-256: the policy's digest and whom it is for (Part 3
    /// "`TPM2_PolicyAuthorize`").
    pub fn message(&self) -> Vec<u8> {
        [self.digest().as_slice(), POLICY_REF].concat()
    }

    /// The file of this policy, with the signature as DER.
    pub fn signed(&self, signature: &[u8]) -> String {
        let pcrs = list(self.selection);
        let (values, signature) = (hex::encode(self.values), hex::encode(signature));
        format!("{HEADING}\npcrs {pcrs}\nvalues {values}\nsignature {signature}\n")
    }

    pub(super) fn digest(&self) -> Digest {
        with_pcrs(&START, self.selection, &self.values)
    }
}

/// A policy and its signature, as the TPM takes it (`TPMT_SIGNATURE`).
pub(super) struct Signed {
    pub(super) policy: PcrPolicy,
    pub(super) signature: Vec<u8>,
}

impl Signed {
    /// Reads the file of a signed policy. The signature is the TPM's to judge.
    pub(super) fn read(path: &Path) -> HsmResult<Self> {
        let bytes = read(path)?;
        let text = std::str::from_utf8(&bytes).ok();
        text.and_then(Self::parse)
            .ok_or_else(|| unavailable(format!("{} is no signed PCR policy", path.display())))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != HEADING {
            return None;
        }
        let pcrs = lines.next()?.strip_prefix("pcrs ")?;
        let pcrs: Option<Vec<u8>> = pcrs.split(' ').map(|pcr| pcr.parse().ok()).collect();
        let mut values = [0; 32];
        hex::decode_to_slice(lines.next()?.strip_prefix("values ")?, &mut values).ok()?;
        let signature = hex::decode(lines.next()?.strip_prefix("signature ")?).ok()?;
        if lines.next().is_some() {
            return None;
        }
        Some(Self {
            policy: PcrPolicy::new(&pcrs?, values).ok()?,
            signature: ecdsa(&signature)?,
        })
    }
}

/// The public half of a recovery key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecoveryKey {
    /// Its public area (`TPMT_PUBLIC`).
    pub(super) public: Vec<u8>,
    pub(super) name: Name,
}

impl RecoveryKey {
    /// Reads a public key on P-256 from a PEM or DER file.
    pub(super) fn read(path: &Path) -> HsmResult<Self> {
        let bytes = read(path)?;
        let der = pem(&bytes).unwrap_or(bytes);
        let point = der.strip_prefix(&P256_HEAD);
        let point = point.filter(|point| point.len() == 2 * COORDINATE_BYTES);
        let (x, y) = point
            .and_then(|point| point.split_at_checked(COORDINATE_BYTES))
            .ok_or_else(|| {
                let path = path.display();
                HsmError::Config(format!("TPM: {path} is no public key on NIST P-256"))
            })?;
        let public = signing_area(x, y);
        Ok(Self {
            name: Name::of(&public),
            public,
        })
    }
}

/// An ECDSA key that signs SHA-256 digests, and of which only the public half is loaded.
fn signing_area(x: &[u8], y: &[u8]) -> Vec<u8> {
    const SIGN: u32 = 1 << 18;
    const ECC: u16 = 0x0023;
    const NO_ALGORITHM: u16 = 0x0010;
    const NIST_P256: u16 = 0x0003;
    let mut area = Vec::with_capacity(100);
    for number in [ECC, SHA256_ID] {
        area.extend_from_slice(&number.to_be_bytes());
    }
    area.extend_from_slice(&(SIGN | super::key::USER_WITH_AUTH).to_be_bytes());
    put_sized(&mut area, &[]);
    // symmetric, scheme and its hash, curve, kdf
    for number in [NO_ALGORITHM, ECDSA, SHA256_ID, NIST_P256, NO_ALGORITHM] {
        area.extend_from_slice(&number.to_be_bytes());
    }
    put_sized(&mut area, x);
    put_sized(&mut area, y);
    area
}

const ECDSA: u16 = 0x0018;

/// `TPMT_SIGNATURE` of an ECDSA signature in DER: a sequence of two integers (RFC 3279 §2.2.3).
fn ecdsa(der: &[u8]) -> Option<Vec<u8>> {
    let (content, rest) = element(0x30, der)?;
    let (r, content) = element(0x02, content)?;
    let (s, end) = element(0x02, content)?;
    if !rest.is_empty() || !end.is_empty() {
        return None;
    }
    let mut signature = Vec::with_capacity(72);
    for number in [ECDSA, SHA256_ID] {
        signature.extend_from_slice(&number.to_be_bytes());
    }
    for integer in [r, s] {
        // A positive integer with its high bit set has a zero before it; a short one gets its zeroes back.
        let integer = integer.strip_prefix(&[0]).unwrap_or(integer);
        let zeroes = COORDINATE_BYTES.checked_sub(integer.len())?;
        put_sized(&mut signature, &[&vec![0; zeroes], integer].concat());
    }
    Some(signature)
}

/// Content of the DER element with this tag that `der` begins with, shorter than 128 bytes, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk()?;
    if found != tag || length >= 0x80 {
        return None;
    }
    rest.split_at_checked(usize::from(length))
}

/// The DER in a PEM file of a public key (RFC 7468 §13).
fn pem(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (_, text) = text.split_once("-----BEGIN PUBLIC KEY-----")?;
    let (text, _) = text.split_once("-----END PUBLIC KEY-----")?;
    let digits = text.bytes().filter(|byte| !byte.is_ascii_whitespace());
    let (mut der, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for digit in digits.take_while(|digit| *digit != b'=') {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            der.push((bits >> held).to_le_bytes()[0]);
            bits &= (1 << held) - 1;
        }
    }
    Some(der)
}

/// Bit n for PCR n.
///
/// # Errors
///
/// [`HsmError::Config`] for a PCR that no TPM has, or one that is named twice.
pub(super) fn selection(pcrs: &[u8]) -> HsmResult<u32> {
    let mut selection = 0;
    for pcr in pcrs {
        let bit = 1_u32.checked_shl(u32::from(*pcr)).unwrap_or(0);
        if *pcr >= PCRS || selection & bit != 0 {
            return Err(HsmError::Config(format!(
                "TPM: PCRs are 0 to {}, each named once",
                PCRS - 1
            )));
        }
        selection |= bit;
    }
    Ok(selection)
}

/// The PCRs of a selection, in ascending order.
pub(super) fn selected(selection: u32) -> impl Iterator<Item = u8> {
    (0..PCRS).filter(move |pcr| selection >> pcr & 1 == 1)
}

/// `4 7`
pub(super) fn list(selection: u32) -> String {
    let numbers: Vec<_> = selected(selection).map(|pcr| pcr.to_string()).collect();
    numbers.join(" ")
}

fn read(path: &Path) -> HsmResult<Vec<u8>> {
    let failed = |source: std::io::Error| HsmError::Unavailable {
        reason: format!("{} cannot be read", path.display()),
        source: Some(source.into()),
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
    let file = File::open(path).map_err(failed)?;
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{PcrPolicy, RecoveryKey, Signed, ecdsa, pem, selection};

    #[test]
    fn a_signed_policy_reads_back_and_half_of_one_does_not() {
        let policy = PcrPolicy::new(&[4, 7], [9; 32]).expect("PCRs");
        let der = [0x30, 6, 2, 1, 5, 2, 1, 6];
        let text = policy.signed(&der);
        let back = Signed::parse(&text).expect("reads");
        assert_eq!(back.policy, policy);
        assert_eq!(back.signature.len(), 4 + 2 * 34);
        // All but the last line end counts.
        for length in 0..text.len() - 1 {
            assert!(Signed::parse(&text[..length]).is_none(), "{length}");
        }
        assert!(Signed::parse(&format!("{text}more\n")).is_none());
    }

    #[test]
    fn pcrs_are_0_to_23_each_once() {
        assert_eq!(selection(&[0, 23]).expect("PCRs"), 0x80_0001);
        for pcrs in [&[24][..], &[200], &[7, 7]] {
            assert!(selection(pcrs).is_err(), "{pcrs:?}");
        }
        assert!(PcrPolicy::new(&[], [0; 32]).is_err());
    }

    #[test]
    fn a_signature_is_two_integers_and_no_more() {
        for der in [
            &b""[..],
            &[0x30],
            &[0x30, 3, 2, 1, 5],
            &[0x30, 6, 2, 1, 5, 2, 1, 6, 0],
            &[0x30, 0x81, 6, 2, 1, 5, 2, 1, 6],
            &[&[0x30, 38, 2, 33][..], &[1; 33], &[2, 1, 6]].concat(),
        ] {
            assert!(ecdsa(der).is_none(), "{der:?}");
        }
    }

    #[test]
    fn pem_is_base64_between_its_lines() {
        let wrapped = |text: &str| {
            format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n").into_bytes()
        };
        assert_eq!(
            pem(&wrapped("c3Ryb25n\ncm9vbQ==")).as_deref(),
            Some(&b"strongroom"[..])
        );
        assert_eq!(pem(&wrapped("c3Ry!")), None);
        assert_eq!(pem(b"strongroom"), None);
    }

    #[test]
    fn a_public_key_of_openssl_is_read() {
        let text = "-----BEGIN PUBLIC KEY-----\n\
            MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAELgglNJwb/+VRDum2r6ZLR/AADtKR\n\
            vZX8pUL6FrYpJ9gOTPqk7nwnBW8qdvwHLsz3kxjKv0agI9UGV9+1x6JiWA==\n\
            -----END PUBLIC KEY-----\n";
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("key.pem");
        std::fs::write(&file, text).expect("writes");
        let key = RecoveryKey::read(&file).expect("reads");
        let x = "2e0825349c1bffe5510ee9b6afa64b47f0000ed291bd95fca542fa16b62927d8";
        assert!(hex::encode(&key.public).contains(x), "{key:?}");
        std::fs::write(&file, &text[..100]).expect("writes");
        assert!(RecoveryKey::read(&file).is_err());
    }
}
