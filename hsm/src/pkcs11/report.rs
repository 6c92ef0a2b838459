//! What a token is, can do and holds, found out for its operator.

use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Version;

use super::error::{device, failed};
use super::import::IMPORTED_SUFFIX;
use super::key::{self, Objects, Past, Role};
use super::opened::Opened;
use super::probe::{Abilities, Subject};
use super::raw::{
    CK_MECHANISM_TYPE, CKM_AES_CBC_PAD, CKM_AES_GCM, CKM_AES_KEY_GEN, CKM_AES_KEY_WRAP_KWP,
    CKM_AES_KEY_WRAP_PAD, CKM_GENERIC_SECRET_KEY_GEN, CKM_SHA256_HMAC, CKR_MECHANISM_INVALID,
};
use super::scheme::Dialect;
use super::tool;
use crate::{BackingKeyId, Fact, HsmResult, ImportWrapping, Report, RsaSize, ToolSpec, WrapScheme};

/// The most keys whose attributes are reported.
const KEYS_MAX: usize = 10_000;

/// Reports on the token of this session. `forced` is the scheme that the configuration names.
pub(super) fn report(
    opened: &Opened,
    abilities: &Abilities,
    forced: Option<WrapScheme>,
) -> HsmResult<Report> {
    let mut writer = Writer {
        opened,
        abilities,
        report: Report::default(),
    };
    writer.library()?;
    writer.token()?;
    writer.schemes(forced);
    writer.dangers();
    writer.mechanisms()?;
    // Last, for there may be more of them than a report takes.
    writer.keys()?;
    Ok(writer.report)
}

struct Writer<'a> {
    opened: &'a Opened,
    abilities: &'a Abilities,
    report: Report,
}

impl Writer<'_> {
    fn fact(&mut self, subject: &str, name: &str, value: impl Into<String>) {
        self.report.facts.push(Fact {
            subject: subject.into(),
            name: name.into(),
            value: value.into(),
        });
    }

    fn library(&mut self) -> HsmResult<()> {
        let info = self.opened.context().get_library_info();
        let info = info.map_err(device("C_GetInfo"))?;
        let number = |version: Version| format!("{}.{}", version.major(), version.minor());
        self.fact("library", "description", info.library_description());
        self.fact("library", "version", number(info.library_version()));
        self.fact("library", "maker", info.manufacturer_id());
        self.fact(
            "library",
            "cryptoki version",
            number(info.cryptoki_version()),
        );
        let speaks_3 = self.opened.calls().speaks_3();
        let interface = if speaks_3 { "present" } else { "absent" };
        self.fact("library", "interface of v3.0", interface);
        let slots = self.opened.context().get_slots_with_token();
        for slot in slots.map_err(device("C_GetSlotList"))? {
            let token = match self.opened.calls().token_info(slot) {
                Ok(token) if token.initialized() => {
                    format!("token {}, serial number {}", token.label, token.serial)
                }
                Ok(_) => "a token that is not initialised".into(),
                Err(failed) => failed.to_string(),
            };
            self.fact("slot", &slot.id().to_string(), token);
        }
        Ok(())
    }

    fn token(&mut self) -> HsmResult<()> {
        let token = self.opened.calls().token_info(self.opened.slot());
        let token = token.map_err(failed)?;
        let flags = token.flag_names().join(" ");
        self.fact("token", "label", token.label);
        self.fact("token", "serial number", token.serial);
        self.fact("token", "maker", token.manufacturer);
        self.fact("token", "model", token.model);
        let (major, minor) = token.firmware;
        self.fact("token", "firmware", format!("{major}.{minor}"));
        self.fact("token", "flags", flags);
        let [shortest, longest] = token.pin_bytes;
        let longest = Some(longest).filter(|longest| *longest != 0);
        let longest = longest.map_or("no limit told".into(), |longest| {
            format!("at most {longest}")
        });
        let lengths = format!("bytes: at least {shortest}; {longest}");
        self.fact("token", "PIN", lengths);
        for (name, [now, most]) in [
            ("sessions", token.sessions),
            ("read-write sessions", token.rw_sessions),
        ] {
            let now = now.map_or("not told".into(), |now| now.to_string());
            let most = most.map_or("no limit told".into(), |most| format!("at most {most}"));
            self.fact("token", name, format!("open now: {now}; {most}"));
        }
        let random = self.opened.raw()?.generate_random_slice(&mut [0; 32]);
        let random = random.map_or_else(|error| format!("fails: {error}"), |()| "works".into());
        self.fact("token", "random bytes", random);
        Ok(())
    }

    fn schemes(&mut self, forced: Option<WrapScheme>) {
        for (scheme, result) in &self.abilities.schemes {
            let works = result.as_ref().map_or_else(
                |reason| format!("does not work: {reason}"),
                |()| "works".into(),
            );
            self.fact("scheme", scheme.name(), works);
        }
        let chosen = match (forced, self.abilities.scheme()) {
            (Some(scheme), _) => format!("{}, by configuration", scheme.name()),
            (None, Ok(scheme)) => scheme.name().to_owned(),
            (None, Err(_)) => "none".into(),
        };
        self.fact("scheme", "of new keys", chosen);
    }

    fn mechanisms(&mut self) -> HsmResult<()> {
        let library = self.opened.library();
        let _changing = library.changing()?;
        let subject = Subject {
            raw: self.opened.calls(),
            context: self.opened.context(),
            slot: self.opened.slot(),
        };
        let wrap = |kwp| {
            let dialect = Dialect {
                kwp,
                ..self.abilities.dialect
            };
            subject.try_scheme(WrapScheme::AesKwp, dialect)
        };
        let gcm = self.abilities.gcm_scheme().map(|_scheme| ());
        let tried: [(&str, CK_MECHANISM_TYPE, Result<(), String>); 7] = [
            (
                "CKM_AES_KEY_GEN",
                CKM_AES_KEY_GEN,
                subject.try_generating(Role::Cipher),
            ),
            (
                "CKM_AES_GCM",
                CKM_AES_GCM,
                gcm.or_else(|_none| self.why_not(WrapScheme::AesGcm)),
            ),
            (
                "CKM_AES_KEY_WRAP_KWP",
                CKM_AES_KEY_WRAP_KWP,
                wrap(CKM_AES_KEY_WRAP_KWP),
            ),
            (
                "CKM_AES_KEY_WRAP_PAD",
                CKM_AES_KEY_WRAP_PAD,
                wrap(CKM_AES_KEY_WRAP_PAD),
            ),
            ("CKM_AES_CBC_PAD", CKM_AES_CBC_PAD, subject.try_cbc()),
            (
                "CKM_GENERIC_SECRET_KEY_GEN",
                CKM_GENERIC_SECRET_KEY_GEN,
                subject.try_generating(Role::Mac),
            ),
            ("CKM_SHA256_HMAC", CKM_SHA256_HMAC, subject.try_mac()),
        ];
        for (name, mechanism, result) in tried {
            let listed = match subject.raw.mechanism_flags(subject.slot, mechanism) {
                Ok(_) => Some(true),
                Err(failed) if failed.rv == CKR_MECHANISM_INVALID => Some(false),
                Err(_) => None,
            };
            let value = match (result, listed) {
                (Ok(()), Some(true) | None) => "works".into(),
                (Ok(()), Some(false)) => "works, though not listed".into(),
                (Err(_), Some(false)) => "not listed".into(),
                (Err(reason), Some(true)) => format!("listed, fails: {reason}"),
                (Err(reason), None) => format!("fails: {reason}"),
            };
            self.fact("mechanism", name, value);
        }
        // What a small pair can do, a large one can: it is a matter of time.
        let small =
            ImportWrapping::ALL.map(|wrapping| ToolSpec::Unwrap(RsaSize::Bits2048, wrapping));
        let signers = ToolSpec::SIGNERS;
        for spec in ToolSpec::MACS.into_iter().chain(signers).chain(small) {
            let works = subject.try_tool(spec, self.abilities.dialect).map_or_else(
                |reason| format!("does not work: {reason}"),
                |()| "works".into(),
            );
            self.fact("tool", spec.name(), works);
        }
        Ok(())
    }

    fn why_not(&self, scheme: WrapScheme) -> Result<(), String> {
        let found = self.abilities.schemes.iter().find(|(of, _)| *of == scheme);
        found.map_or(Ok(()), |(_, result)| result.clone())
    }

    fn keys(&mut self) -> HsmResult<()> {
        let library = self.opened.library();
        let _looking = library.looking()?;
        let session = self.opened.raw()?;
        let ids = key::list(session)?;
        self.opened.see_token()?;
        self.fact("token", "backing keys", ids.len().to_string());
        for id in ids.iter().take(KEYS_MAX) {
            self.key(session, id);
        }
        if ids.len() > KEYS_MAX {
            let more = (ids.len() - KEYS_MAX).to_string();
            self.fact("token", "backing keys that are not reported", more);
        }
        Ok(())
    }

    /// The attributes of a key's objects, and why it would be refused. Its scheme is in its canary, which is not here:
    /// judged is by what its objects are made for.
    fn key(&mut self, session: &Session, id: &BackingKeyId) {
        if let Some((private, spec)) = tool::private_half(session, id) {
            let value = attributes(session, private)
                .unwrap_or_else(|error| format!("does not tell its attributes: {error}"));
            self.fact("key", &format!("{id} (private key)"), value);
            if let Err(error) = tool::find(session, id, spec, Past::Required) {
                self.report.dangers.push(error.to_string());
            }
            return;
        }
        let objects = match Objects::find(session, id) {
            Ok(objects) => objects,
            Err(error) => {
                self.report.dangers.push(error.to_string());
                return;
            }
        };
        // A generic secret alone is half a pair, whose label says so, or a tool.
        if let (None, Some(mac)) = (objects.aes, objects.mac)
            && let Some(spec) = tool::spec_of(session, mac)
        {
            let value = attributes(session, mac)
                .unwrap_or_else(|error| format!("does not tell its attributes: {error}"));
            self.fact("key", &format!("{id} ({})", spec.name()), value);
            if let Err(error) = tool::find(session, id, spec, Past::Required) {
                self.report.dangers.push(error.to_string());
            }
            return;
        }
        for (object, suffix) in [(objects.aes, ""), (objects.mac, " (MAC)")] {
            if let Some(object) = object {
                let value = attributes(session, object)
                    .unwrap_or_else(|error| format!("does not tell its attributes: {error}"));
                self.fact("key", &format!("{id}{suffix}"), value);
            }
        }
        let scheme = match objects.aes.map(|aes| key::is_wrapper(session, aes)) {
            _ if objects.mac.is_some() => WrapScheme::AesCbcHmac,
            Some(Ok(true)) => WrapScheme::AesKwp,
            Some(Err(error)) => {
                self.report
                    .dangers
                    .push(format!("backing key {id}: {error}"));
                return;
            }
            _ => WrapScheme::AesGcm,
        };
        // Where it has been is in its record, which is not here; its label says so for people.
        let imported = objects
            .aes
            .is_some_and(|aes| key::is_labelled(session, aes, IMPORTED_SUFFIX));
        let past = if imported {
            self.fact("key", &format!("{id} origin"), "imported");
            Past::Imported
        } else {
            Past::Required
        };
        if let Err(error) = objects.judged(session, id, scheme, past) {
            self.report.dangers.push(error.to_string());
        }
    }

    fn dangers(&mut self) {
        match &self.abilities.untried {
            Some(reason) => {
                let value = format!("could not be tried: {reason}");
                self.fact("token", "getting a key out", value);
            }
            None if self.abilities.dangers.is_empty() => {
                self.fact("token", "getting a key out", "tried, and refused");
            }
            None => self.fact("token", "getting a key out", "possible: see dangers"),
        }
        self.report.dangers.extend(self.abilities.warnings());
    }
}

/// What counts of an object's attributes, in one line.
fn attributes(session: &Session, object: ObjectHandle) -> cryptoki::error::Result<String> {
    let kinds = [
        ("SENSITIVE", AttributeType::Sensitive),
        ("EXTRACTABLE", AttributeType::Extractable),
        ("ALWAYS_SENSITIVE", AttributeType::AlwaysSensitive),
        ("NEVER_EXTRACTABLE", AttributeType::NeverExtractable),
        ("LOCAL", AttributeType::Local),
        ("MODIFIABLE", AttributeType::Modifiable),
    ];
    let uses = [
        ("ENCRYPT", AttributeType::Encrypt),
        ("DECRYPT", AttributeType::Decrypt),
        ("WRAP", AttributeType::Wrap),
        ("UNWRAP", AttributeType::Unwrap),
        ("SIGN", AttributeType::Sign),
        ("VERIFY", AttributeType::Verify),
        ("DERIVE", AttributeType::Derive),
    ];
    let asked: Vec<_> = kinds.iter().chain(&uses).map(|(_, kind)| *kind).collect();
    let told = session.get_attributes(object, &asked)?;
    let is = |kind: AttributeType| {
        let found = told
            .iter()
            .find(|attribute| attribute.attribute_type() == kind);
        match found? {
            Attribute::Sensitive(is)
            | Attribute::Extractable(is)
            | Attribute::AlwaysSensitive(is)
            | Attribute::NeverExtractable(is)
            | Attribute::Local(is)
            | Attribute::Modifiable(is)
            | Attribute::Encrypt(is)
            | Attribute::Decrypt(is)
            | Attribute::Wrap(is)
            | Attribute::Unwrap(is)
            | Attribute::Sign(is)
            | Attribute::Verify(is)
            | Attribute::Derive(is) => Some(*is),
            _ => None,
        }
    };
    let mut parts: Vec<String> = Vec::new();
    for (name, kind) in kinds {
        let value = is(kind).map_or("not told".into(), |is| is.to_string());
        parts.push(format!("{name}={value}"));
    }
    let uses = uses.iter().filter(|(_, kind)| is(*kind) == Some(true));
    let uses: Vec<_> = uses.map(|(name, _)| *name).collect();
    parts.push(format!("usage={}", uses.join("+")));
    Ok(parts.join(" "))
}
