//! What conditions compare: numbers, dates, networks. Each is read from text, of a policy or of a request, or is not one.

use std::cmp::Ordering;
use std::net::IpAddr;

use time::{Date, Month, OffsetDateTime, Time, UtcOffset};

/// An integer or a decimal, exact however long it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    /// Without zeros in front.
    integer: String,
    /// Without zeros at the end.
    fraction: String,
}

impl Decimal {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (integer, fraction) = match digits.split_once('.') {
            Some((integer, fraction)) if !fraction.is_empty() => (integer, fraction),
            Some(_) => return None,
            None => (digits, ""),
        };
        if integer.is_empty() || !all_digits(integer) || !all_digits(fraction) {
            return None;
        }
        let integer = integer.trim_start_matches('0').to_owned();
        let fraction = fraction.trim_end_matches('0').to_owned();
        Some(Self {
            negative: negative && !(integer.is_empty() && fraction.is_empty()),
            integer,
            fraction,
        })
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let magnitude = || {
            (self.integer.len(), &self.integer, &self.fraction).cmp(&(
                other.integer.len(),
                &other.integer,
                &other.fraction,
            ))
        };
        match (self.negative, other.negative) {
            (false, false) => magnitude(),
            (true, true) => magnitude().reverse(),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A moment: one of the formats of the W3C's note on ISO 8601, or seconds since 1970. Four digits are a year. Without a
/// zone it is UTC.
pub(super) fn parse_date(text: &str) -> Option<OffsetDateTime> {
    let seconds = text.strip_prefix('-').unwrap_or(text);
    if all_digits(seconds) && !seconds.is_empty() && text.len() != 4 {
        return OffsetDateTime::from_unix_timestamp(text.parse().ok()?).ok();
    }
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let mut fields = date.split('-');
    let year = number(fields.next()?, 4)?;
    let month = fields.next().map_or(Some(1), |field| number(field, 2))?;
    let day = fields.next().map_or(Some(1), |field| number(field, 2))?;
    if fields.next().is_some() || (time.is_some() && date.len() != "YYYY-MM-DD".len()) {
        return None;
    }
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let day = u8::try_from(day).ok()?;
    let date = Date::from_calendar_date(i32::from(year), month, day).ok()?;
    let (time, offset) = match time {
        Some(time) => parse_time(time)?,
        None => (Time::MIDNIGHT, UtcOffset::UTC),
    };
    Some(date.with_time(time).assume_offset(offset))
}

/// `hh:mm`, `hh:mm:ss` or `hh:mm:ss.s`, and `Z`, `+hh:mm`, `-hh:mm` or nothing.
fn parse_time(text: &str) -> Option<(Time, UtcOffset)> {
    let (clock, zone) = match text.find(['Z', '+', '-']) {
        Some(at) => text.split_at_checked(at)?,
        None => (text, "Z"),
    };
    let offset = match zone.strip_prefix(['+', '-']) {
        None if zone == "Z" => UtcOffset::UTC,
        None => return None,
        Some(distance) => {
            let (hours, minutes) = distance.split_once(':')?;
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let hours = i8::try_from(number(hours, 2)?).ok()?;
            let minutes = i8::try_from(number(minutes, 2)?).ok()?;
            UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()?
        }
    };
    let (clock, fraction) = match clock.split_once('.') {
        Some((clock, fraction)) => (clock, Some(fraction)),
        None => (clock, None),
    };
    let fields: Vec<u8> = clock
        .split(':')
        .map(|field| number(field, 2).and_then(|field| u8::try_from(field).ok()))
        .collect::<Option<_>>()?;
    let time = match (fields.as_slice(), fraction) {
        ([hour, minute], None) => Time::from_hms(*hour, *minute, 0).ok()?,
        ([hour, minute, second], None) => Time::from_hms(*hour, *minute, *second).ok()?,
        ([hour, minute, second], Some(fraction)) => {
            if fraction.is_empty() || fraction.len() > 9 || !all_digits(fraction) {
                return None;
            }
            let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
            Time::from_hms_nano(*hour, *minute, *second, nanoseconds).ok()?
        }
        _ => return None,
    };
    Some((time, offset))
}

/// A number of exactly so many digits.
fn number(text: &str, digits: usize) -> Option<u16> {
    (text.len() == digits && all_digits(text))
        .then(|| text.parse().ok())
        .flatten()
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// Addresses that share their first bits. An address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits = bits(address);
        let prefix = match prefix {
            None => bits,
            Some(prefix) if (1..=3).contains(&prefix.len()) && all_digits(prefix) => {
                prefix.parse().ok().filter(|prefix| *prefix <= bits)?
            }
            Some(_) => return None,
        };
        Some(Self { address, prefix })
    }

    /// Whether the address is of the network. An IPv4 address that came as an IPv6 one is an IPv4 address.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u128::from(ours.to_bits()), u128::from(theirs.to_bits()))
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits()),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        // A network of every address shifts all bits out.
        let beyond = bits(self.address) - self.prefix;
        (ours ^ theirs).checked_shr(beyond).unwrap_or(0) == 0
    }
}

fn bits(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => u32::from(32_u8),
        IpAddr::V6(_) => u32::from(128_u8),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn what_is_no_number_is_none() {
        for text in [
            "", "-", "+", ".5", "5.", "1e3", "0x1", " 1", "1 ", "1,5", "NaN", "--1", "٣",
        ] {
            assert_eq!(Decimal::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_ordered_as_numbers() {
        let ordered = [
            "-100000000000000000000000000000000000000000",
            "-10",
            "-9.5",
            "-0.1",
            "0",
            "0.05",
            "0.1",
            "0.11",
            "9",
            "10",
            "10.01",
            "9007199254740992",
            "9007199254740993",
            "100000000000000000000000000000000000000000",
        ];
        let numbers: Vec<_> = ordered.iter().map(|text| Decimal::parse(text)).collect();
        for pair in numbers.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
        for (a, b) in [("1", "1.0"), ("-0", "0"), ("007", "+7"), ("0.50", "0.5")] {
            assert_eq!(Decimal::parse(a), Decimal::parse(b), "{a} {b}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "-",
            "yesterday",
            "2026-13",
            "2026-02-30",
            "2026-1-1",
            "2026-01-01T",
            "2026-01-01T10",
            "2026-01-01T25:00Z",
            "2026-01T10:00Z",
            "2026-01-01T10:00:00.Z",
            "2026-01-01T10:00.5Z",
            "2026-01-01T10:00:00.0123456789Z",
            "2026-01-01T10:00Zx",
            "2026-01-01T10:00+2",
            "2026-01-01T10:00+ab:00",
            "2026-01-01-01",
            "99999999999999999999",
        ] {
            assert_eq!(parse_date(text), None, "{text:?}");
        }
    }

    #[test]
    fn dates_are_read_in_every_format() {
        for (text, date) in [
            ("2026", datetime!(2026-01-01 0:00 UTC)),
            ("2026-03", datetime!(2026-03-01 0:00 UTC)),
            ("2026-03-04", datetime!(2026-03-04 0:00 UTC)),
            ("2026-03-04T05:06Z", datetime!(2026-03-04 5:06 UTC)),
            ("2026-03-04T05:06:07Z", datetime!(2026-03-04 5:06:07 UTC)),
            ("2026-03-04T05:06:07", datetime!(2026-03-04 5:06:07 UTC)),
            (
                "2026-03-04T05:06:07.25Z",
                datetime!(2026-03-04 5:06:07.25 UTC),
            ),
            (
                "2026-03-04T05:06:07+02:30",
                datetime!(2026-03-04 2:36:07 UTC),
            ),
            (
                "2026-03-04T22:06:07-02:00",
                datetime!(2026-03-05 0:06:07 UTC),
            ),
            ("0", OffsetDateTime::UNIX_EPOCH),
            ("1772600767", datetime!(2026-03-04 5:06:07 UTC)),
            ("-1", datetime!(1969-12-31 23:59:59 UTC)),
        ] {
            assert_eq!(parse_date(text), Some(date), "{text}");
        }
    }

    #[test]
    fn what_is_no_network_is_none() {
        for text in [
            "",
            "*",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "010.0.0.1",
            "10.0.0.0/0000",
            "2001:db8::/129",
            "10.0.0.0/255.0.0.0",
        ] {
            assert_eq!(Network::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_network_has_the_addresses_of_its_prefix_and_no_others() {
        for (network, inside, outside) in [
            ("203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
            ("203.0.113.77/24", "203.0.113.1", "203.0.112.255"),
            ("203.0.113.7", "203.0.113.7", "203.0.113.6"),
            ("203.0.113.0/24", "::ffff:203.0.113.9", "::ffff:203.0.112.9"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            (
                "2001:db8:1234:5678::/64",
                "2001:db8:1234:5678::1",
                "2001:db8:1234:5679::1",
            ),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("::/0", "ffff::", "10.0.0.1"),
        ] {
            let found = Network::parse(network).expect(network);
            assert!(
                found.contains(inside.parse().expect(inside)),
                "{network} {inside}"
            );
            assert!(
                !found.contains(outside.parse().expect(outside)),
                "{network} {outside}"
            );
        }
    }
}
