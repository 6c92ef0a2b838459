//! What a key is and what it is for: `KeySpec`, `KeyUsage`, `Origin` and the algorithms, in the words of the KMS API.

use strongroom_hsm::{Curve, HashFunction, SigningKey, ToolSpec};

/// `KeySpec` on the wire. What a key does follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KeySpec(
    /// None: the key wraps data keys. Else it is a tool.
    Option<ToolSpec>,
);

/// `KeyUsage` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyUsage {
    /// Encrypts and decrypts.
    EncryptDecrypt,
    /// Makes and verifies MACs.
    GenerateVerifyMac,
    /// Signs and verifies.
    SignVerify,
}

impl KeyUsage {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EncryptDecrypt => "ENCRYPT_DECRYPT",
            Self::GenerateVerifyMac => "GENERATE_VERIFY_MAC",
            Self::SignVerify => "SIGN_VERIFY",
        }
    }

    /// What a key must be for to have this done, an action as IAM names it; none if any will do.
    pub(super) fn of_action(action: &str) -> Option<Self> {
        match action {
            "kms:GenerateMac" | "kms:VerifyMac" => Some(Self::GenerateVerifyMac),
            "kms:Sign" | "kms:Verify" | "kms:GetPublicKey" => Some(Self::SignVerify),
            "kms:CreateGrant" => None,
            _ => Some(Self::EncryptDecrypt),
        }
    }
}

/// `Origin` on the wire: where a key's material comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrigin {
    /// From a token of the default group.
    Kms,
    /// It is brought along.
    External,
    /// From a token of the group that its custom key store is on.
    KeyStore,
}

impl KeyOrigin {
    pub(super) const fn of(external: bool, in_store: bool) -> Self {
        match (external, in_store) {
            (_, true) => Self::KeyStore,
            (true, false) => Self::External,
            (false, false) => Self::Kms,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kms => "AWS_KMS",
            Self::External => "EXTERNAL",
            Self::KeyStore => "AWS_CLOUDHSM",
        }
    }
}

impl KeySpec {
    /// AES-256, for encryption and decryption.
    pub const SYMMETRIC_DEFAULT: Self = Self(None);

    /// The key spec of this name, if keys of it can be made here.
    pub fn parse(name: &str) -> Option<Self> {
        let tools = ToolSpec::MACS.into_iter().chain(ToolSpec::SIGNERS);
        let tools = tools.map(|tool| Self(Some(tool)));
        std::iter::once(Self::SYMMETRIC_DEFAULT)
            .chain(tools)
            .find(|spec| spec.name() == name)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self.0 {
            None => "SYMMETRIC_DEFAULT",
            Some(tool) => tool.name(),
        }
    }

    /// What keys of it are for.
    pub const fn usage(self) -> KeyUsage {
        match self.tool() {
            None => KeyUsage::EncryptDecrypt,
            Some(ToolSpec::Sign(_)) => KeyUsage::SignVerify,
            Some(_) => KeyUsage::GenerateVerifyMac,
        }
    }

    /// The algorithms that its keys do that by.
    pub const fn algorithms(self) -> &'static [&'static str] {
        match self.tool() {
            Some(ToolSpec::Hmac(HashFunction::Sha224)) => &["HMAC_SHA_224"],
            Some(ToolSpec::Hmac(HashFunction::Sha256)) => &["HMAC_SHA_256"],
            Some(ToolSpec::Hmac(HashFunction::Sha384)) => &["HMAC_SHA_384"],
            Some(ToolSpec::Hmac(HashFunction::Sha512)) => &["HMAC_SHA_512"],
            Some(ToolSpec::Sign(SigningKey::Rsa(_))) => &[
                "RSASSA_PSS_SHA_256",
                "RSASSA_PSS_SHA_384",
                "RSASSA_PSS_SHA_512",
                "RSASSA_PKCS1_V1_5_SHA_256",
                "RSASSA_PKCS1_V1_5_SHA_384",
                "RSASSA_PKCS1_V1_5_SHA_512",
            ],
            Some(ToolSpec::Sign(SigningKey::Ec(Curve::P256 | Curve::K256))) => &["ECDSA_SHA_256"],
            Some(ToolSpec::Sign(SigningKey::Ec(Curve::P384))) => &["ECDSA_SHA_384"],
            Some(ToolSpec::Sign(SigningKey::Ec(Curve::P521))) => &["ECDSA_SHA_512"],
            _ => &["SYMMETRIC_DEFAULT"],
        }
    }

    /// The tool in the token that such a key is; none of one that wraps.
    pub(super) const fn tool(self) -> Option<ToolSpec> {
        self.0
    }

    /// Its number in records; none of the default one.
    pub(super) fn recorded(self) -> Option<u8> {
        self.0.map(ToolSpec::to_byte)
    }

    /// The one with this number.
    pub(super) fn of_record(byte: Option<u8>) -> Option<Self> {
        match byte {
            None => Some(Self::SYMMETRIC_DEFAULT),
            Some(byte) => ToolSpec::from_byte(byte).map(|tool| Self(Some(tool))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spec_is_read_by_its_name_and_by_its_number() {
        for name in [
            "SYMMETRIC_DEFAULT",
            "HMAC_224",
            "HMAC_256",
            "HMAC_384",
            "HMAC_512",
            "RSA_2048",
            "RSA_3072",
            "RSA_4096",
            "ECC_NIST_P256",
            "ECC_NIST_P384",
            "ECC_NIST_P521",
            "ECC_SECG_P256K1",
        ] {
            let spec = KeySpec::parse(name).expect("is known");
            assert_eq!(spec.name(), name);
            assert_eq!(KeySpec::of_record(spec.recorded()), Some(spec));
        }
        assert_eq!(KeySpec::parse("SM2"), None);
        for tool in ToolSpec::SIGNERS {
            let ToolSpec::Sign(key) = tool else { continue };
            let spec = KeySpec::parse(tool.name()).expect("is known");
            let names: Vec<_> = key.algorithms().iter().map(|one| one.name()).collect();
            assert_eq!(spec.algorithms(), names);
        }
        assert_eq!(KeySpec::of_record(Some(0)), None);
    }
}
