//! Times in the log: RFC 3339, UTC, microseconds.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// µs since 1970 UTC, written as `2026-01-31T23:59:59.999999Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

const US_PER_S: u64 = 1_000_000;
const S_PER_DAY: u64 = 86_400;

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / US_PER_S;
        let (year, month, day) = date(seconds / S_PER_DAY);
        let of_day = seconds % S_PER_DAY;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
            of_day / 3_600,
            of_day / 60 % 60,
            of_day % 60,
            self.0 % US_PER_S
        )
    }
}

impl FromStr for Timestamp {
    type Err = String;

    /// Accepts exactly what `Display` writes.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no time: write 2026-01-31T23:59:59.999999Z");
        if text.len() != 27 || !text.is_ascii() {
            return Err(wrong());
        }
        let number = |at: std::ops::Range<usize>| text[at].parse::<u64>().map_err(|_| wrong());
        let days = days(number(0..4)?, number(5..7)?, number(8..10)?).ok_or_else(wrong)?;
        let of_day = number(11..13)? * 3_600 + number(14..16)? * 60 + number(17..19)?;
        let time = Self((days * S_PER_DAY + of_day) * US_PER_S + number(20..26)?);
        // Every digit and separator must be where it is written.
        if time.to_string() == text {
            Ok(time)
        } else {
            Err(wrong())
        }
    }
}

impl Timestamp {
    /// Reads a time as somebody types it: RFC 3339 with any offset, or `2026-11-17 20:15` with or
    /// without seconds, which is UTC.
    pub fn from_typed(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no time: write 2026-11-17T20:15:00Z, or \"2026-11-17 20:15\" in UTC"
            )
        };
        let typed = text.trim();
        if !typed.is_ascii() || typed.len() < 16 {
            return Err(wrong());
        }
        let (date, rest) = typed.split_at(10);
        let rest = rest.strip_prefix(['T', 't', ' ']).ok_or_else(wrong)?;
        let (clock, offset_us) = match rest.find(['Z', 'z', '+', '-']) {
            None => (rest, 0),
            Some(at) => (&rest[..at], offset_us(&rest[at..]).ok_or_else(wrong)?),
        };
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let clock = if clock.len() == 5 {
            format!("{clock}:00")
        } else {
            clock.to_owned()
        };
        let is_number = !fraction.is_empty() && fraction.bytes().all(|c| c.is_ascii_digit());
        if !is_number {
            return Err(wrong());
        }
        let fraction = &format!("{fraction:0<6}")[..6];
        let time: Self = format!("{date}T{clock}.{fraction}Z")
            .parse()
            .map_err(|_| wrong())?;
        time.0
            .checked_add_signed(-offset_us)
            .map(Self)
            .ok_or_else(wrong)
    }
}

/// `Z`, `+01:00` or `-05:30` in µs.
fn offset_us(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let number = |text: &str, below: i64| {
        let digits = text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|&value: &i64| digits && value < below)
    };
    let seconds = number(hours, 24)? * 3_600 + number(minutes, 60)? * 60;
    let us = seconds * US_PER_S as i64;
    Some(if zone.starts_with('-') { -us } else { us })
}

/// Year, month and day of a day since 1970 (Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Days since 1970 of a date (`days_from_civil`); `None` before 1970 or out of range.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    (era * 146_097 + of_era).checked_sub(719_468)
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "date-time",
            "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        for (time_us, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_827_696_000_001, "2000-02-29T12:34:56.000001Z"),
            (4_107_542_399_999_999, "2100-02-28T23:59:59.999999Z"),
            (1_795_286_246_000_000, "2026-11-21T18:37:26.000000Z"),
        ] {
            assert_eq!(Timestamp(time_us).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026-11-21T18:37:26Z",
            "2026-11-21 18:37:26.000000Z",
            "2026-02-30T00:00:00.000000Z",
            "2026-13-01T00:00:00.000000Z",
            "2026-11-21T24:00:00.000000Z",
            "1969-12-31T23:59:59.000000Z",
            "2026-11-21T18:37:26.00000+Z",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_as_they_are_typed() {
        for (text, is) in [
            ("2026-11-17 20:15", "2026-11-17T20:15:00.000000Z"),
            ("2026-11-17 20:15:07", "2026-11-17T20:15:07.000000Z"),
            ("2026-11-17T20:15:07Z", "2026-11-17T20:15:07.000000Z"),
            (
                "2026-11-17t21:15:07.25+01:00",
                "2026-11-17T20:15:07.250000Z",
            ),
            ("2026-11-17T14:45:07-05:30", "2026-11-17T20:15:07.000000Z"),
            (
                "2026-11-17T20:15:07.1234567Z",
                "2026-11-17T20:15:07.123456Z",
            ),
        ] {
            assert_eq!(Timestamp::from_typed(text).expect(text).to_string(), is);
        }
        for text in [
            "",
            "now",
            "20:15",
            "2026-11-17",
            "2026-11-17 20",
            "2026-11-17 24:00",
            "2026-02-30 20:15",
            "2026-11-17 20:15+1:00",
            "2026-11-17 20:15+99:00",
            "2026-11-17 20:15:07.",
            "2026-11-17 20:15:07.+5",
            "2026-11-17 20:15 UTC",
            "1970-01-01T00:00:00+01:00",
            "2026\u{2212}11-17 20:15",
        ] {
            assert!(Timestamp::from_typed(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_typed_panics(text in "\\PC{0,40}") {
            let _ = Timestamp::from_typed(&text);
        }

        #[test]
        fn every_time_is_read_back(time_us in 0u64..250_000_000_000_000_000) {
            let time = Timestamp(time_us);
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }
}
