//! What the library takes and gives: buffers of a fixed size with a length in them, unions, and memory of its own.
#![expect(
    unsafe_code,
    reason = "the library allocates what it gives, and marshals through pointers"
)]

use std::ptr::NonNull;

use tss_esapi::tss2_esys as sys;
use zeroize::Zeroize;

use super::Result;
use crate::tpm::error::Fault;
use crate::tpm::wire::{Digest, SHA256_ID};

/// Something that the library has allocated.
pub(super) struct Given<T>(pub(super) NonNull<T>);

impl<T> Given<T> {
    pub(super) fn new(pointer: *mut T, function: &'static str) -> Result<Self> {
        // TSS2_ESYS_RC_BAD_REFERENCE: what the library would answer, had it looked.
        let code = 0x0007_0005;
        NonNull::new(pointer)
            .map(Self)
            .ok_or(Fault { function, code })
    }

    pub(super) fn get(&self) -> &T {
        // SAFETY: the library has allocated and filled it, and it is freed on drop only.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Given<T> {
    fn drop(&mut self) {
        // SAFETY: allocated by the library, for its caller to free by this function, once.
        unsafe { sys::Esys_Free(self.0.as_ptr().cast()) }
    }
}

/// What goes into an object, zeroed after it is sent.
pub(super) struct Sensitive(pub(super) sys::TPM2B_SENSITIVE_CREATE);

impl Sensitive {
    pub(super) fn new(data: &[u8]) -> Result<Self> {
        let mut this = Self(sys::TPM2B_SENSITIVE_CREATE::default());
        let place = &mut this.0.sensitive.data;
        place.size = fill("Esys_Create", &mut place.buffer, data)?;
        Ok(this)
    }
}

impl Drop for Sensitive {
    fn drop(&mut self) {
        self.0.sensitive.data.buffer.zeroize();
    }
}

pub(super) fn digest(function: &'static str, bytes: &Digest) -> Result<sys::TPM2B_DIGEST> {
    let mut digest = sys::TPM2B_DIGEST::default();
    digest.size = fill(function, &mut digest.buffer, bytes)?;
    Ok(digest)
}

/// PCRs of the SHA-256 bank: bit n is PCR n, of which there are 24.
pub(super) fn pcr_selection(selection: u32) -> sys::TPML_PCR_SELECTION {
    let mut list = sys::TPML_PCR_SELECTION {
        count: 1,
        ..Default::default()
    };
    list.pcrSelections[0] = sys::TPMS_PCR_SELECTION {
        hash: SHA256_ID,
        sizeofSelect: 3,
        pcrSelect: selection.to_le_bytes(),
    };
    list
}

pub(super) fn no_data() -> sys::TPM2B_DATA {
    sys::TPM2B_DATA::default()
}

pub(super) fn no_pcrs() -> sys::TPML_PCR_SELECTION {
    sys::TPML_PCR_SELECTION::default()
}

/// `TSS2_ESYS_RC_MALFORMED_RESPONSE`, for what the library let pass.
pub(super) fn malformed(function: &'static str) -> Fault {
    Fault {
        function,
        code: 0x0007_0010,
    }
}

/// `TPM_RC_SIZE` of parameter 1: what the TPM would say to bytes of ours that are too many.
pub(super) fn too_long(function: &'static str) -> Fault {
    Fault {
        function,
        code: 0x01D5,
    }
}

pub(super) fn sized<'a>(function: &'static str, buffer: &'a [u8], size: u16) -> Result<&'a [u8]> {
    buffer
        .get(..usize::from(size))
        .ok_or_else(|| malformed(function))
}

pub(super) fn listed<'a, T>(function: &'static str, list: &'a [T], count: u32) -> Result<&'a [T]> {
    let count = usize::try_from(count).map_err(|_wide| malformed(function))?;
    list.get(..count).ok_or_else(|| malformed(function))
}

pub(super) fn fill(function: &'static str, buffer: &mut [u8], bytes: &[u8]) -> Result<u16> {
    let front = buffer.get_mut(..bytes.len());
    front
        .ok_or_else(|| too_long(function))?
        .copy_from_slice(bytes);
    u16::try_from(bytes.len()).map_err(|_wide| too_long(function))
}

/// A `TPMT_PUBLIC` as the library wants it. Bytes that are none, or more than one, count as the caller's bad data.
pub(super) fn unmarshal_public(bytes: &[u8]) -> Result<sys::TPM2B_PUBLIC> {
    let function = "Tss2_MU_TPMT_PUBLIC_Unmarshal";
    let mut public = sys::TPM2B_PUBLIC::default();
    let (length, mut offset) = (c_length(function, bytes)?, 0);
    // SAFETY: a buffer and its length, a place for the offset, and a place for the result.
    let code = unsafe {
        sys::Tss2_MU_TPMT_PUBLIC_Unmarshal(
            bytes.as_ptr(),
            length,
            &raw mut offset,
            &raw mut public.publicArea,
        )
    };
    if code != 0 || offset != length {
        return Err(too_long(function));
    }
    Ok(public)
}

/// A `TPMT_SIGNATURE` as the library wants it.
pub(super) fn unmarshal_signature(bytes: &[u8]) -> Result<sys::TPMT_SIGNATURE> {
    let function = "Tss2_MU_TPMT_SIGNATURE_Unmarshal";
    let mut signature = sys::TPMT_SIGNATURE::default();
    let (length, mut offset) = (c_length(function, bytes)?, 0);
    // SAFETY: a buffer and its length, a place for the offset, and a place for the result.
    let code = unsafe {
        sys::Tss2_MU_TPMT_SIGNATURE_Unmarshal(
            bytes.as_ptr(),
            length,
            &raw mut offset,
            &raw mut signature,
        )
    };
    if code != 0 || offset != length {
        return Err(too_long(function));
    }
    Ok(signature)
}

pub(super) fn marshal_public(public: &sys::TPM2B_PUBLIC) -> Result<Vec<u8>> {
    let function = "Tss2_MU_TPMT_PUBLIC_Marshal";
    let mut bytes = vec![0; size_of::<sys::TPM2B_PUBLIC>()];
    let (length, mut offset) = (c_length(function, &bytes)?, 0);
    // SAFETY: a public area, a buffer and its length, and a place for the offset.
    let code = unsafe {
        sys::Tss2_MU_TPMT_PUBLIC_Marshal(
            &raw const public.publicArea,
            bytes.as_mut_ptr(),
            length,
            &raw mut offset,
        )
    };
    if code != 0 {
        return Err(Fault { function, code });
    }
    bytes.truncate(usize::try_from(offset).map_err(|_wide| malformed(function))?);
    Ok(bytes)
}

pub(super) fn c_length(function: &'static str, bytes: &[u8]) -> Result<sys::size_t> {
    sys::size_t::try_from(bytes.len()).map_err(|_wide| too_long(function))
}
