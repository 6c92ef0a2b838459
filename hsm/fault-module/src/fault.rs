//! What goes wrong, and how it is written in the control file.

use std::fmt;

use cryptoki_sys::{CK_FLAGS, CK_MECHANISM_TYPE, CK_RV, CK_ULONG};

use crate::FUNCTIONS;

/// What goes wrong. Its word in the control file stands first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `count`: nothing goes wrong. The calls struck are counted, at the token and not by who calls it.
    Count,
    /// `hang`: the call never returns, lifted or not.
    Hang,
    /// `hang-until-lifted`: the call waits for that, then does what it should.
    HangUntilLifted,
    /// `slow` milliseconds: the call takes that much longer, then does what it should.
    Slow(u64),
    /// `abort`: the process ends by `SIGABRT`.
    Abort,
    /// `segfault`: the process ends by `SIGSEGV`.
    Segfault,
    /// `answer` code: the call does nothing and answers that.
    Answer(CK_RV),
    /// `answer-after` code: the call does what it should, and then answers that.
    AnswerAfter(CK_RV),
    /// `log-out`: the user is logged out, really, and the call answers `CKR_USER_NOT_LOGGED_IN`.
    LogOut,
    /// `close-sessions`: all sessions of the process with the token are closed, really, which also logs it out
    /// (PKCS#11 v2.40 §5.6, `C_CloseAllSessions`), and the call answers `CKR_SESSION_HANDLE_INVALID`.
    CloseSessions,
    /// `flip` index: `C_Encrypt`, `C_Decrypt` or `C_GenerateRandom` succeeds, but a bit of this byte of the output
    /// (modulo its length) is wrong.
    Flip(usize),
    /// `length` bytes: `C_Encrypt` or `C_Decrypt` succeeds and says that its output has this length.
    Length(CK_ULONG),
    /// `swap-keys`: each handle that `C_FindObjects` gives, or that `C_EncryptInit`, `C_DecryptInit`,
    /// `C_GetAttributeValue` or `C_DestroyObject` is given, means its neighbour among those found so far: the first and
    /// the second, the third and the fourth, …. For all these functions at once: handles renumbered without a word.
    SwapKeys,
    /// `renumber`: the same for all functions, and all sessions of the process are closed when it begins and when it
    /// ends, at once with it: what a token does that has been away. For `any`.
    Renumber,
    /// `zero-iv`: AES-GCM as `CloudHSM` has it. `C_EncryptInit` refuses an IV that is not zeros; `C_Encrypt` writes the
    /// IV that it has made over them. For `C_EncryptInit`.
    ZeroIv,
    /// `append-iv` length: AES-GCM as Luna has it. `C_EncryptInit` takes a null IV; `C_Encrypt` appends the one that it
    /// has made, of this length, to the tag. For `C_EncryptInit`.
    AppendIv(usize),
    /// `token-flags` flags: `C_GetTokenInfo` says these, too. With `CKF_CLOCK_ON_TOKEN` the clock is one that cannot be
    /// read, as openCryptoki's. For `C_GetTokenInfo`.
    TokenFlags(CK_FLAGS),
    /// `other-kwp`: `CKM_AES_KEY_WRAP_KWP` is taken for `CKM_AES_KEY_WRAP_PAD`, which the inner module has. For
    /// `C_WrapKey` and `C_UnwrapKey`.
    OtherKwp,
    /// `unwrap-length`: `C_UnwrapKey` wants `CKA_VALUE_LEN`, and the right one, as Luna does.
    UnwrapLength,
    /// `no-mechanism` number: `C_GetMechanismList`, `C_GetMechanismInfo`, `C_EncryptInit` and `C_DecryptInit` know
    /// nothing of it.
    NoMechanism(CK_MECHANISM_TYPE),
}

/// A fault or function that there is not, or a fault that says nothing to a function.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} means nothing to the fault module")]
pub struct Meaningless(pub String);

impl Fault {
    /// Whether it can strike a call of this function.
    pub(crate) fn concerns(self, function: &str) -> bool {
        match self {
            Self::Flip(_) => {
                matches!(function, "C_Encrypt" | "C_Decrypt" | "C_GenerateRandom")
            }
            Self::Length(_) => matches!(function, "C_Encrypt" | "C_Decrypt"),
            Self::SwapKeys => matches!(
                function,
                "C_FindObjects"
                    | "C_EncryptInit"
                    | "C_DecryptInit"
                    | "C_GetAttributeValue"
                    | "C_DestroyObject"
            ),
            Self::ZeroIv | Self::AppendIv(_) => function == "C_EncryptInit",
            Self::OtherKwp => matches!(function, "C_WrapKey" | "C_UnwrapKey"),
            Self::UnwrapLength => function == "C_UnwrapKey",
            Self::TokenFlags(_) => function == "C_GetTokenInfo",
            Self::NoMechanism(_) => matches!(
                function,
                "C_GetMechanismList" | "C_GetMechanismInfo" | "C_EncryptInit" | "C_DecryptInit"
            ),
            Self::LogOut | Self::CloseSessions => {
                FUNCTIONS.contains(&function) && crate::module::takes_session(function)
            }
            Self::Count
            | Self::Hang
            | Self::HangUntilLifted
            | Self::Slow(_)
            | Self::Abort
            | Self::Segfault
            | Self::Answer(_)
            | Self::AnswerAfter(_)
            | Self::Renumber => FUNCTIONS.contains(&function),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (word, number) = match text.split_once(' ') {
            Some((word, number)) => (word, Some(number.parse::<u64>().ok()?)),
            None => (text, None),
        };
        Some(match (word, number) {
            ("count", None) => Self::Count,
            ("hang", None) => Self::Hang,
            ("hang-until-lifted", None) => Self::HangUntilLifted,
            ("slow", Some(milliseconds)) => Self::Slow(milliseconds),
            ("abort", None) => Self::Abort,
            ("segfault", None) => Self::Segfault,
            ("answer", Some(code)) => Self::Answer(code),
            ("answer-after", Some(code)) => Self::AnswerAfter(code),
            ("log-out", None) => Self::LogOut,
            ("close-sessions", None) => Self::CloseSessions,
            ("flip", Some(index)) => Self::Flip(index.try_into().ok()?),
            ("length", Some(bytes)) => Self::Length(bytes),
            ("swap-keys", None) => Self::SwapKeys,
            ("renumber", None) => Self::Renumber,
            ("zero-iv", None) => Self::ZeroIv,
            ("append-iv", Some(bytes)) => Self::AppendIv(bytes.try_into().ok()?),
            ("other-kwp", None) => Self::OtherKwp,
            ("unwrap-length", None) => Self::UnwrapLength,
            ("token-flags", Some(flags)) => Self::TokenFlags(flags),
            ("no-mechanism", Some(mechanism)) => Self::NoMechanism(mechanism),
            _ => return None,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => f.write_str("count"),
            Self::Hang => f.write_str("hang"),
            Self::HangUntilLifted => f.write_str("hang-until-lifted"),
            Self::Slow(milliseconds) => write!(f, "slow {milliseconds}"),
            Self::Abort => f.write_str("abort"),
            Self::Segfault => f.write_str("segfault"),
            Self::Answer(code) => write!(f, "answer {code}"),
            Self::AnswerAfter(code) => write!(f, "answer-after {code}"),
            Self::LogOut => f.write_str("log-out"),
            Self::CloseSessions => f.write_str("close-sessions"),
            Self::Flip(index) => write!(f, "flip {index}"),
            Self::Length(bytes) => write!(f, "length {bytes}"),
            Self::SwapKeys => f.write_str("swap-keys"),
            Self::Renumber => f.write_str("renumber"),
            Self::ZeroIv => f.write_str("zero-iv"),
            Self::AppendIv(bytes) => write!(f, "append-iv {bytes}"),
            Self::OtherKwp => f.write_str("other-kwp"),
            Self::UnwrapLength => f.write_str("unwrap-length"),
            Self::TokenFlags(flags) => write!(f, "token-flags {flags}"),
            Self::NoMechanism(mechanism) => write!(f, "no-mechanism {mechanism}"),
        }
    }
}

/// A rule's text, read: which functions, and the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule<'t> {
    functions: &'t str,
    pub(crate) fault: Fault,
}

impl<'t> Rule<'t> {
    pub(crate) fn parse(text: &'t str) -> Result<Self, Meaningless> {
        let meaningless = || Meaningless(text.to_owned());
        let (functions, fault) = text.split_once(' ').ok_or_else(meaningless)?;
        let fault = Fault::parse(fault).ok_or_else(meaningless)?;
        let sensible = functions == "any"
            || functions
                .split(',')
                .all(|function| fault.concerns(function));
        if !sensible {
            return Err(meaningless());
        }
        Ok(Self { functions, fault })
    }

    pub(crate) fn is_for(&self, function: &str) -> bool {
        let named =
            self.functions == "any" || self.functions.split(',').any(|name| name == function);
        named && self.fault.concerns(function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_read_as_it_is_written() {
        let faults = [
            Fault::Count,
            Fault::Hang,
            Fault::HangUntilLifted,
            Fault::Slow(20),
            Fault::Abort,
            Fault::Segfault,
            Fault::Answer(0x30),
            Fault::AnswerAfter(0x30),
            Fault::LogOut,
            Fault::CloseSessions,
            Fault::Flip(3),
            Fault::Length(CK_ULONG::MAX),
            Fault::SwapKeys,
            Fault::Renumber,
            Fault::ZeroIv,
            Fault::AppendIv(16),
            Fault::TokenFlags(0x20_0000),
            Fault::OtherKwp,
            Fault::UnwrapLength,
            Fault::NoMechanism(0x1087),
        ];
        for fault in faults {
            let text = format!("any {fault}");
            assert_eq!(Rule::parse(&text).expect("reads").fault, fault, "{text}");
        }
    }

    #[test]
    fn a_rule_is_for_the_functions_it_names() {
        let rule = Rule::parse("C_Encrypt,C_Login hang").expect("reads");
        assert!(rule.is_for("C_Encrypt") && rule.is_for("C_Login"));
        assert!(!rule.is_for("C_EncryptInit") && !rule.is_for("C_Decrypt"));
        let any = Rule::parse("any flip 0").expect("reads");
        assert!(any.is_for("C_Decrypt") && !any.is_for("C_Login"));
    }

    #[test]
    fn nonsense_is_refused() {
        let nonsense = [
            "",
            "any",
            "any what",
            "any slow",
            "any hang 1",
            "any slow x",
            "C_Nothing hang",
            "C_Login flip 0",
            "C_Encrypt, hang",
            "C_Initialize log-out",
        ];
        for text in nonsense {
            Rule::parse(text).expect_err(text);
        }
    }
}
