//! Durations, sizes and shares as they are written in documents.

use std::{fmt, str::FromStr};

use jiff::{SignedDuration, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Why a duration could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Nothing there.
    #[error("a duration is missing")]
    Empty,
    /// A number without a unit, or a unit without a number, or a unit that is not one.
    #[error("`{text}` is not a duration; write a number and a unit, such as {units}")]
    Malformed {
        /// What was written.
        text: String,
        /// Examples with every unit that is read here.
        units: &'static str,
    },
    /// Not a number of bytes.
    #[error("`{0}` is not a size; write a whole number and a unit, such as `500KiB`, `20MiB` or `1GiB`")]
    Size(String),
    /// Not a share.
    #[error("`{0}` is not a share from `0%` to `100%`")]
    Share(String),
    /// More than 1000 years.
    #[error("`{0}` is too long")]
    TooLong(String),
}

/// An exact duration: `90s`, `10m`, `24h`, `7d`, `2w`, or several together such as `1h30m`. A day is 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText {
    seconds: i64,
}

const DURATION_UNITS: &str = "`90s`, `10m`, `24h`, `7d` or `2w`";
const LONGEST_SECONDS: i64 = 1000 * 366 * 86_400;

impl DurationText {
    /// From whole seconds.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds }
    }

    /// Whole seconds.
    pub const fn seconds(self) -> i64 {
        self.seconds
    }

    /// As a duration to calculate with.
    pub const fn duration(self) -> SignedDuration {
        SignedDuration::from_secs(self.seconds)
    }

    /// As a duration of the standard library, for timeouts.
    pub const fn std(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.seconds as u64)
    }
}

impl FromStr for DurationText {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let mut seconds: i64 = 0;
        for (count, unit) in parts(text, DURATION_UNITS)? {
            let unit_seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                "d" => 86_400,
                "w" => 7 * 86_400,
                _ => return Err(QuantityError::Malformed { text: text.to_owned(), units: DURATION_UNITS }),
            };
            seconds = count
                .checked_mul(unit_seconds)
                .and_then(|more| seconds.checked_add(more))
                .filter(|seconds| *seconds <= LONGEST_SECONDS)
                .ok_or_else(|| QuantityError::TooLong(text.to_owned()))?;
        }
        Ok(Self { seconds })
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.seconds;
        if rest == 0 {
            return formatter.write_str("0s");
        }
        // Hours up to three days read better than a day and some hours, and keep what was written as `24h` or `36h`.
        for (unit, seconds) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
            if unit == "d" && (rest % seconds != 0 || rest < 3 * seconds) {
                continue;
            }
            if rest >= seconds {
                write!(formatter, "{}{unit}", rest / seconds)?;
                rest %= seconds;
            }
        }
        Ok(())
    }
}

/// A span of the calendar, as `restic forget --keep-within` counts it: `1y`, `6mo`, `2w`, `3d`, `12h`, or together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct KeepWithinText {
    /// Calendar years.
    pub years: i64,
    /// Calendar months.
    pub months: i64,
    /// Days.
    pub days: i64,
    /// Hours.
    pub hours: i64,
}

const KEEP_WITHIN_UNITS: &str = "`12h`, `3d`, `2w`, `6mo` or `1y`";

impl KeepWithinText {
    /// As a span to subtract from a time.
    pub fn span(self) -> Span {
        Span::new().years(self.years).months(self.months).days(self.days).hours(self.hours)
    }

    /// Whether it covers no time at all.
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }
}

impl FromStr for KeepWithinText {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let mut span = Self::default();
        let too_long = || QuantityError::TooLong(text.to_owned());
        for (count, unit) in parts(text, KEEP_WITHIN_UNITS)? {
            let (field, factor, most) = match unit {
                "y" => (&mut span.years, 1, 1000),
                "mo" => (&mut span.months, 1, 12_000),
                "w" => (&mut span.days, 7, 366_000),
                "d" => (&mut span.days, 1, 366_000),
                "h" => (&mut span.hours, 1, 8_784_000),
                _ => return Err(QuantityError::Malformed { text: text.to_owned(), units: KEEP_WITHIN_UNITS }),
            };
            *field = count
                .checked_mul(factor)
                .and_then(|more| field.checked_add(more))
                .filter(|sum| *sum <= most)
                .ok_or_else(too_long)?;
        }
        Ok(span)
    }
}

impl fmt::Display for KeepWithinText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return formatter.write_str("0h");
        }
        for (count, unit) in [(self.years, "y"), (self.months, "mo"), (self.days, "d"), (self.hours, "h")] {
            if count != 0 {
                write!(formatter, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

/// Bytes of a size such as `20MiB` (powers of 1024) or `20MB` (powers of 1000); at least one.
///
/// # Errors
/// The text is not a size.
pub fn size_bytes(text: &str) -> Result<u64, QuantityError> {
    let wrong = || QuantityError::Size(text.to_owned());
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "B" => 1,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(wrong)
}

/// The number of a share such as `5%` or `0.5%`, from 0 to 100.
///
/// # Errors
/// The text is not a share.
pub fn percent(text: &str) -> Result<f64, QuantityError> {
    let wrong = || QuantityError::Share(text.to_owned());
    let number = text.strip_suffix('%').ok_or_else(wrong)?;
    // `parse` would take `inf`, `1e1` and a sign, too.
    if number.is_empty() || !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(wrong());
    }
    number.parse::<f64>().ok().filter(|share| (0.0..=100.0).contains(share)).ok_or_else(wrong)
}

/// Splits `1h30m` into `(1, "h"), (30, "m")`.
fn parts<'a>(text: &'a str, units: &'static str) -> Result<Vec<(i64, &'a str)>, QuantityError> {
    let malformed = || QuantityError::Malformed { text: text.to_owned(), units };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(QuantityError::Empty);
    }
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(malformed)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        if number.is_empty() || unit.is_empty() {
            return Err(malformed());
        }
        let number = number.parse().map_err(|_| QuantityError::TooLong(text.to_owned()))?;
        parts.push((number, unit));
        rest = after;
    }
    Ok(parts)
}

/// Serde and schema for a quantity that is written as text.
macro_rules! written_as_text {
    ($name:ident, $pattern:literal, $description:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern, "description": $description})
            }
        }
    };
}

written_as_text!(
    DurationText,
    "^([0-9]+[smhdw])+$",
    "A duration such as `90s`, `10m`, `24h`, `7d` or `2w`; a day is 24 hours."
);
written_as_text!(
    KeepWithinText,
    "^([0-9]+(y|mo|w|d|h))+$",
    "A span of the calendar such as `12h`, `3d`, `2w`, `6mo` or `1y`."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print() {
        for (text, seconds, printed) in [
            ("90s", 90, "1m30s"),
            ("10m", 600, "10m"),
            ("24h", 86_400, "24h"),
            ("7d", 604_800, "7d"),
            ("1h30m", 5400, "1h30m"),
            ("0s", 0, "0s"),
            ("2w", 1_209_600, "14d"),
        ] {
            let duration: DurationText = text.parse().unwrap();
            assert_eq!((duration.seconds(), duration.to_string().as_str()), (seconds, printed), "{text}");
        }
        for wrong in ["", "5", "h", "5x", "-5m", "1.5h", "99999999999999999999s", "9999999999w", "5 m"] {
            assert!(wrong.parse::<DurationText>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_shares() {
        for (text, bytes) in [("1B", 1), ("20MiB", 20 << 20), ("20 MB", 20_000_000), ("1GiB", 1 << 30)] {
            assert_eq!(size_bytes(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "20", "MiB", "0MiB", "-1MiB", "1.5MiB", "20Mi", "99999999999999999999GiB"] {
            assert!(size_bytes(wrong).is_err(), "{wrong}");
        }
        for (text, share) in [("0%", 0.0), ("5%", 5.0), ("0.5%", 0.5), ("100%", 100.0)] {
            assert_eq!(percent(text), Ok(share), "{text}");
        }
        for wrong in ["", "%", "5", "101%", "-1%", "nan%", "inf%", "1e1%", "."] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keep_within_tells_months_from_minutes() {
        let span: KeepWithinText = "1y6mo2w3d12h".parse().unwrap();
        assert_eq!(span, KeepWithinText { years: 1, months: 6, days: 17, hours: 12 });
        assert_eq!(span.to_string(), "1y6mo17d12h");
        assert!("5m".parse::<KeepWithinText>().is_err());
    }
}
