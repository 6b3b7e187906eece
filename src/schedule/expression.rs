//! What may stand in a cron expression: exactly what the Kubernetes CronJob controller reads, and 7 for Sunday.
//!
//! Pure. The crate `croner` reads the fields and finds the times; it knows more than Kubernetes does, and this file
//! refuses the rest by name: `L`, `W`, `#` and `+`, names that run into each other, empty items of a list, a time zone.
//! What Kubernetes spells otherwise (`?`, `*/1`, `5/20`, `@midnight`) is rewritten for `croner`.

use croner::{
    Cron, CronComponent,
    parser::{CronParser, Seconds, Year},
};
use jiff::civil;

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
    #[error("`{text}` is not a {field} in `{expression}`; Kubernetes reads {hint}")]
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
    /// Every field may stand there, and yet they cannot be read together.
    #[error("`{expression}` cannot be read: {reason}")]
    Unreadable {
        /// As it was written.
        expression: String,
        /// What the reader says.
        reason: String,
    },
    /// No date ever matches.
    #[error("`{expression}` is never due: no month that it names has such a day")]
    NeverDue {
        /// As it was written.
        expression: String,
    },
}

/// What may stand in a field.
struct Field {
    name: &'static str,
    first: u8,
    last: u8,
    /// Where `N/STEP` ends.
    step_last: u8,
    /// Names of the values, in capital letters.
    names: &'static [&'static str],
}

/// The five fields, in their order.
const FIELDS: [Field; 5] = [
    Field { name: "minute", first: 0, last: 59, step_last: 59, names: &[] },
    Field { name: "hour", first: 0, last: 23, step_last: 23, names: &[] },
    Field { name: "day of month", first: 1, last: 31, step_last: 31, names: &[] },
    Field {
        name: "month",
        first: 1,
        last: 12,
        step_last: 12,
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    // 7 is Sunday, as in every crontab; Kubernetes takes only 0, which is what `normalised` writes.
    Field {
        name: "day of week",
        first: 0,
        last: 7,
        step_last: 6,
        names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    },
];

/// Where the search for a first time begins: any date does, every pattern of days comes back within 40 years.
const SEARCH_BEGINS: civil::DateTime = civil::datetime(2000, 1, 1, 0, 0, 0, 0);

/// Reads an expression and checks that it has a next time.
pub(super) fn read(expression: &str) -> Result<Cron, ScheduleError> {
    let expression = expression.trim();
    let fields = fields(expression)?;
    let mut spelled = Vec::with_capacity(FIELDS.len());
    for (field, text) in FIELDS.iter().zip(&fields) {
        spelled.push(field.spell(text).map_err(|item| field.refuse(expression, item))?);
    }
    let cron = parse(&spelled.join(" ")).map_err(|error| {
        // The reader does not say where: ask it about every item alone.
        let wrong = FIELDS.iter().zip(&fields).find_map(|(field, text)| {
            text.split(',').find(|item| !field.takes(item)).map(|item| field.refuse(expression, item))
        });
        let reason = error.to_string();
        wrong.unwrap_or_else(|| ScheduleError::Unreadable { expression: expression.to_owned(), reason })
    })?;
    match cron.find_next_occurrence(&SEARCH_BEGINS, true) {
        Ok(_) => Ok(cron),
        Err(_) => Err(ScheduleError::NeverDue { expression: expression.to_owned() }),
    }
}

/// An expression in numbers only, which every cron takes.
pub(super) fn normalised(cron: &Cron) -> String {
    let pattern = &cron.pattern;
    let stars = [
        pattern.minutes.from_wildcard && pattern.minutes.step == 1,
        pattern.hours.from_wildcard && pattern.hours.step == 1,
        pattern.is_dom_wildcard(),
        pattern.months.from_wildcard && pattern.months.step == 1,
        pattern.is_dow_wildcard(),
    ];
    let components = [&pattern.minutes, &pattern.hours, &pattern.days, &pattern.months, &pattern.days_of_week];
    let spell = |(is_star, component): (bool, &CronComponent)| {
        let values: Vec<String> = component.values().iter().map(u16::to_string).collect();
        if is_star { "*".to_owned() } else { values.join(",") }
    };
    stars.into_iter().zip(components).map(spell).collect::<Vec<_>>().join(" ")
}

/// The five fields as they are written; names stand for five fields too.
fn fields(expression: &str) -> Result<[&str; 5], ScheduleError> {
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
    <[&str; 5]>::try_from(fields).map_err(|fields| {
        let hint = if fields.len() == 6 { "; there is no field for seconds, leave it out" } else { "" };
        ScheduleError::FieldCount { expression: expression.to_owned(), found: fields.len(), hint }
    })
}

fn parse(spelled: &str) -> Result<Cron, croner::errors::CronError> {
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(spelled)
}

impl Field {
    /// The field as `croner` spells it. The error is the item that cannot stand here.
    fn spell<'a>(&self, text: &'a str) -> Result<String, &'a str> {
        let items: Result<Vec<String>, &str> = text.split(',').map(|item| self.spell_item(item).ok_or(item)).collect();
        Ok(items?.join(","))
    }

    /// One item of the list: `*`, `N`, `N-M`, each with an optional `/STEP`.
    fn spell_item(&self, item: &str) -> Option<String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (item, None),
        };
        if step.is_some_and(|step| !is_number(step)) {
            return None;
        }
        let (from, to) = range.split_once('-').map_or((range, None), |(from, to)| (from, Some(to)));
        let is_any = range == "*" || range == "?";
        let is_range = self.is_value(from) && to.is_none_or(|to| self.is_value(to));
        if !is_any && !is_range {
            return None;
        }
        Some(match step {
            None if is_any => "*".to_owned(),
            None => range.to_owned(),
            // A step of 1 leaves nothing out: the field asks for nothing by itself, which matters where the other
            // field for days does.
            Some(step) if is_any && step.parse() == Ok(1) => "*".to_owned(),
            Some(step) if is_any => format!("*/{step}"),
            Some(step) if to.is_none() => format!("{from}-{}/{step}", self.step_last),
            Some(step) => format!("{range}/{step}"),
        })
    }

    fn is_value(&self, text: &str) -> bool {
        is_number(text) || self.names.iter().any(|name| name.eq_ignore_ascii_case(text))
    }

    /// Whether the reader takes an item of this field.
    fn takes(&self, item: &str) -> bool {
        let alone = |field: &Self| if field.name == self.name { self.spell(item).ok() } else { Some("*".to_owned()) };
        let fields: Option<Vec<String>> = FIELDS.iter().map(alone).collect();
        fields.is_some_and(|fields| parse(&fields.join(" ")).is_ok())
    }

    fn refuse(&self, expression: &str, item: &str) -> ScheduleError {
        let names = match self.names {
            [] => String::new(),
            [first, .., last] => format!(" or {first}-{last}"),
            [only] => format!(" or {only}"),
        };
        let (first, last) = (self.first, self.last.min(self.step_last));
        ScheduleError::Field {
            expression: expression.to_owned(),
            field: self.name,
            text: item.to_owned(),
            hint: format!("{first}-{last}{names}, a list `1,2`, a rising range `1-3`, a step `*/2`, and `*`"),
        }
    }
}

/// Digits and nothing else, not even a sign.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
