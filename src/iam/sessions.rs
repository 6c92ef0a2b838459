//! Sessions of roles: temporary credentials that no record remembers.

use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::documents::{Use, check, stored_trust};
use super::error::IamError;
use super::names::{Kind, folded, new_access_key_id, new_secret, parse_role_arn};
use super::record::{EntityRecord, Own};
use super::secrets::SessionRecord;
use super::{Iam, find_entity};
use crate::auth::policy::Side;
use crate::auth::{AccountId, Action, Identity, RequestContext, Resource, authorise};
use crate::kms::Rows;

/// Shortest session, in seconds.
pub const SESSION_SECONDS_MIN: u32 = 900;
/// Longest session of a role that was assumed by a session of another, in seconds.
pub const CHAINED_SECONDS_MAX: u32 = 3600;
/// Characters that all session policies may have together: the text of one, and the ARNs of the others.
pub const SESSION_POLICY_CHARS_MAX: usize = 2048;
/// Managed session policies of one session.
pub(super) const SESSION_POLICY_ARNS_MAX: usize = 10;

const SESSION_SECONDS_DEFAULT: u32 = 3600;

/// What a caller asks for.
#[derive(Debug)]
pub(super) struct AssumeRole<'a> {
    pub(super) role_arn: &'a str,
    pub(super) session_name: &'a str,
    pub(super) seconds: Option<u32>,
    pub(super) policy: Option<&'a str>,
    pub(super) policy_arns: &'a [String],
    pub(super) external_id: Option<&'a str>,
}

/// What it gets: the only time that the secret is told.
pub(super) struct NewSession {
    pub(super) access_key_id: String,
    pub(super) secret: Zeroizing<String>,
    pub(super) token: String,
    /// Seconds since 1970.
    pub(super) expires: i64,
    /// `AROA…:SESSION`.
    pub(super) user_id: String,
    pub(super) arn: String,
    /// How much of the room for session policies is used, if there are any.
    pub(super) packed_percent: Option<usize>,
}

impl Iam {
    /// Lets the caller be a session of a role, if the role's trust policy and, where they count, the caller's own
    /// policies let it.
    ///
    /// # Errors
    ///
    /// [`IamError::MayNotAssume`], which does not tell whether there is such a role; [`IamError::Validation`] by its
    /// longest session; what is wrong about the session policies; by the HSM.
    pub(super) async fn assume_role(
        &self,
        context: &RequestContext,
        ask: &AssumeRole<'_>,
    ) -> Result<NewSession, IamError> {
        let principal = &context.principal;
        if matches!(principal.identity, Identity::Root) {
            return Err(IamError::RootMayNotAssume);
        }
        let denied = || IamError::MayNotAssume {
            principal: principal.arn(),
            role: ask.role_arn.to_owned(),
        };
        let (account, _, name) = parse_role_arn(ask.role_arn)
            .ok_or_else(|| IamError::Validation(format!("{} is invalid", ask.role_arn)))?;
        let packed_percent = packed_percent(ask)?;
        let rows = self.kms.rows().await?;
        let role = find_entity(&rows, &account, Kind::Role, name)
            .await?
            .map(|role| role.record)
            .filter(|role| role.arn(&account) == ask.role_arn)
            .ok_or_else(denied)?;
        let Own::Role {
            trust,
            session_seconds_max,
            bound,
            ..
        } = &role.own
        else {
            return Err(IamError::Damaged("a role that is none"));
        };
        let trust = stored_trust(trust)?.meaning(bound.clone());
        let side = Side::Role {
            owner: &account,
            trust: &trust,
        };
        let resource = Resource::Iam(ask.role_arn.to_owned());
        let _may = authorise(
            context,
            Action("sts:AssumeRole"),
            resource,
            side,
            |values| {
                values.add("sts:RoleSessionName", ask.session_name);
                if let Some(id) = ask.external_id {
                    values.add("sts:ExternalId", id);
                }
            },
        )
        .map_err(|_unsaid_whether_there_is_one| denied())?;
        let is_chained = matches!(principal.identity, Identity::Session(_));
        let seconds = session_seconds(is_chained, ask.seconds, *session_seconds_max)?;
        self.check_session_policies(&rows, &account, ask).await?;
        self.begin_session(&account, &role, ask, seconds, packed_percent)
            .await
    }

    async fn check_session_policies(
        &self,
        rows: &Rows,
        account: &AccountId,
        ask: &AssumeRole<'_>,
    ) -> Result<(), IamError> {
        if let Some(text) = ask.policy {
            check(Use::Identity, text)?;
        }
        for arn in ask.policy_arns {
            if self.managed_document(rows, account, arn).await?.is_none() {
                return Err(IamError::MalformedPolicy(format!(
                    "Policy {arn} does not exist."
                )));
            }
        }
        Ok(())
    }

    async fn begin_session(
        &self,
        account: &AccountId,
        role: &EntityRecord,
        ask: &AssumeRole<'_>,
        seconds: u32,
        packed_percent: Option<usize>,
    ) -> Result<NewSession, IamError> {
        let credential = self.credential_or_make().await?;
        let access_key_id = new_access_key_id("ASIA")?;
        let secret = new_secret()?;
        let expires = self.now().saturating_add(seconds.into());
        let record = SessionRecord {
            account: account.as_str().to_owned(),
            role: folded(&role.name),
            role_id: role.id.clone(),
            name: ask.session_name.to_owned(),
            expires,
            secret: secret.as_str().to_owned(),
            policies: ask.policy.map(str::to_owned).into_iter().collect(),
            policy_arns: ask.policy_arns.to_vec(),
        };
        Ok(NewSession {
            token: credential.seal_session(&access_key_id, &record)?,
            access_key_id,
            secret,
            expires,
            user_id: format!("{}:{}", role.id, ask.session_name),
            arn: format!(
                "arn:aws:sts::{account}:assumed-role/{}/{}",
                role.name, ask.session_name
            ),
            packed_percent,
        })
    }
}

/// How long the session is.
fn session_seconds(is_chained: bool, asked: Option<u32>, role_max: u32) -> Result<u32, IamError> {
    let seconds = asked.unwrap_or(SESSION_SECONDS_DEFAULT);
    if is_chained && seconds > CHAINED_SECONDS_MAX {
        return Err(IamError::Validation(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
                .to_owned(),
        ));
    }
    if seconds > role_max {
        return Err(IamError::Validation(
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
                .to_owned(),
        ));
    }
    Ok(seconds)
}

/// How much of the room for session policies is used.
fn packed_percent(ask: &AssumeRole<'_>) -> Result<Option<usize>, IamError> {
    if ask.policy.is_none() && ask.policy_arns.is_empty() {
        return Ok(None);
    }
    let text = ask.policy.map_or(0, |text| text.chars().count());
    let arns: usize = ask.policy_arns.iter().map(String::len).sum();
    let chars = text.saturating_add(arns);
    let percent = chars.saturating_mul(100).div_ceil(SESSION_POLICY_CHARS_MAX);
    if chars > SESSION_POLICY_CHARS_MAX {
        return Err(IamError::PackedPolicyTooLarge(percent));
    }
    Ok(Some(percent))
}

/// The moment that is so many seconds after 1970.
pub(super) fn moment(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask<'a>(policy: Option<&'a str>, policy_arns: &'a [String]) -> AssumeRole<'a> {
        AssumeRole {
            role_arn: "",
            session_name: "",
            seconds: None,
            policy,
            policy_arns,
            external_id: None,
        }
    }

    #[test]
    fn a_session_is_as_long_as_its_role_lets_it() {
        assert_eq!(
            session_seconds(false, None, 3600).expect("the default"),
            3600
        );
        assert_eq!(
            session_seconds(false, Some(7200), 7200).expect("just"),
            7200
        );
        assert!(session_seconds(false, Some(7201), 7200).is_err());
        assert_eq!(session_seconds(true, Some(3600), 7200).expect("just"), 3600);
        assert!(session_seconds(true, Some(3601), 7200).is_err());
    }

    #[test]
    fn session_policies_are_bounded_together() {
        assert_eq!(packed_percent(&ask(None, &[])).expect("none"), None);
        let text = "p".repeat(SESSION_POLICY_CHARS_MAX);
        assert_eq!(
            packed_percent(&ask(Some(&text), &[])).expect("just"),
            Some(100)
        );
        let one = ["a".to_owned()];
        let refused = packed_percent(&ask(Some(&text), &one)).expect_err("one more");
        assert!(
            matches!(refused, IamError::PackedPolicyTooLarge(101)),
            "{refused}"
        );
    }
}
