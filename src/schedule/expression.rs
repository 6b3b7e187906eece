//! The five fields of a cron expression, as the Kubernetes CronJob controller reads them.
//!
//! Pure. Kubernetes' reading differs from other crons in small ways that matter: a day matches if the day of month
//! *or* the day of week does, unless one of the two fields has a `*`; `L`, `W` and `#` do not exist; a prefix with a
//! time zone is refused.

use std::fmt;

use jiff::civil::Date;

/// Why an expression is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Nothing there.
    #[error("a schedule is missing; write five fields such as `0 2 * * *`, or `@daily`")]
    Empty,
    /// `@something` that is not known.
    #[error(
        "`{expression}` is not a known name; write @hourly, @daily, @midnight, @weekly, @monthly, @yearly or @annually"
    )]
    UnknownName {
        /// As it was written.
        expression: String,
    },
    /// A time zone in the expression.
    #[error("`{expression}` names a time zone; write the zone in `timeZone: {zone}` instead")]
    ZonePrefix {
        /// As it was written.
        expression: String,
        /// The zone in it.
        zone: String,
    },
    /// Another number of fields.
    #[error("`{expression}` has {found} fields, not five (minute, hour, day of month, month, day of week){hint}")]
    FieldCount {
        /// As it was written.
        expression: String,
        /// How many there are.
        found: usize,
        /// What to do about it, or empty.
        hint: &'static str,
    },
    /// A field that cannot be read.
    #[error("`{text}` is not a {field} in `{expression}`; {hint}")]
    Field {
        /// As it was written.
        expression: String,
        /// Which field.
        field: &'static str,
        /// The part that is wrong.
        text: String,
        /// What may stand there.
        hint: String,
    },
    /// No date ever matches.
    #[error("`{expression}` is never due: no month that it names has such a day")]
    NeverDue {
        /// As it was written.
        expression: String,
    },
}

/// Which values each field asks for: bit N stands for the value N.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fields {
    minutes: Values,
    hours: Values,
    days: Values,
    months: Values,
    weekdays: Values,
}

/// The values of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Values {
    bits: u64,
    /// There is a `*` with no step in it: the field asks for nothing by itself.
    any: bool,
    /// There is a `*`, with or without a step.
    wildcard: bool,
}

/// What may stand in a field.
struct Field {
    name: &'static str,
    first: u8,
    last: u8,
    /// Names of the values, beginning with `first`.
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", first: 0, last: 59, names: &[] };
const HOUR: Field = Field { name: "hour", first: 0, last: 23, names: &[] };
const DAY: Field = Field { name: "day of month", first: 1, last: 31, names: &[] };
const MONTH: Field = Field {
    name: "month",
    first: 1,
    last: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
/// 7 is Sunday, as in every crontab; Kubernetes takes only 0, which is what [`Fields`] prints.
const WEEKDAY: Field =
    Field { name: "day of week", first: 0, last: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// The most days that each month can have.
const LONGEST_MONTHS: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

impl Fields {
    /// Reads five fields or a name.
    pub(super) fn parse(expression: &str) -> Result<Self, ScheduleError> {
        let expression = expression.trim();
        let spelled = match expression.to_ascii_lowercase().as_str() {
            "" => return Err(ScheduleError::Empty),
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            name if name.starts_with('@') => {
                return Err(ScheduleError::UnknownName { expression: expression.to_owned() });
            }
            _ => expression,
        };
        let prefix = spelled.strip_prefix("CRON_TZ=").or_else(|| spelled.strip_prefix("TZ="));
        if let Some(rest) = prefix {
            let zone = rest.split_whitespace().next().unwrap_or_default().to_owned();
            return Err(ScheduleError::ZonePrefix { expression: expression.to_owned(), zone });
        }
        let fields: Vec<&str> = spelled.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            let hint = if fields.len() == 6 { "; there is no field for seconds, leave it out" } else { "" };
            return Err(ScheduleError::FieldCount { expression: expression.to_owned(), found: fields.len(), hint });
        };
        let read = |field: &Field, text: &str| {
            field.values(text).map_err(|(text, hint)| ScheduleError::Field {
                expression: expression.to_owned(),
                field: field.name,
                text,
                hint,
            })
        };
        let mut fields = Self {
            minutes: read(&MINUTE, minutes)?,
            hours: read(&HOUR, hours)?,
            days: read(&DAY, days)?,
            months: read(&MONTH, months)?,
            weekdays: read(&WEEKDAY, weekdays)?,
        };
        if fields.weekdays.has(7) {
            fields.weekdays.bits = (fields.weekdays.bits | 1) & 0b111_1111;
        }
        Ok(fields)
    }

    /// Whether any date ever matches.
    pub(super) fn can_match(&self) -> bool {
        // Where both day fields ask for something, a matching weekday is enough, and every month has all of them.
        let is_bound_to_days = self.weekdays.any || self.days.any;
        !is_bound_to_days
            || (1..=12u8).any(|month| {
                self.months.has(month) && (1..=LONGEST_MONTHS[usize::from(month) - 1]).any(|day| self.days.has(day))
            })
    }

    /// Whether the expression asks for runs on a date.
    pub(super) fn is_day(&self, date: Date) -> bool {
        let day = self.days.has(date.day().unsigned_abs());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset().unsigned_abs());
        let either = !self.days.any && !self.weekdays.any;
        self.months.has(date.month().unsigned_abs()) && if either { day || weekday } else { day && weekday }
    }

    /// The hours and minutes of a day, in order.
    pub(super) fn times(&self) -> impl Iterator<Item = (i8, i8)> + '_ {
        let minutes = move || (0..60i8).filter(|minute| self.minutes.has(minute.unsigned_abs()));
        (0..24i8)
            .filter(|hour| self.hours.has(hour.unsigned_abs()))
            .flat_map(move |hour| minutes().map(move |minute| (hour, minute)))
    }

    /// Whether the expression names its hours, rather than taking any.
    pub(super) fn names_hours(&self) -> bool {
        !self.hours.wildcard
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { minutes, hours, days, months, weekdays } = self;
        let fields = [(minutes, &MINUTE), (hours, &HOUR), (days, &DAY), (months, &MONTH), (weekdays, &WEEKDAY)];
        for (index, (values, field)) in fields.into_iter().enumerate() {
            if index > 0 {
                formatter.write_str(" ")?;
            }
            if values.any {
                formatter.write_str("*")?;
                continue;
            }
            let list: Vec<String> =
                (field.first..=field.last).filter(|value| values.has(*value)).map(|value| value.to_string()).collect();
            formatter.write_str(&list.join(","))?;
        }
        Ok(())
    }
}

impl Values {
    fn has(self, value: u8) -> bool {
        self.bits & (1 << value) != 0
    }
}

impl Field {
    /// Reads a field: a list of `*`, `N`, `N-M`, each with an optional `/STEP`. The error is the wrong part and a hint.
    fn values(&self, text: &str) -> Result<Values, (String, String)> {
        let mut all = Values::default();
        for item in text.split(',') {
            let values = self.item(item).map_err(|hint| (item.to_owned(), hint))?;
            all.bits |= values.bits;
            all.any |= values.any;
            all.wildcard |= values.wildcard;
        }
        Ok(all)
    }

    /// Reads one item of the list.
    fn item(&self, text: &str) -> Result<Values, String> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step)?)),
            None => (text, None),
        };
        let wildcard = range == "*" || range == "?";
        // In Kubernetes' reading, the wildcard for the day of week ends at 6.
        let last = if self.last == WEEKDAY.last { 6 } else { self.last };
        let (from, to) = match range.split_once('-') {
            _ if wildcard => (self.first, last),
            Some((from, to)) => (self.value(from)?, self.value(to)?),
            None if step.is_some() => (self.value(range)?, last),
            None => {
                let value = self.value(range)?;
                (value, value)
            }
        };
        if from > to {
            return Err(format!("the range begins after its end; write {to}-{from}"));
        }
        let step = step.unwrap_or(1);
        let bits = (from..=to).step_by(step).fold(0u64, |bits, value| bits | (1 << value));
        Ok(Values { bits, any: wildcard && step == 1, wildcard })
    }

    /// Reads the number after `/`.
    fn step(&self, text: &str) -> Result<usize, String> {
        let step = number(text).ok_or_else(|| "after `/` stands a whole number".to_owned())?;
        if step == 0 { Err("a step of 0 never moves on".to_owned()) } else { Ok(usize::from(step)) }
    }

    /// Reads a number or a name.
    fn value(&self, text: &str) -> Result<u8, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let value = match named {
            Some(index) => u8::try_from(index).ok().map(|index| self.first + index),
            None => number(text).and_then(|value| u8::try_from(value).ok()),
        };
        value.filter(|value| (self.first..=self.last).contains(value)).ok_or_else(|| self.expected())
    }

    /// What may stand in this field.
    fn expected(&self) -> String {
        let names = match self.names {
            [] => String::new(),
            [first, .., last] => format!(" or {}-{}", first.to_uppercase(), last.to_uppercase()),
            [only] => format!(" or {only}"),
        };
        format!("write {}-{}{names}, a list `1,2`, a range `1-3`, a step `*/2`, or `*`", self.first, self.last)
    }
}

/// Reads digits and nothing else: no sign, no more than four of them.
fn number(text: &str) -> Option<u16> {
    let plain = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}
