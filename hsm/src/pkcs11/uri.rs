//! The `pkcs11:` URI that names a token (RFC 7512), read strictly.

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::raw::TokenFacts;
use crate::{HsmError, HsmResult, WrapScheme};

/// The longest URI that is read.
const URI_BYTES_MAX: usize = 4096;

/// Which token, behind which module, with which PIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11Config {
    /// The module library: an absolute path, so that no search path decides what is loaded.
    pub module: PathBuf,
    /// Which of its tokens.
    pub token: TokenSelector,
    /// The file that holds the user PIN, read anew for each login: an absolute path.
    pub pin_source: PathBuf,
    /// The scheme of keys that are made from now on. `None`: the first that works, found by trial. A scheme that is
    /// named here is not tried first: a token may refuse the trial's keys and still do it.
    pub scheme: Option<WrapScheme>,
    /// Use a token that was seen to give away what it must not: keys are then only as safe as its PIN. Of such a token
    /// it is not asked, either, to vouch for its keys' past (`CKA_LOCAL`, `CKA_ALWAYS_SENSITIVE`,
    /// `CKA_NEVER_EXTRACTABLE`). Nothing changes for a token that is safe.
    pub allow_unsafe: bool,
    /// What the module wants to be initialised with, in the field that PKCS#11 reserves (NSS: `configdir='sql:/…'
    /// certPrefix='' keyPrefix='' secmod='secmod.db' flags=`). The same for every token behind one module.
    pub init_args: Option<String>,
}

/// Which token is meant: every attribute that is given must be the token's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSelector {
    /// `token`: its label.
    pub label: Option<String>,
    /// `serial`: its serial number.
    pub serial: Option<String>,
    /// `manufacturer`: its maker.
    pub manufacturer: Option<String>,
    /// `model`: its model.
    pub model: Option<String>,
}

impl Pkcs11Config {
    /// Reads `pkcs11:token=…;serial=…?module-path=/…&pin-source=file:/…`.
    ///
    /// Path attributes: `token`, `serial`, `manufacturer`, `model`; one of the first two is required. Query
    /// attributes, both required: `module-path` and `pin-source`, absolute paths (the latter also as `file:` URI).
    /// Values are percent-encoded; an attribute stands once.
    ///
    /// # Errors
    ///
    /// [`HsmError::Config`] naming the attribute: unknown ones, and `slot-id` (slots are renumbered), `module-name` (a
    /// search path would decide) and `pin-value` (whoever lists processes would read it), are refused.
    pub fn from_uri(uri: &str) -> HsmResult<Self> {
        if uri.len() > URI_BYTES_MAX {
            return Err(bad(format!("it has more than {URI_BYTES_MAX} bytes")));
        }
        let (scheme, rest) = uri
            .split_once(':')
            .ok_or_else(|| bad("it does not start with pkcs11:"))?;
        if !scheme.eq_ignore_ascii_case("pkcs11") {
            return Err(bad("it does not start with pkcs11:"));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut token = TokenSelector::default();
        for attribute in path.split(';').filter(|attribute| !attribute.is_empty()) {
            let (name, value) = name_and_value(attribute)?;
            let place = match name {
                "token" => &mut token.label,
                "serial" => &mut token.serial,
                "manufacturer" => &mut token.manufacturer,
                "model" => &mut token.model,
                "slot-id" => {
                    return Err(bad(
                        "slot-id is refused: slots are renumbered, name token or serial",
                    ));
                }
                _ => return Err(bad(format!("unknown attribute {name}"))),
            };
            set_once(place, name, decoded(name, value, PATH_MARKS)?)?;
        }
        if token.label.is_none() && token.serial.is_none() {
            return Err(bad("it names neither token nor serial"));
        }
        let (mut module, mut pin_source) = (None, None);
        for attribute in query.split('&').filter(|attribute| !attribute.is_empty()) {
            let (name, value) = name_and_value(attribute)?;
            let place = match name {
                "module-path" => &mut module,
                "pin-source" => &mut pin_source,
                "module-name" => {
                    return Err(bad("module-name is refused: give the absolute module-path"));
                }
                // The value may be a PIN: nothing of it is repeated.
                "pin-value" => {
                    return Err(bad(
                        "pin-value is refused: a PIN comes by file, name it with pin-source",
                    ));
                }
                _ => return Err(bad(format!("unknown query attribute {name}"))),
            };
            set_once(place, name, decoded(name, value, QUERY_MARKS)?)?;
        }
        let module = module.ok_or_else(|| bad("module-path is missing"))?;
        let pin_source = pin_source.ok_or_else(|| bad("pin-source is missing"))?;
        Ok(Self {
            module: absolute("module-path", &module)?,
            token,
            pin_source: absolute("pin-source", file_path(&pin_source))?,
            scheme: None,
            allow_unsafe: false,
            init_args: None,
        })
    }
}

impl TokenSelector {
    pub(super) fn matches(&self, token: &TokenFacts) -> bool {
        let is = |wanted: &Option<String>, value: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == value)
        };
        is(&self.label, &token.label)
            && is(&self.serial, &token.serial)
            && is(&self.manufacturer, &token.manufacturer)
            && is(&self.model, &token.model)
    }
}

impl fmt::Display for TokenSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            ("token", &self.label),
            ("serial", &self.serial),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
        ];
        let mut separator = "";
        for (name, value) in named {
            if let Some(value) = value {
                write!(f, "{separator}{name}={value}")?;
                separator = ";";
            }
        }
        Ok(())
    }
}

/// `pk11-res-avail` and `&`, and with [`UNRESERVED`] all that stands unencoded in a path value (RFC 7512 §2.3).
const PATH_MARKS: &str = ":[]@!$'()*+,=&";
/// The same for a query value.
const QUERY_MARKS: &str = ":[]@!$'()*+,=/?|";
/// `unreserved` besides letters and digits (RFC 3986 §2.3).
const UNRESERVED: &str = "-._~";

fn name_and_value(attribute: &str) -> HsmResult<(&str, &str)> {
    attribute
        .split_once('=')
        .ok_or_else(|| bad("an attribute has no ="))
}

fn decoded(name: &str, value: &str, marks: &str) -> HsmResult<String> {
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let legal = match byte {
            b'%' => rest
                .next()
                .zip(rest.next())
                .is_some_and(|(high, low)| high.is_ascii_hexdigit() && low.is_ascii_hexdigit()),
            _ => {
                byte.is_ascii_alphanumeric()
                    || marks
                        .bytes()
                        .chain(UNRESERVED.bytes())
                        .any(|mark| mark == byte)
            }
        };
        if !legal {
            return Err(bad(format!("the value of {name} is not percent-encoded")));
        }
    }
    let text = percent_decode_str(value).decode_utf8();
    let text = text.map_err(|_invalid| bad(format!("the value of {name} is not UTF-8")))?;
    if text.is_empty() || text.contains('\0') {
        return Err(bad(format!("the value of {name} is empty or has a NUL")));
    }
    Ok(text.into_owned())
}

fn set_once(place: &mut Option<String>, name: &str, value: String) -> HsmResult<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(bad(format!("{name} stands twice"))),
    }
}

/// The path of a `file:` URI without or with an empty authority (RFC 8089), or the text as it is.
fn file_path(source: &str) -> &str {
    let Some(path) = source.strip_prefix("file:") else {
        return source;
    };
    path.strip_prefix("//").unwrap_or(path)
}

fn absolute(name: &str, path: &str) -> HsmResult<PathBuf> {
    if !Path::new(path).is_absolute() {
        return Err(bad(format!("{name} must be an absolute path")));
    }
    Ok(PathBuf::from(path))
}

fn bad(what: impl fmt::Display) -> HsmError {
    HsmError::Config(format!("pkcs11 URI: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "pkcs11:token=strong%20room;serial=01ab?module-path=/usr/lib/m.so&pin-source=file:/run/pin";

    fn refusal(uri: &str) -> String {
        Pkcs11Config::from_uri(uri)
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn every_known_attribute_is_read() {
        let uri = "PKCS11:manufacturer=M;model=v2;token=t;serial=s?pin-source=/p&module-path=/m";
        let config = Pkcs11Config::from_uri(uri).expect("valid");
        assert_eq!(
            config.token.to_string(),
            "token=t;serial=s;manufacturer=M;model=v2"
        );
        assert_eq!(
            (config.module, config.pin_source),
            (PathBuf::from("/m"), PathBuf::from("/p"))
        );
    }

    #[test]
    fn values_are_percent_decoded() {
        let config = Pkcs11Config::from_uri(GOOD).expect("valid");
        assert_eq!(config.token.label.as_deref(), Some("strong room"));
    }

    #[test]
    fn a_pin_source_may_be_a_file_uri_with_an_empty_authority() {
        let config =
            Pkcs11Config::from_uri("pkcs11:token=t?module-path=/m&pin-source=file:///run/pin");
        assert_eq!(config.expect("valid").pin_source, PathBuf::from("/run/pin"));
    }

    #[test]
    fn a_pin_in_the_uri_is_refused_and_not_repeated() {
        let text = refusal("pkcs11:token=t?module-path=/m&pin-value=987654");
        assert!(
            text.contains("pin-value") && !text.contains("987654"),
            "{text}"
        );
    }

    #[test]
    fn attributes_that_do_not_name_a_token_for_good_are_refused() {
        for name in [
            "slot-id",
            "object",
            "id",
            "type",
            "library-version",
            "x-own",
        ] {
            let text = refusal(&format!(
                "pkcs11:token=t;{name}=1?module-path=/m&pin-source=/p"
            ));
            assert!(text.contains(name), "{text}");
        }
        for name in ["module-name", "x-own"] {
            let text = refusal(&format!(
                "pkcs11:token=t?module-path=/m&pin-source=/p&{name}=a"
            ));
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn what_must_be_there_is_missed() {
        assert!(refusal("pkcs11:model=m?module-path=/m&pin-source=/p").contains("token"));
        assert!(refusal("pkcs11:token=t?pin-source=/p").contains("module-path"));
        assert!(refusal("pkcs11:token=t?module-path=/m").contains("pin-source"));
        assert!(refusal("file:token=t").contains("pkcs11:"));
    }

    #[test]
    fn paths_must_be_absolute() {
        assert!(refusal("pkcs11:token=t?module-path=m.so&pin-source=/p").contains("module-path"));
        assert!(
            refusal("pkcs11:token=t?module-path=/m&pin-source=file:pin").contains("pin-source")
        );
        assert!(
            refusal("pkcs11:token=t?module-path=/m&pin-source=|cat%20/p").contains("pin-source")
        );
    }

    #[test]
    fn malformed_values_are_refused() {
        for value in ["", "a%2", "a%zz", "a b", "a/b", "%ff", "a%00"] {
            let text = refusal(&format!(
                "pkcs11:token={value}?module-path=/m&pin-source=/p"
            ));
            assert!(text.contains("token"), "{value}: {text}");
        }
        assert!(refusal("pkcs11:token=t;token=u?module-path=/m&pin-source=/p").contains("twice"));
        assert!(refusal("pkcs11:token?module-path=/m&pin-source=/p").contains('='));
    }

    #[test]
    fn a_uri_is_read_up_to_its_limit() {
        let longest = format!("{GOOD}{}", "a".repeat(URI_BYTES_MAX - GOOD.len()));
        assert!(Pkcs11Config::from_uri(&longest).is_ok());
        assert!(refusal(&format!("{longest}a")).contains("4096"));
    }
}
