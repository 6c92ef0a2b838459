//! Encryption, MACs and the message interface.

use std::ffi::c_void;
use std::ptr;

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys as sys;
use zeroize::Zeroizing;

use super::{
    CK_MECHANISM_TYPE, CKM_AES_GCM, Failed, OUT_BYTES_MAX, Raw, TAG_BYTES, answered, cut, there,
    ulong,
};
use crate::HashFunction;

/// A mechanism and its parameter.
pub(in crate::pkcs11) enum Mechanism<'a> {
    /// Without a parameter.
    Bare(CK_MECHANISM_TYPE),
    /// Its parameter is its IV.
    WithIv(CK_MECHANISM_TYPE, &'a [u8]),
    /// `CKM_AES_GCM`. The IV holds afterwards what the module wrote there; none: the module is to make one.
    Gcm { iv: &'a mut [u8], aad: &'a [u8] },
    /// `CKM_RSA_PKCS_OAEP` without a label, with SHA-1 or SHA-256 for both of its hashes.
    Oaep { sha1: bool },
    /// `CKM_RSA_PKCS_PSS` of a digest by this hash, which is that of its MGF, too, with a salt as long.
    Pss(HashFunction),
}

/// Who makes the IV in the message interface. `CKG_GENERATE` is not among them: a module may take that for a counter,
/// and start it anew with each operation (kryoptic does), which would repeat the IV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pkcs11) enum Generator {
    /// `CKG_GENERATE_RANDOM`: the token.
    Token,
    /// `CKG_NO_GENERATE`: the caller.
    Caller,
}

/// IV, tag and AAD of one message. IV and tag are the module's to write when it encrypts.
pub(in crate::pkcs11) struct Message<'a> {
    pub(in crate::pkcs11) generator: Generator,
    pub(in crate::pkcs11) iv: &'a mut [u8],
    pub(in crate::pkcs11) tag: &'a mut [u8; TAG_BYTES],
    pub(in crate::pkcs11) aad: &'a [u8],
}

type Init = sys::CK_C_EncryptInit;
type Run = sys::CK_C_Encrypt;
type Names = (&'static str, &'static str);

impl Raw {
    /// `C_EncryptInit` and `C_Encrypt` (§5.8).
    pub(in crate::pkcs11) fn encrypt(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: Mechanism<'_>,
        input: &[u8],
    ) -> Result<Vec<u8>, Failed> {
        let calls = (self.functions.C_EncryptInit, self.functions.C_Encrypt);
        let names = ("C_EncryptInit", "C_Encrypt");
        run(calls, names, session, key, mechanism, input).map(|out| out.to_vec())
    }

    /// `C_DecryptInit` and `C_Decrypt` (§5.10).
    pub(in crate::pkcs11) fn decrypt(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: Mechanism<'_>,
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let calls = (self.functions.C_DecryptInit, self.functions.C_Decrypt);
        let names = ("C_DecryptInit", "C_Decrypt");
        run(calls, names, session, key, mechanism, input)
    }

    /// `C_SignInit` and `C_Sign` (§5.13).
    pub(in crate::pkcs11) fn sign(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: CK_MECHANISM_TYPE,
        input: &[u8],
    ) -> Result<Vec<u8>, Failed> {
        self.sign_by(session, key, Mechanism::Bare(mechanism), input)
    }

    /// The same by a mechanism with a parameter.
    pub(in crate::pkcs11) fn sign_by(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: Mechanism<'_>,
        input: &[u8],
    ) -> Result<Vec<u8>, Failed> {
        let calls = (self.functions.C_SignInit, self.functions.C_Sign);
        let names = ("C_SignInit", "C_Sign");
        run(calls, names, session, key, mechanism, input).map(|out| out.to_vec())
    }

    /// `C_VerifyInit` and `C_Verify` (§5.15). `Ok` is "authentic", `CKR_SIGNATURE_INVALID` the answer that it is not.
    pub(in crate::pkcs11) fn verify(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: CK_MECHANISM_TYPE,
        input: &[u8],
        mac: &[u8],
    ) -> Result<(), Failed> {
        let init = there("C_VerifyInit", self.functions.C_VerifyInit)?;
        let verify = there("C_Verify", self.functions.C_Verify)?;
        let mut mechanism = sys::CK_MECHANISM {
            mechanism,
            pParameter: ptr::null_mut(),
            ulParameterLen: 0,
        };
        #[expect(unsafe_code, reason = "a call of the module")]
        // SAFETY: the mechanism lives beyond both calls.
        let rv = unsafe { init(session.handle(), &raw mut mechanism, key.handle()) };
        answered("C_VerifyInit", rv)?;
        #[expect(unsafe_code, reason = "a call of the module")]
        // SAFETY: both slices are readable for their lengths and not written.
        let rv = unsafe {
            verify(
                session.handle(),
                input.as_ptr().cast_mut(),
                ulong(input.len()),
                mac.as_ptr().cast_mut(),
                ulong(mac.len()),
            )
        };
        answered("C_Verify", rv)
    }

    /// AES-GCM by `C_MessageEncryptInit`, `C_EncryptMessage` and `C_MessageEncryptFinal` (§5.9): the ciphertext. The
    /// IV holds what was used afterwards.
    pub(in crate::pkcs11) fn encrypt_message(
        &self,
        session: &Session,
        key: ObjectHandle,
        sealed: Message<'_>,
        input: &[u8],
    ) -> Result<Vec<u8>, Failed> {
        let list = self.functions_3.as_ref();
        let calls = (
            list.and_then(|list| list.C_MessageEncryptInit),
            list.and_then(|list| list.C_EncryptMessage),
            list.and_then(|list| list.C_MessageEncryptFinal),
        );
        let names = (
            "C_MessageEncryptInit",
            "C_EncryptMessage",
            "C_MessageEncryptFinal",
        );
        message(calls, names, session, key, sealed, input).map(|out| out.to_vec())
    }

    /// AES-GCM by `C_MessageDecryptInit`, `C_DecryptMessage` and `C_MessageDecryptFinal` (§5.11).
    pub(in crate::pkcs11) fn decrypt_message(
        &self,
        session: &Session,
        key: ObjectHandle,
        sealed: Message<'_>,
        input: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let list = self.functions_3.as_ref();
        let calls = (
            list.and_then(|list| list.C_MessageDecryptInit),
            list.and_then(|list| list.C_DecryptMessage),
            list.and_then(|list| list.C_MessageDecryptFinal),
        );
        let names = (
            "C_MessageDecryptInit",
            "C_DecryptMessage",
            "C_MessageDecryptFinal",
        );
        message(calls, names, session, key, sealed, input)
    }
}

/// One operation, start to end. After an error it may still be active in the session, which is to be dropped.
fn run(
    (init, run): (Init, Run),
    (init_name, run_name): Names,
    session: &Session,
    key: ObjectHandle,
    mechanism: Mechanism<'_>,
    input: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let (init, run) = (there(init_name, init)?, there(run_name, run)?);
    let mut out = Zeroizing::new(vec![0; OUT_BYTES_MAX]);
    let mut out_len = ulong(OUT_BYTES_MAX);
    with_mechanism(mechanism, |mechanism| {
        #[expect(unsafe_code, reason = "a call of the module")]
        // SAFETY: `init` is of the module that opened `session`; the mechanism and all it points to live, with the
        // lengths given, beyond the call of `run` below, which is as long as a module may keep them.
        let rv = unsafe { init(session.handle(), mechanism, key.handle()) };
        answered(init_name, rv)?;
        #[expect(unsafe_code, reason = "a call of the module")]
        // SAFETY: `run` belongs to `init`. `input` is readable for its length and not written; `out` is writable for
        // `out_len` bytes, which tells the module its size.
        let rv = unsafe {
            run(
                session.handle(),
                input.as_ptr().cast_mut(),
                ulong(input.len()),
                out.as_mut_ptr(),
                &raw mut out_len,
            )
        };
        answered(run_name, rv)
    })?;
    cut(run_name, &mut out, out_len)?;
    Ok(out)
}

/// One message of the message interface, start to end.
fn message(
    (init, run, end): (
        Init,
        sys::CK_C_EncryptMessage,
        sys::CK_C_MessageEncryptFinal,
    ),
    (init_name, run_name, end_name): (&'static str, &'static str, &'static str),
    session: &Session,
    key: ObjectHandle,
    Message {
        generator,
        iv,
        tag,
        aad,
    }: Message<'_>,
    input: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let (init, run) = (there(init_name, init)?, there(run_name, run)?);
    let end = there(end_name, end)?;
    let mut out = Zeroizing::new(vec![0; OUT_BYTES_MAX]);
    let mut out_len = ulong(OUT_BYTES_MAX);
    let mut parameters = sys::CK_GCM_MESSAGE_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: ulong(iv.len()),
        ulIvFixedBits: 0,
        ivGenerator: match generator {
            Generator::Token => sys::CKG_GENERATE_RANDOM,
            Generator::Caller => sys::CKG_NO_GENERATE,
        },
        pTag: tag.as_mut_ptr(),
        ulTagBits: ulong(TAG_BYTES * 8),
    };
    let mut mechanism = sys::CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: ptr::null_mut(),
        ulParameterLen: 0,
    };
    #[expect(unsafe_code, reason = "a call of the module")]
    // SAFETY: the mechanism lives beyond the operation.
    let rv = unsafe { init(session.handle(), &raw mut mechanism, key.handle()) };
    answered(init_name, rv)?;
    #[expect(unsafe_code, reason = "a call of the module")]
    // SAFETY: the parameters point to IV and tag of the caller, writable for the lengths named and alive for the call;
    // AAD and input are readable and not written; `out` is writable for `out_len` bytes.
    let rv = unsafe {
        run(
            session.handle(),
            (&raw mut parameters).cast::<c_void>(),
            ulong(size_of::<sys::CK_GCM_MESSAGE_PARAMS>()),
            or_null(aad),
            ulong(aad.len()),
            input.as_ptr().cast_mut(),
            ulong(input.len()),
            out.as_mut_ptr(),
            &raw mut out_len,
        )
    };
    let done = answered(run_name, rv);
    // A message that fails does not end the operation (NSS goes by that): it is ended in any case.
    #[expect(unsafe_code, reason = "a call of the module")]
    // SAFETY: no memory is passed.
    let rv = unsafe { end(session.handle()) };
    done?;
    answered(end_name, rv)?;
    cut(run_name, &mut out, out_len)?;
    Ok(out)
}

/// Runs `work` with the structure that the module takes, which points to what `mechanism` borrows.
pub(super) fn with_mechanism<T>(
    mechanism: Mechanism<'_>,
    work: impl FnOnce(sys::CK_MECHANISM_PTR) -> T,
) -> T {
    let mut raw = sys::CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: ptr::null_mut(),
        ulParameterLen: 0,
    };
    match mechanism {
        Mechanism::Bare(kind) => {
            raw.mechanism = kind;
            work(&raw mut raw)
        }
        Mechanism::WithIv(kind, iv) => {
            raw.mechanism = kind;
            raw.pParameter = iv.as_ptr().cast_mut().cast();
            raw.ulParameterLen = ulong(iv.len());
            work(&raw mut raw)
        }
        Mechanism::Oaep { sha1 } => {
            let (hash, mgf) = if sha1 {
                (sys::CKM_SHA_1, sys::CKG_MGF1_SHA1)
            } else {
                (sys::CKM_SHA256, sys::CKG_MGF1_SHA256)
            };
            let mut parameters = sys::CK_RSA_PKCS_OAEP_PARAMS {
                hashAlg: hash,
                mgf,
                // SoftHSM wants a source even of nothing.
                source: sys::CKZ_DATA_SPECIFIED,
                pSourceData: ptr::null_mut(),
                ulSourceDataLen: 0,
            };
            raw.mechanism = sys::CKM_RSA_PKCS_OAEP;
            raw.pParameter = (&raw mut parameters).cast();
            raw.ulParameterLen = ulong(size_of::<sys::CK_RSA_PKCS_OAEP_PARAMS>());
            work(&raw mut raw)
        }
        Mechanism::Pss(hash) => {
            let (algorithm, mgf) = match hash {
                HashFunction::Sha224 => (sys::CKM_SHA224, sys::CKG_MGF1_SHA224),
                HashFunction::Sha256 => (sys::CKM_SHA256, sys::CKG_MGF1_SHA256),
                HashFunction::Sha384 => (sys::CKM_SHA384, sys::CKG_MGF1_SHA384),
                HashFunction::Sha512 => (sys::CKM_SHA512, sys::CKG_MGF1_SHA512),
            };
            let mut parameters = sys::CK_RSA_PKCS_PSS_PARAMS {
                hashAlg: algorithm,
                mgf,
                sLen: ulong(hash.bytes()),
            };
            raw.mechanism = sys::CKM_RSA_PKCS_PSS;
            raw.pParameter = (&raw mut parameters).cast();
            raw.ulParameterLen = ulong(size_of::<sys::CK_RSA_PKCS_PSS_PARAMS>());
            work(&raw mut raw)
        }
        Mechanism::Gcm { iv, aad } => {
            let mut parameters = sys::CK_GCM_PARAMS {
                pIv: if iv.is_empty() {
                    ptr::null_mut()
                } else {
                    iv.as_mut_ptr()
                },
                ulIvLen: ulong(iv.len()),
                // Luna 7 decrypts only with this set; without an IV it is the length of the one it makes.
                ulIvBits: ulong(if iv.is_empty() { 96 } else { iv.len() * 8 }),
                pAAD: or_null(aad),
                ulAADLen: ulong(aad.len()),
                ulTagBits: ulong(TAG_BYTES * 8),
            };
            raw.pParameter = (&raw mut parameters).cast();
            raw.ulParameterLen = ulong(size_of::<sys::CK_GCM_PARAMS>());
            work(&raw mut raw)
        }
    }
}

fn or_null(bytes: &[u8]) -> sys::CK_BYTE_PTR {
    if bytes.is_empty() {
        ptr::null_mut()
    } else {
        bytes.as_ptr().cast_mut()
    }
}
