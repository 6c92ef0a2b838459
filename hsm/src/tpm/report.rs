//! What a TPM is, can do and holds, for its operator.

use super::config::Settings;
use super::connection::Connection;
use super::error::Fault;
use super::key::primary_template;
use super::nv;
use crate::{Fact, HsmError, HsmResult, Report, TokenInfo};

/// Fixed properties (`TPM_PT`, Part 2 §6.13).
const FIXED: u32 = 0x100;
const FAMILY: u32 = FIXED;
const REVISION: u32 = FIXED + 2;
const MANUFACTURER: u32 = FIXED + 5;
const VENDOR: [u32; 4] = [FIXED + 6, FIXED + 7, FIXED + 8, FIXED + 9];
const FIRMWARE: [u32; 2] = [FIXED + 11, FIXED + 12];
const OBJECTS_MIN: u32 = FIXED + 14;
const PERSISTENT_MIN: u32 = FIXED + 15;
const SESSIONS_MIN: u32 = FIXED + 16;
const NV_COUNTERS_MAX: u32 = FIXED + 22;
/// Variable properties.
const VARIABLE: u32 = 0x200;
const PERMANENT: u32 = VARIABLE;
const NV_INDICES: u32 = VARIABLE + 2;
const OBJECTS_FREE: u32 = VARIABLE + 7;
const SESSIONS_FREE: u32 = VARIABLE + 4;
const PERSISTENT: u32 = VARIABLE + 8;
const PERSISTENT_FREE: u32 = VARIABLE + 9;
const NV_COUNTERS: u32 = VARIABLE + 10;
const NV_COUNTERS_FREE: u32 = VARIABLE + 11;
const LOCKOUT_COUNTER: u32 = VARIABLE + 14;
const LOCKOUT_MAX: u32 = VARIABLE + 15;
const LOCKOUT_INTERVAL: u32 = VARIABLE + 16;
const LOCKOUT_RECOVERY: u32 = VARIABLE + 17;

/// Bits of `TPM_PT_PERMANENT`.
const OWNER_AUTH_SET: u32 = 1;
const IN_LOCKOUT: u32 = 1 << 9;

/// More than there are in a group.
const PROPERTIES_MAX: u32 = 64;

/// Properties of a TPM by their tags.
struct Properties(Vec<(u32, u32)>);

impl Properties {
    fn of(connection: &mut Connection) -> Result<Self, Fault> {
        let mut all = connection.esys.properties(FIXED, PROPERTIES_MAX)?;
        all.extend(connection.esys.properties(VARIABLE, PROPERTIES_MAX)?);
        Ok(Self(all))
    }

    fn value(&self, tag: u32) -> Option<u32> {
        let found = self.0.iter().find(|(known, _)| *known == tag);
        found.map(|(_, value)| *value)
    }

    /// A number, or that the TPM does not tell.
    fn number(&self, tag: u32) -> String {
        self.value(tag)
            .map_or_else(|| "not told".into(), |value| value.to_string())
    }

    /// The characters that the values of `tags` are made of.
    fn text(&self, tags: &[u32]) -> String {
        let bytes = tags
            .iter()
            .filter_map(|tag| self.value(*tag))
            .flat_map(u32::to_be_bytes);
        let text: String = bytes
            .filter(|byte| byte.is_ascii_graphic() || *byte == b' ')
            .map(char::from)
            .collect();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn firmware(&self) -> String {
        let numbers: Vec<_> = FIRMWARE
            .iter()
            .filter_map(|tag| self.value(*tag))
            .map(|number| format!("{}.{}", number >> 16, number & 0xFFFF))
            .collect();
        numbers.join(".")
    }

    fn has(&self, bit: u32) -> bool {
        self.value(PERMANENT)
            .is_some_and(|permanent| permanent & bit != 0)
    }
}

pub(super) fn info(connection: &mut Connection, tcti: &str) -> HsmResult<TokenInfo> {
    let properties = Properties::of(connection)?;
    let name = connection.primary_name().to_hex();
    // Behind the algorithm's number: 64 bits, which tell TPMs, primaries of either key length, and the hierarchies before
    // and after a clear apart. Records name tokens by it: it does not change.
    let serial = name.get(4..20).unwrap_or(&name).to_owned();
    let maker = properties.text(&[MANUFACTURER]);
    Ok(TokenInfo {
        backend: "tpm",
        module: format!("TCG TSS 2.0 ESAPI, {tcti}"),
        label: format!("{maker}-{serial}"),
        serial,
        model: format!(
            "{maker} {} firmware {}",
            properties.text(&VENDOR),
            properties.firmware()
        ),
    })
}

/// Describes the TPM behind `connection`.
pub(super) fn report(connection: &mut Connection, settings: &Settings) -> HsmResult<Report> {
    let properties = Properties::of(connection)?;
    let mut facts = Vec::new();
    let mut fact = |subject: &str, name: &str, value: String| {
        facts.push(Fact {
            subject: subject.into(),
            name: name.into(),
            value,
        });
    };
    let number = |tag| properties.number(tag);
    fact("token", "manufacturer", properties.text(&[MANUFACTURER]));
    fact("token", "model", properties.text(&VENDOR));
    fact("token", "firmware", properties.firmware());
    let revision = properties.value(REVISION).unwrap_or_default();
    let (whole, hundredths) = (revision / 100, revision % 100);
    fact(
        "token",
        "specification",
        format!(
            "{} revision {whole}.{hundredths:02}",
            properties.text(&[FAMILY])
        ),
    );
    for bits in [128, 256] {
        let takes = connection.esys.takes(&primary_template(bits))?;
        let name = format!("ECC P-256 parent with AES-{bits} CFB and SHA-256");
        fact("algorithm", &name, yes_no(takes));
    }
    let in_use = format!("AES-{}", connection.bits());
    fact("algorithm", "of primary and new keys", in_use);
    let name = connection.primary_name().to_hex();
    let pinned = if settings.primary_name.is_some() {
        "yes".into()
    } else {
        format!(
            "no: another TPM would be given new keys. To pin this one: primary_name = \"{name}\""
        )
    };
    fact("primary", "name", name);
    fact("primary", "pinned", pinned);
    let owner = if properties.has(OWNER_AUTH_SET) {
        "set"
    } else {
        "empty: whoever reaches the TPM can destroy keys, and keep a sealed object that is loaded \
         (TPM2_EvictControl)"
    };
    fact("owner", "authorisation value", owner.into());
    fact("lockout", "in lockout", yes_no(properties.has(IN_LOCKOUT)));
    let failures = format!("{} of {}", number(LOCKOUT_COUNTER), number(LOCKOUT_MAX));
    fact("lockout", "failures", failures);
    let seconds = |tag| format!("{} s", number(tag));
    fact(
        "lockout",
        "one is forgiven after",
        seconds(LOCKOUT_INTERVAL),
    );
    fact(
        "lockout",
        "lockoutAuth usable again after",
        seconds(LOCKOUT_RECOVERY),
    );
    let ours = connection.counters()?.len();
    let range = format!("{ours} of {:#010x} to {:#010x}", nv::FIRST, nv::LAST);
    fact("nv", "counters of keys", range);
    fact("nv", "indices in all", number(NV_INDICES));
    let counters = |tag| match properties.value(tag) {
        // Part 2 §6.13: zero where the number is limited by memory only.
        Some(0) if tag == NV_COUNTERS_MAX => "as memory allows".into(),
        _ => number(tag),
    };
    fact("nv", "counters in all", number(NV_COUNTERS));
    fact("nv", "counters at most", counters(NV_COUNTERS_MAX));
    fact("nv", "counters that still fit", number(NV_COUNTERS_FREE));
    // The number is an estimate (Part 2 §6.13).
    let fits = connection.counter_fits()?;
    let mut dangers = Vec::new();
    let new_keys = match (fits, settings.require_nv) {
        (true, _) => "get a counter",
        (false, true) => "are refused: no counter fits, and require_nv wants one",
        (false, false) => {
            dangers.push(
                "no NV space is left: the destruction of new keys would not be final".to_owned(),
            );
            "get no counter: none fits"
        }
    };
    fact("nv", "new keys", new_keys.into());
    slots(connection, &properties, &mut fact)?;
    Ok(Report { facts, dangers })
}

/// What the TPM has loaded, and has room for.
fn slots(
    connection: &mut Connection,
    properties: &Properties,
    fact: &mut impl FnMut(&str, &str, String),
) -> HsmResult<()> {
    let number = |tag| properties.number(tag);
    let (objects, sessions) = connection.loaded()?;
    fact("slots", "transient objects in use", objects.to_string());
    fact(
        "slots",
        "transient objects that still fit",
        number(OBJECTS_FREE),
    );
    fact("slots", "transient objects at least", number(OBJECTS_MIN));
    fact("slots", "sessions in use", sessions.to_string());
    fact("slots", "sessions that still fit", number(SESSIONS_FREE));
    fact("slots", "sessions at least", number(SESSIONS_MIN));
    fact("slots", "persistent objects in use", number(PERSISTENT));
    fact(
        "slots",
        "persistent objects that still fit",
        number(PERSISTENT_FREE),
    );
    fact(
        "slots",
        "persistent objects at least",
        number(PERSISTENT_MIN),
    );
    Ok(())
}

/// The report on a TPM whose keys must not be used: why, if that is it.
pub(super) fn of_unsafe(error: HsmError) -> HsmResult<Report> {
    match error {
        HsmError::UnsafeToken(danger) => Ok(Report {
            facts: Vec::new(),
            dangers: vec![danger],
        }),
        error => Err(error),
    }
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}
