//! `CKM_AES_KEY_WRAP_KWP` (PKCS#11 v3.1 §6.13.12, RFC 5649) of a session object.
//!
//! Body: 16-byte salt ‖ wrap of ( plaintext ‖ SHA-256( salt ‖ AAD ) ). The wrap authenticates what it holds but takes
//! no AAD, hence the digest inside; it is deterministic, hence the salt.
//!
//! The plaintext is an object of the token for the length of one call: of this session, and destroyed whatever
//! happens. Closing the session would destroy it, too.

use std::ops::RangeInclusive;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use zeroize::Zeroizing;

use super::{Bench, Keys, NotOpened, absurd, failed, random};
use crate::handle::same_bytes;
use crate::pkcs11::raw::{Failed, Mechanism, Passing, Target};
use crate::{HsmResult, WRAP_PLAINTEXT_BYTES_MAX};

const SALT_BYTES: usize = 16;
/// What RFC 5649 adds to a value that is a multiple of eight bytes long.
const OVERHEAD_BYTES: usize = 8;
/// Lengths of a wrap.
const WRAP_BYTES: RangeInclusive<usize> = SHA256_OUTPUT_LEN + OVERHEAD_BYTES
    ..=WRAP_PLAINTEXT_BYTES_MAX + SHA256_OUTPUT_LEN + OVERHEAD_BYTES;

pub(super) fn seal(
    bench: Bench<'_>,
    keys: Keys,
    aad: &[u8],
    plaintext: &[u8],
) -> HsmResult<Vec<u8>> {
    let salt: [u8; SALT_BYTES] = random()?;
    let mut value = Zeroizing::new(Vec::with_capacity(plaintext.len() + SHA256_OUTPUT_LEN));
    value.extend_from_slice(plaintext);
    value.extend_from_slice(&digest(&salt, aad));
    let passing = bench.raw.create_passing(bench.session, &value);
    let wrapped = with_passing(bench, passing, |passing| {
        let mechanism = Mechanism::Bare(keys.kwp.unwrap_or(bench.dialect.kwp));
        let target = Target::Passing(passing);
        bench.raw.wrap(bench.session, keys.main, mechanism, target)
    });
    let wrapped = wrapped.map_err(failed)?;
    let expected = value.len().next_multiple_of(8) + OVERHEAD_BYTES;
    if wrapped.len() != expected {
        // RFC 3394 under padding of PKCS#7, for instance: not what the name says.
        let what = format!("a wrap of {} bytes, not {expected}", wrapped.len());
        return Err(absurd("C_WrapKey", what));
    }
    Ok([&salt, wrapped.as_slice()].concat())
}

pub(super) fn open(
    bench: Bench<'_>,
    keys: Keys,
    aad: &[u8],
    body: &[u8],
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let (salt, wrapped) = body
        .split_first_chunk::<SALT_BYTES>()
        .filter(|(_, wrapped)| WRAP_BYTES.contains(&wrapped.len()) && wrapped.len() % 8 == 0)
        .ok_or(NotOpened::Forged)?;
    let bound = digest(salt, aad);
    if !bench.dialect.unwrap_length {
        return open_of_length(bench, keys, &bound, wrapped, None);
    }
    // A wrap says what its value is long but for padding to eight bytes: mostly there is none.
    let longest = wrapped.len() - OVERHEAD_BYTES;
    let opened = open_of_length(bench, keys, &bound, wrapped, Some(longest));
    opened.or_else(|not_opened| {
        (longest.saturating_sub(7)..longest)
            .rev()
            .find_map(|length| open_of_length(bench, keys, &bound, wrapped, Some(length)).ok())
            .ok_or(not_opened)
    })
}

fn open_of_length(
    bench: Bench<'_>,
    keys: Keys,
    digest: &[u8; SHA256_OUTPUT_LEN],
    wrapped: &[u8],
    length: Option<usize>,
) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let mechanism = Mechanism::Bare(keys.kwp.unwrap_or(bench.dialect.kwp));
    let unwrapped = bench
        .raw
        .unwrap(bench.session, keys.main, mechanism, wrapped, length);
    let mut value = with_passing(bench, unwrapped, |passing| {
        bench.raw.value(bench.session, Target::Passing(passing))
    })?;
    // SoftHSM leaves the zeros in that pad the value to eight bytes. The digest tells where it ends.
    let ends_with_digest = |cut: usize| {
        let (value, padding) = value.split_at_checked(value.len().checked_sub(cut)?)?;
        let (plaintext, bound) = value.split_last_chunk::<SHA256_OUTPUT_LEN>()?;
        let fits = same_bytes(bound, digest) && padding.iter().all(|byte| *byte == 0);
        fits.then_some(plaintext.len())
    };
    let length = (0..8).find_map(ends_with_digest);
    value.truncate(length.ok_or(NotOpened::Forged)?);
    Ok(value)
}

/// Works with a passing object and destroys it. What `work` says counts first.
fn with_passing<T>(
    bench: Bench<'_>,
    passing: Result<Passing, Failed>,
    work: impl FnOnce(Passing) -> Result<T, Failed>,
) -> Result<T, Failed> {
    let passing = passing?;
    let done = work(passing);
    let destroyed = bench.raw.destroy(bench.session, passing);
    let done = done?;
    destroyed.map(|()| done)
}

fn digest(salt: &[u8; SALT_BYTES], aad: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut context = Context::new(&SHA256);
    context.update(salt);
    context.update(aad);
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
