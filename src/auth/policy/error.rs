//! Why a text is no policy.

/// Caller: the text is not a policy document of the kind that is asked for. Says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Not JSON, or JSON with a key that stands twice in one object.
    #[error("policy is not valid JSON: {0}")]
    Json(String),
    /// An element that the language does not have, or that does not belong here.
    #[error("unknown field {0}")]
    Unknown(String),
    /// An element that must be there is not.
    #[error("missing required field {0}")]
    Missing(&'static str),
    /// An element that this kind of policy must not have.
    #[error("has prohibited field {0}")]
    Prohibited(&'static str),
    /// Two elements of which a statement has one.
    #[error("has both {0} and {1}")]
    Both(&'static str, &'static str),
    /// An element of another JSON type, or an empty list, where there must be something.
    #[error("{element} must be {expected}")]
    Type {
        /// Which element.
        element: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Neither `2012-10-17` nor `2008-10-17`.
    #[error("version {0:?} is not a version of the policy language")]
    Version(String),
    /// Neither `Allow` nor `Deny`.
    #[error("effect {0:?} is neither Allow nor Deny")]
    Effect(String),
    /// A statement id of an identity policy that is not letters and digits.
    #[error("statement id {0:?} is not letters and digits")]
    Sid(String),
    /// Two statements of an identity policy with one id.
    #[error("statement ids in a single policy must be unique, and {0:?} is not")]
    SidRepeated(String),
    /// `NotPrincipal` with `Allow`, which would allow everybody else in the world.
    #[error("Allow with NotPrincipal is not allowed")]
    AllowNotPrincipal,
    /// Not a principal, or one with a wildcard in its name.
    #[error("invalid principal {0:?} in policy")]
    Principal(String),
    /// An action without its service.
    #[error("action {0:?} must be prefaced by a vendor, e.g. s3 or kms")]
    Action(String),
    /// Neither an ARN nor `*`.
    #[error("resource {0:?} must be in ARN format or \"*\"")]
    Resource(String),
    /// A policy variable that does not end, has no name, or stands where none may.
    #[error("policy variable in {0:?} is not valid there")]
    Variable(String),
    /// A condition operator that the language does not have.
    #[error("unknown condition operator {0:?}")]
    Operator(String),
    /// A condition key without its service.
    #[error("condition key {0:?} must be prefaced by a vendor, e.g. aws or kms")]
    Key(String),
    /// A value that the operator cannot compare with.
    #[error("value {value:?} is not one for {operator}")]
    Value {
        /// As written.
        operator: String,
        /// As written.
        value: String,
    },
    /// More of something than is taken.
    #[error("more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are taken.
        max: usize,
    },
}
