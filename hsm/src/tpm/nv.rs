//! One NV counter per backing key: what makes its destruction final.
//!
//! # The counter
//!
//! Its index lies in [`FIRST`]`..=`[`LAST`], of the range that the TCG leaves to the owner (Registry of reserved TPM
//! 2.0 handles, `0x01800000` to `0x01BFFFFF`). Its attributes are:
//!
//! - counter, 8 bytes: it only grows, and one that is defined anew starts above every count that any counter of this
//!   TPM ever had (Part 3 "`TPM2_NV_Increment`");
//! - `OWNERWRITE`: to increment it is to destroy the key, and is the owner's to do, as is undefining it;
//! - `AUTHREAD` with an empty authorisation value: `TPM2_PolicyNV` reads it before each use of the key, and its value
//!   is no secret. By `OWNERREAD` each use would need the owner's authorisation;
//! - `NO_DA`: nothing is guessed here, and a lockout by others does not keep keys from being used.
//!
//! Its `authPolicy` is the identity of the backing key. No policy has that digest, and no attribute lets a policy do
//! anything: it is the name by which the counter is found.

use super::connection::Connection;
use super::error::Fault;
use super::esys::{CONTINUE, NvPublic, Tr};
use super::policy::{Counter, index_name};
use super::wire::Name;
use crate::{BackingKeyId, HsmError, HsmResult};

/// The first NV index that is ours.
pub(super) const FIRST: u32 = 0x0185_0000;
/// The last one. No TPM has room for so many counters.
pub(super) const LAST: u32 = 0x0185_0FFF;

/// How many handles are asked for at once.
const HANDLES_AT_ONCE: u32 = 128;

/// NV attributes (`TPMA_NV`, Part 2 §13.4).
const OWNER_WRITE: u32 = 1 << 1;
const COUNTER: u32 = 1 << 4;
const AUTH_READ: u32 = 1 << 18;
const NO_DA: u32 = 1 << 25;
const WRITTEN: u32 = 1 << 29;
const ATTRIBUTES: u32 = OWNER_WRITE | COUNTER | AUTH_READ | NO_DA;
const COUNTER_BYTES: u16 = 8;

/// The public area of the counter of `id` at `index`, before its first increment.
fn unwritten(index: u32, id: &BackingKeyId) -> NvPublic {
    NvPublic {
        index,
        attributes: ATTRIBUTES,
        policy: *id.as_bytes(),
        bytes: COUNTER_BYTES,
    }
}

/// The public area of the counter of `id` at `index`, as a policy names it.
pub(super) fn written(index: u32, id: &BackingKeyId) -> NvPublic {
    NvPublic {
        attributes: ATTRIBUTES | WRITTEN,
        ..unwritten(index, id)
    }
}

/// The name of the counter of `id` at `index`.
pub(super) fn counter_name(index: u32, id: &BackingKeyId) -> Name {
    index_name(&written(index, id))
}

impl Connection {
    /// NV indices in our range that are defined, by whomever.
    fn defined(&mut self) -> Result<Vec<u32>, Fault> {
        let (mut all, mut from) = (Vec::new(), FIRST);
        loop {
            let (some, more) = self.esys.handles(from, HANDLES_AT_ONCE)?;
            let ours = some
                .iter()
                .copied()
                .filter(|index| (FIRST..=LAST).contains(index));
            all.extend(ours);
            match some.last() {
                Some(&last) if more && (from..LAST).contains(&last) => from = last + 1,
                _ => return Ok(all),
            }
        }
    }

    /// Every counter that is ours: its index and whose it is. One that was never incremented is ours, too: the making
    /// of its key was cut short.
    pub(super) fn counters(&mut self) -> Result<Vec<(u32, BackingKeyId)>, Fault> {
        let mut counters = Vec::new();
        for index in self.defined()? {
            let public = if let Some(known) = self.counter_in_use(index) {
                self.esys.nv_public(known)
            } else {
                let known = self.esys.adopt(index)?;
                let public = self.esys.nv_public(known);
                self.esys.forget(known)?;
                public
            };
            if let Some(public) = public?
                && public.attributes & !WRITTEN == ATTRIBUTES
                && public.bytes == COUNTER_BYTES
            {
                counters.push((index, BackingKeyId::from_bytes(public.policy)));
            }
        }
        Ok(counters)
    }

    /// Whether the TPM has room for one more counter: found out by defining one, which no key is made with.
    pub(super) fn counter_fits(&mut self) -> HsmResult<bool> {
        let nobody = BackingKeyId::random()?;
        match self.define(&nobody)? {
            Some((known, _index)) => self.undefine(known).map(|()| true),
            None => Ok(false),
        }
    }

    /// Defines the counter of `id` and increments it once. `None`: the TPM has no room for it.
    pub(super) fn define_counter(&mut self, id: &BackingKeyId) -> HsmResult<Option<Counter>> {
        match self.define(id)? {
            Some((known, index)) => self.start_counter(known, index).map(Some),
            None => Ok(None),
        }
    }

    /// Defines the counter of `id` at the first index that is free.
    fn define(&mut self, id: &BackingKeyId) -> HsmResult<Option<(Tr, u32)>> {
        let taken = self.defined()?;
        for index in (FIRST..=LAST).filter(|index| !taken.contains(index)) {
            let public = unwritten(index, id);
            self.drop_keys_of(index)?;
            let defined = self.as_owner(|this| {
                this.esys.attributes(this.hmac, CONTINUE)?;
                this.esys.nv_define(this.hmac, &public)
            })?;
            match defined {
                Ok(known) => return Ok(Some((known, index))),
                Err(fault) if fault.is_nv_taken() => {}
                Err(fault) if fault.is_nv_full() => return Ok(None),
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(None)
    }

    /// Increments a counter that was just defined, and undefines it if that fails.
    fn start_counter(&mut self, known: Tr, index: u32) -> HsmResult<Counter> {
        let started = self.as_owner(|this| {
            this.esys.nv_increment(this.hmac, known)?;
            this.esys.nv_read_counter(this.hmac, known)
        })?;
        match started {
            Ok(Some(value)) => {
                self.esys.forget(known)?;
                Ok(Counter { index, value })
            }
            other => {
                self.undefine(known)?;
                match other {
                    Err(fault) => Err(fault.into()),
                    Ok(_) => Err(HsmError::Device {
                        function: "Esys_NV_Read",
                        source: "a counter does not have 8 bytes".into(),
                    }),
                }
            }
        }
    }

    fn undefine(&mut self, known: Tr) -> HsmResult<()> {
        let undefined = self.as_owner(|this| {
            this.esys.attributes(this.hmac, CONTINUE)?;
            this.esys.nv_undefine(this.hmac, known)
        })?;
        Ok(undefined?)
    }

    /// Undefines every counter of `id`. There is none: that is done already.
    pub(super) fn undefine_counters(&mut self, id: &BackingKeyId) -> HsmResult<usize> {
        let mut undefined = 0;
        for (index, whose) in self.counters()? {
            if whose == *id {
                self.drop_keys_of(index)?;
                let known = self.esys.adopt(index)?;
                self.undefine(known)?;
                undefined += 1;
            }
        }
        Ok(undefined)
    }
}
