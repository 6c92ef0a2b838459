//! The access key that commands sign with: read where the AWS CLI reads it, and from nowhere else.

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::CliError;
use crate::config::environment;

/// An access key; with a token, of a role's session.
#[derive(Debug)]
pub(super) struct AccessKey {
    pub(super) id: String,
    pub(super) secret: SecretString,
    pub(super) session_token: Option<SecretString>,
}

impl AccessKey {
    /// `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, with `AWS_SESSION_TOKEN` if it is set; else, of the file
    /// `AWS_SHARED_CREDENTIALS_FILE`, the profile that `AWS_PROFILE` names, `default` without.
    ///
    /// # Errors
    ///
    /// For people: what is not set, does not read, or is not in the file.
    pub(super) fn from_environment() -> Result<Self, CliError> {
        // An empty variable is one that is not set, as to the AWS CLI.
        let variable = |name| environment(name).filter(|value| !value.is_empty());
        if let (Some(id), Some(secret)) = (
            variable("AWS_ACCESS_KEY_ID"),
            variable("AWS_SECRET_ACCESS_KEY"),
        ) {
            return Ok(Self {
                id,
                secret: secret.into(),
                session_token: variable("AWS_SESSION_TOKEN").map(Into::into),
            });
        }
        let path = variable("AWS_SHARED_CREDENTIALS_FILE").ok_or(
            "set AWS_SHARED_CREDENTIALS_FILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )?;
        let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".into());
        let text = Zeroizing::new(
            std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?,
        );
        Self::in_file(&text, &profile).map_err(|error| format!("{path}: {error}").into())
    }

    /// The access key of one profile in the text of a credentials file.
    fn in_file(text: &str, profile: &str) -> Result<Self, String> {
        let mut inside = false;
        let mut found = false;
        let (mut id, mut secret, mut session_token) = (None, None, None);
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix('[') {
                inside = rest.split(']').next().map(str::trim) == Some(profile);
                found |= inside;
                continue;
            }
            let Some((name, value)) = line.split_once('=').filter(|_pair| inside) else {
                continue;
            };
            let value = value.trim();
            match name.trim() {
                "aws_access_key_id" => id = Some(value.to_owned()),
                "aws_secret_access_key" => secret = Some(value.into()),
                "aws_session_token" => session_token = Some(value.into()),
                // Such a file has settings of other programs, too.
                _other => {}
            }
        }
        if !found {
            return Err(format!("no profile [{profile}]"));
        }
        let missing = |name: &str| format!("no {name} in [{profile}]");
        Ok(Self {
            id: id.ok_or_else(|| missing("aws_access_key_id"))?,
            secret: secret.ok_or_else(|| missing("aws_secret_access_key"))?,
            session_token,
        })
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::AccessKey;

    const FILE: &str = "# people's\n[ann]\naws_access_key_id = AKIAANN\naws_secret_access_key=anns=secret\n\
        region = us-west-2\n\n[default]\naws_secret_access_key = mine\naws_access_key_id = AKIAMINE\n\
        [role]\n  aws_access_key_id = ASIAROLE\n  aws_secret_access_key = roles\n  aws_session_token = token=\n[half]\n\
        aws_access_key_id = AKIAHALF\n";

    fn read(profile: &str) -> (String, String, Option<String>) {
        let key = AccessKey::in_file(FILE, profile).expect(profile);
        let token = key.session_token.as_ref();
        (
            key.id,
            key.secret.expose_secret().to_owned(),
            token.map(|token| token.expose_secret().to_owned()),
        )
    }

    #[test]
    fn a_profile_is_read_and_no_other() {
        assert_eq!(read("default"), ("AKIAMINE".into(), "mine".into(), None));
        let anns = ("AKIAANN".into(), "anns=secret".into(), None);
        assert_eq!(read("ann"), anns);
        let roles = ("ASIAROLE".into(), "roles".into(), Some("token=".into()));
        assert_eq!(read("role"), roles);
    }

    #[test]
    fn a_profile_that_is_not_whole_is_refused() {
        for (file, profile, message) in [
            (FILE, "bob", "no profile [bob]"),
            (FILE, "half", "no aws_secret_access_key in [half]"),
            (
                "aws_access_key_id = AKIAX\naws_secret_access_key = x\n",
                "default",
                "no profile [default]",
            ),
        ] {
            let error = AccessKey::in_file(file, profile).expect_err(message);
            assert_eq!(error, message);
        }
    }
}
