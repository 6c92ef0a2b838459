//! Members that many requests share, and the constraints on them, in AWS's words.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::de::{Error as _, IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer, Serializer};
use zeroize::Zeroizing;

use crate::kms::{EncryptionContext, KeyRef, KmsError, Timestamp};

/// Length of a key material id.
const MATERIAL_ID_CHARS: usize = 64;
const MARKER_CHARS_MAX: usize = 1024;
const GRANT_TOKENS_MAX: usize = 10;
const IGNORE_CIPHERTEXT: &str = "IGNORE_CIPHERTEXT";
/// The most items of a page that a caller may ask for.
const PAGE_ITEMS_MAX: i64 = 1000;

const ENCRYPTION_ALGORITHMS: [&str; 4] = [
    "SYMMETRIC_DEFAULT",
    "RSAES_OAEP_SHA_1",
    "RSAES_OAEP_SHA_256",
    "SM2PKE",
];
/// The one algorithm of the keys here.
pub(super) const SYMMETRIC_DEFAULT: &str = "SYMMETRIC_DEFAULT";

/// Collects what the constraints of a request find.
#[derive(Debug, Default)]
pub(super) struct Constraints(Vec<String>);

impl Constraints {
    /// The member must be there.
    pub(super) fn required<T>(&mut self, member: &str, value: Option<&T>) {
        if value.is_none() {
            self.fail("Value null", member, "Member must not be null");
        }
    }

    /// A string's length in characters.
    pub(super) fn chars(&mut self, member: &str, value: Option<&str>, min: usize, max: usize) {
        if let Some(text) = value {
            self.length(
                &format!("Value '{text}'"),
                member,
                text.chars().count(),
                min,
                max,
            );
        }
    }

    /// A string's length in characters, of a string too long to repeat.
    pub(super) fn long_chars(&mut self, member: &str, value: Option<&str>, min: usize, max: usize) {
        if let Some(text) = value {
            self.length("Value", member, text.chars().count(), min, max);
        }
    }

    /// A blob's length. Its value is not repeated: it may be plaintext.
    pub(super) fn blob(&mut self, member: &str, value: Option<&Blob>, min: usize, max: usize) {
        if let Some(Blob(bytes)) = value {
            self.length("Value", member, bytes.len(), min, max);
        }
    }

    /// A number's bounds.
    pub(super) fn number(&mut self, member: &str, value: Option<i64>, min: i64, max: i64) {
        let Some(number) = value else { return };
        let constraint = match number {
            _ if number < min => format!("greater than or equal to {min}"),
            _ if number > max => format!("less than or equal to {max}"),
            _ => return,
        };
        self.fail(
            &format!("Value '{number}'"),
            member,
            &format!("Member must have value {constraint}"),
        );
    }

    /// One of a set.
    pub(super) fn one_of(&mut self, member: &str, value: Option<&str>, set: &[&str]) {
        if let Some(text) = value.filter(|text| !set.contains(text)) {
            let constraint = format!("Member must satisfy enum value set: [{}]", set.join(", "));
            self.fail(&format!("Value '{text}'"), member, &constraint);
        }
    }

    /// A pattern, checked by the caller.
    pub(super) fn pattern(&mut self, member: &str, holds: bool, pattern: &str) {
        if !holds {
            self.fail(
                "Value",
                member,
                &format!("Member must satisfy regular expression pattern: {pattern}"),
            );
        }
    }

    /// A reference to a key that must be there.
    pub(super) fn key_id(&mut self, member: &str, value: Option<&String>) {
        self.required(member, value);
        self.key_id_if_any(member, value);
    }

    /// A reference to a key.
    pub(super) fn key_id_if_any(&mut self, member: &str, value: Option<&String>) {
        self.chars(member, value.map(String::as_str), 1, KeyRef::CHARS_MAX);
    }

    /// The id of a key material.
    pub(super) fn material_id(&mut self, member: &str, value: Option<&str>) {
        self.chars(member, value, MATERIAL_ID_CHARS, MATERIAL_ID_CHARS);
        let is_fit = |c: char| matches!(c, 'a'..='f' | '0'..='9');
        self.pattern(
            member,
            value.is_none_or(|text| text.chars().all(is_fit)),
            "^[a-f0-9]+$",
        );
    }

    /// An encryption algorithm.
    pub(super) fn algorithm(&mut self, member: &str, value: Option<&String>) {
        self.one_of(member, value.map(String::as_str), &ENCRYPTION_ALGORITHMS);
    }

    /// The members of paging.
    pub(super) fn paging(&mut self, paging: &Paging) {
        self.number("limit", paging.limit, 1, PAGE_ITEMS_MAX);
        self.chars("marker", paging.marker.as_deref(), 1, MARKER_CHARS_MAX);
    }

    fn length(&mut self, value: &str, member: &str, length: usize, min: usize, max: usize) {
        if length < min {
            self.fail(
                value,
                member,
                &format!("Member must have length greater than or equal to {min}"),
            );
        } else if length > max {
            self.fail(
                value,
                member,
                &format!("Member must have length less than or equal to {max}"),
            );
        }
    }

    fn fail(&mut self, value: &str, member: &str, constraint: &str) {
        self.0.push(format!(
            "{value} at '{member}' failed to satisfy constraint: {constraint}"
        ));
    }

    /// Says what was found.
    pub(super) fn finish(self) -> Result<(), KmsError> {
        let Self(found) = self;
        let errors = match found.len() {
            0 => return Ok(()),
            1 => "1 validation error".to_owned(),
            many => format!("{many} validation errors"),
        };
        Err(KmsError::Validation(format!(
            "{errors} detected: {}",
            found.join("; ")
        )))
    }
}

/// A member that [`Constraints::required`] has seen.
pub(super) fn there<T>(value: Option<T>) -> Result<T, KmsError> {
    value.ok_or_else(|| KmsError::Validation("a member is missing".to_owned()))
}

/// Binary data: base64 in JSON. Zeroed when it is done with.
pub(super) struct Blob(pub(super) Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Base64;
        impl Visitor<'_> for Base64 {
            type Value = Blob;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Blob, E> {
                // The error would repeat the offending byte, which may be plaintext.
                let bytes = STANDARD
                    .decode(text)
                    .map_err(|_byte| E::custom("not base64"))?;
                Ok(Blob(Zeroizing::new(bytes)))
            }
        }
        deserializer.deserialize_str(Base64)
    }
}

/// Writes bytes as a blob.
pub(super) fn blob<S: Serializer>(
    bytes: &impl AsRef<[u8]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = Zeroizing::new(STANDARD.encode(bytes));
    serializer.serialize_str(&text)
}

/// Writes a time as the wire has it: seconds since 1970 with a fraction.
#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds are exact in an f64 for 285,000 years"
)]
pub(super) fn seconds(time: Timestamp) -> f64 {
    time.millis() as f64 / 1000.0
}

/// Reads a time as the wire has it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "far beyond any date, and `as` stops at the ends of an i64"
)]
pub(super) fn time(seconds: f64) -> Result<Timestamp, KmsError> {
    if !seconds.is_finite() {
        return Err(KmsError::Validation("a time is no number".to_owned()));
    }
    Ok(Timestamp::from_millis((seconds * 1000.0) as i64))
}

/// An encryption context as it comes.
#[derive(Debug, Default)]
pub(super) struct ContextMember(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for ContextMember {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A serde error would name the offending value.
        BTreeMap::deserialize(deserializer)
            .map(Self)
            .map_err(|_value| D::Error::custom("not a map of strings"))
    }
}

/// The context of a member that may be missing.
pub(super) fn context(member: Option<ContextMember>) -> Result<EncryptionContext, KmsError> {
    EncryptionContext::from_map(member.unwrap_or_default().0)
}

/// Members that are known and cannot be honoured, and those that change little.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Unhonoured {
    pub(super) grant_tokens: Option<GrantTokens>,
    recipient: Option<IgnoredAny>,
    dry_run_modifiers: Option<Vec<String>>,
    custom_key_store_id: Option<String>,
    xks_key_id: Option<String>,
}

impl Unhonoured {
    /// Refuses those that are there.
    pub(super) fn refuse(&self) -> Result<(), KmsError> {
        let there = [
            ("Recipient", self.recipient.is_some()),
            ("CustomKeyStoreId", self.custom_key_store_id.is_some()),
            ("XksKeyId", self.xks_key_id.is_some()),
        ];
        match there.iter().find(|(_, is_there)| *is_there) {
            Some((member, _)) => Err(KmsError::Unsupported(format!("{member} is not supported"))),
            None => Ok(()),
        }
    }

    /// Whether a dry run is only to ask whether the caller may.
    pub(super) fn ignores_ciphertext(&self, dry_run: Option<bool>) -> Result<bool, KmsError> {
        let modifiers = self.dry_run_modifiers.as_deref().unwrap_or_default();
        if let Some(other) = modifiers.iter().find(|one| *one != IGNORE_CIPHERTEXT) {
            let mut constraints = Constraints::default();
            constraints.one_of("dryRunModifiers", Some(other), &[IGNORE_CIPHERTEXT]);
            constraints.finish()?;
        }
        Ok(dry_run == Some(true) && !modifiers.is_empty())
    }
}

/// Tokens of grants, as they come.
#[derive(Debug, Deserialize)]
pub(super) struct GrantTokens(Vec<String>);

impl GrantTokens {
    /// The tokens, if they are not too many.
    pub(super) fn checked(&self) -> Result<&[String], KmsError> {
        let Self(tokens) = self;
        if tokens.len() > GRANT_TOKENS_MAX {
            return Err(KmsError::Validation(format!(
                "1 validation error detected: Value at 'grantTokens' failed to satisfy constraint: Member must have \
                 length less than or equal to {GRANT_TOKENS_MAX}"
            )));
        }
        Ok(tokens)
    }
}

/// Refuses an algorithm that keys here do not have.
pub(super) fn refuse_algorithm(value: Option<&String>) -> Result<(), KmsError> {
    match value {
        Some(algorithm) if algorithm != SYMMETRIC_DEFAULT => {
            Err(KmsError::InvalidKeyUsage(format!(
                "The algorithm {algorithm} is incompatible with the key spec {SYMMETRIC_DEFAULT}."
            )))
        }
        _ => Ok(()),
    }
}

/// The members of paging.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Paging {
    limit: Option<i64>,
    marker: Option<String>,
}

impl Paging {
    /// How many items to answer, at most `max`.
    pub(super) fn limit(&self, default: usize, max: usize) -> usize {
        let asked = self.limit.and_then(|limit| usize::try_from(limit).ok());
        asked.unwrap_or(default).min(max)
    }

    /// After what to go on; `list` names the list, so that no marker passes for another list's.
    pub(super) fn after<C>(
        &self,
        list: &str,
        parse: impl Fn(&str) -> Option<C>,
    ) -> Result<Option<C>, KmsError> {
        let Some(marker) = &self.marker else {
            return Ok(None);
        };
        let cursor = URL_SAFE_NO_PAD
            .decode(marker)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let cursor = cursor
            .as_deref()
            .and_then(|text| text.strip_prefix(list)?.strip_prefix('\n'));
        cursor
            .and_then(parse)
            .map(Some)
            .ok_or(KmsError::InvalidMarker)
    }
}

/// The marker of a list that goes on after `cursor`.
pub(super) fn marker(list: &str, cursor: &impl ToString) -> String {
    URL_SAFE_NO_PAD.encode(format!("{list}\n{}", cursor.to_string()))
}

#[cfg(test)]
mod tests {
    use super::{Blob, Constraints, Paging, marker};
    use crate::kms::KmsError;

    #[test]
    fn constraints_are_worded_as_recorded() {
        let mut constraints = Constraints::default();
        constraints.number("numberOfBytes", Some(0), 1, 1024);
        assert_eq!(
            constraints.finish().expect_err("too small").to_string(),
            "1 validation error detected: Value '0' at 'numberOfBytes' failed to satisfy constraint: Member must have \
             value greater than or equal to 1"
        );
    }

    #[test]
    fn several_constraints_are_told_at_once() {
        let mut constraints = Constraints::default();
        constraints.key_id("keyId", None);
        constraints.number("limit", Some(1001), 1, 1000);
        let message = constraints.finish().expect_err("two").to_string();
        assert!(
            message.starts_with("2 validation errors detected: Value null at 'keyId'"),
            "{message}"
        );
    }

    #[test]
    fn a_marker_of_another_list_is_invalid() {
        let paging = Paging {
            limit: None,
            marker: Some(marker("keys", &"x")),
        };
        let parse = |text: &str| Some(text.to_owned());
        assert_eq!(
            paging.after("keys", parse).expect("its own list"),
            Some("x".to_owned())
        );
        assert!(matches!(
            paging.after("aliases", parse),
            Err(KmsError::InvalidMarker)
        ));
        let garbage = Paging {
            limit: None,
            marker: Some("!".to_owned()),
        };
        assert!(matches!(
            garbage.after("keys", parse),
            Err(KmsError::InvalidMarker)
        ));
    }

    #[test]
    fn a_blob_that_is_not_base64_is_refused_without_being_repeated() {
        let error = serde_json::from_str::<Blob>("\"secret!\"")
            .expect_err("not base64")
            .to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
