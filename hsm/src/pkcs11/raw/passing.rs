//! Secrets that are objects of one session for one call: made, wrapped, unwrapped, read, destroyed; and keys that are
//! unwrapped to stay.

use std::ptr;

use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use cryptoki_sys as sys;
use zeroize::Zeroizing;

use super::crypto::{Mechanism, with_mechanism};
use super::{Failed, OUT_BYTES_MAX, Raw, answered, cut, there, ulong};

/// An object of one session that lives for one operation. The session's caller destroys it.
#[derive(Debug, Clone, Copy)]
pub(in crate::pkcs11) struct Passing(sys::CK_OBJECT_HANDLE);

/// What is wrapped or read.
#[derive(Debug, Clone, Copy)]
pub(in crate::pkcs11) enum Target {
    Passing(Passing),
    Object(ObjectHandle),
}

impl Raw {
    /// `C_CreateObject` (§5.7.1) of a secret that can be wrapped and read, in this session only.
    pub(in crate::pkcs11) fn create_passing(
        &self,
        session: &Session,
        value: &[u8],
    ) -> Result<Passing, Failed> {
        let function = there("C_CreateObject", self.functions.C_CreateObject)?;
        let mut object = sys::CK_INVALID_HANDLE;
        with_passing_template(Some(value), None, |template| {
            #[expect(unsafe_code, reason = "cryptoki would leave copies of the secret")]
            // SAFETY: the template and all it points to live for the call; `object` is valid for the handle.
            let rv = unsafe {
                function(
                    session.handle(),
                    template.as_mut_ptr(),
                    ulong(template.len()),
                    &raw mut object,
                )
            };
            answered("C_CreateObject", rv)
        })?;
        Ok(Passing(object))
    }

    /// `C_WrapKey` (§5.18.3) of the object with handle `target`.
    pub(in crate::pkcs11) fn wrap(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: Mechanism<'_>,
        target: Target,
    ) -> Result<Vec<u8>, Failed> {
        let function = there("C_WrapKey", self.functions.C_WrapKey)?;
        let target = match target {
            Target::Passing(Passing(handle)) => handle,
            Target::Object(object) => object.handle(),
        };
        let mut out = Zeroizing::new(vec![0; OUT_BYTES_MAX]);
        let mut out_len = ulong(OUT_BYTES_MAX);
        with_mechanism(mechanism, |mechanism| {
            #[expect(
                unsafe_code,
                reason = "cryptoki asks twice and does not cut the answer"
            )]
            // SAFETY: the mechanism lives for the call; `out` is writable for `out_len` bytes.
            let rv = unsafe {
                function(
                    session.handle(),
                    mechanism,
                    key.handle(),
                    target,
                    out.as_mut_ptr(),
                    &raw mut out_len,
                )
            };
            answered("C_WrapKey", rv)
        })?;
        cut("C_WrapKey", &mut out, out_len)?;
        Ok(out.to_vec())
    }

    /// `C_UnwrapKey` (§5.18.4) of a secret that can be read, into this session only. `length`: of the secret, for a token
    /// that wants to be told.
    pub(in crate::pkcs11) fn unwrap(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: Mechanism<'_>,
        wrapped: &[u8],
        length: Option<usize>,
    ) -> Result<Passing, Failed> {
        let function = there("C_UnwrapKey", self.functions.C_UnwrapKey)?;
        let mut object = sys::CK_INVALID_HANDLE;
        with_mechanism(mechanism, |mechanism| {
            with_passing_template(None, length, |template| {
                #[expect(unsafe_code, reason = "cryptoki does not know the mechanism")]
                // SAFETY: mechanism, template and what they point to live for the call; `wrapped` is readable and
                // not written; `object` is valid for the handle.
                let rv = unsafe {
                    function(
                        session.handle(),
                        mechanism,
                        key.handle(),
                        wrapped.as_ptr().cast_mut(),
                        ulong(wrapped.len()),
                        template.as_mut_ptr(),
                        ulong(template.len()),
                        &raw mut object,
                    )
                };
                answered("C_UnwrapKey", rv)
            })
        })?;
        Ok(Passing(object))
    }

    /// `C_UnwrapKey` (§5.18.4) into an object of this template, by which it is found.
    pub(in crate::pkcs11) fn unwrap_as(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: Mechanism<'_>,
        wrapped: &[u8],
        template: &[Attribute],
    ) -> Result<(), Failed> {
        let function = there("C_UnwrapKey", self.functions.C_UnwrapKey)?;
        let mut template: Vec<sys::CK_ATTRIBUTE> = template.iter().map(Into::into).collect();
        let mut object = sys::CK_INVALID_HANDLE;
        with_mechanism(mechanism, |mechanism| {
            #[expect(unsafe_code, reason = "cryptoki does not know the mechanism")]
            // SAFETY: mechanism, template and what they point to live for the call; `wrapped` is readable and not
            // written; `object` is valid for the handle.
            let rv = unsafe {
                function(
                    session.handle(),
                    mechanism,
                    key.handle(),
                    wrapped.as_ptr().cast_mut(),
                    ulong(wrapped.len()),
                    template.as_mut_ptr(),
                    ulong(template.len()),
                    &raw mut object,
                )
            };
            answered("C_UnwrapKey", rv)
        })
    }

    /// `CKA_VALUE` of an object, by one `C_GetAttributeValue` (§5.7.5).
    pub(in crate::pkcs11) fn value(
        &self,
        session: &Session,
        target: Target,
    ) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let function = there("C_GetAttributeValue", self.functions.C_GetAttributeValue)?;
        let target = match target {
            Target::Passing(Passing(handle)) => handle,
            Target::Object(object) => object.handle(),
        };
        let mut out = Zeroizing::new(vec![0; OUT_BYTES_MAX]);
        let mut attribute = sys::CK_ATTRIBUTE {
            type_: sys::CKA_VALUE,
            pValue: out.as_mut_ptr().cast(),
            ulValueLen: ulong(OUT_BYTES_MAX),
        };
        #[expect(
            unsafe_code,
            reason = "cryptoki asks twice and leaves copies of the secret"
        )]
        // SAFETY: one attribute, whose buffer is writable for the length it names.
        let rv = unsafe { function(session.handle(), target, &raw mut attribute, 1) };
        answered("C_GetAttributeValue", rv)?;
        cut("C_GetAttributeValue", &mut out, attribute.ulValueLen)?;
        Ok(out)
    }

    /// `C_DestroyObject` (§5.7.3).
    pub(in crate::pkcs11) fn destroy(
        &self,
        session: &Session,
        Passing(object): Passing,
    ) -> Result<(), Failed> {
        let function = there("C_DestroyObject", self.functions.C_DestroyObject)?;
        #[expect(unsafe_code, reason = "cryptoki makes no handle of a number")]
        // SAFETY: no memory is passed.
        let rv = unsafe { function(session.handle(), object) };
        answered("C_DestroyObject", rv)
    }
}

/// Runs `work` with the template of a secret of this session that can be read, and its value unless it comes by
/// unwrapping; then perhaps with its length.
fn with_passing_template<T>(
    value: Option<&[u8]>,
    length: Option<usize>,
    work: impl FnOnce(&mut [sys::CK_ATTRIBUTE]) -> T,
) -> T {
    let (mut class, mut kind) = (sys::CKO_SECRET_KEY, sys::CKK_GENERIC_SECRET);
    let (mut yes, mut no) = (sys::CK_TRUE, sys::CK_FALSE);
    let mut template = vec![
        attribute(sys::CKA_CLASS, &mut class),
        attribute(sys::CKA_KEY_TYPE, &mut kind),
        attribute(sys::CKA_TOKEN, &mut no),
        attribute(sys::CKA_SENSITIVE, &mut no),
        attribute(sys::CKA_EXTRACTABLE, &mut yes),
    ];
    if let Some(value) = value {
        template.push(sys::CK_ATTRIBUTE {
            type_: sys::CKA_VALUE,
            pValue: value.as_ptr().cast_mut().cast(),
            ulValueLen: ulong(value.len()),
        });
    }
    let mut length = length.map(ulong);
    if let Some(length) = &mut length {
        template.push(attribute(sys::CKA_VALUE_LEN, length));
    }
    work(&mut template)
}

fn attribute<T>(kind: sys::CK_ATTRIBUTE_TYPE, value: &mut T) -> sys::CK_ATTRIBUTE {
    sys::CK_ATTRIBUTE {
        type_: kind,
        pValue: ptr::from_mut(value).cast(),
        ulValueLen: ulong(size_of::<T>()),
    }
}
