//! A cron expression in a time zone, and the slots it has. Pure; the zone's rules come from the system's database at parse time.
//!
//! `croner` reads the pattern and says which days match. Finding the next time is done here, on the wall clock alone and day
//! by day, and only then turned into an instant: croner's own search gives up at a day that a zone left out.

use std::ops::Range;

use croner::parser::{CronParser, Seconds, Year};
use croner::{CronPattern, Weekday};
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp};

/// How far ahead a next slot is looked for: five years. A schedule without one is a mistake, not a wait.
pub const HORIZON: SignedDuration = SignedDuration::from_hours(24 * 366 * 5);

/// What is wrong with a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The expression cannot be read. `at` is the range of bytes of the expression that is meant.
    #[error("{message}")]
    Expression { message: String, help: String, at: Range<usize> },
    /// The zone is not in the time zone database.
    #[error("`{zone}` is not a time zone that this machine knows")]
    UnknownZone { zone: String },
    /// The expression is well-formed and never comes, for instance 30 February.
    #[error("`{expression}` has no next time within five years")]
    Never { expression: String },
}

impl CronError {
    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::Expression { help, .. } => help.clone(),
            Self::UnknownZone { .. } => "use an IANA name such as `Europe/Berlin` or `UTC`".into(),
            Self::Never { .. } => "check the day of the month against the month".into(),
        }
    }

    /// The bytes of the expression that are meant; `None` if the whole schedule is.
    pub fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::Expression { at, .. } => Some(at.clone()),
            Self::UnknownZone { .. } | Self::Never { .. } => None,
        }
    }
}

/// Every zone name that this machine knows, for a did-you-mean.
pub fn zone_names() -> Vec<String> {
    jiff::tz::db().available().map(|name| name.to_string()).collect()
}

/// One nominal time of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The instant; with the pipeline's name it identifies the slot.
    pub nominal_at: Timestamp,
    /// The wall clock time that the expression asked for. Inside a gap this time never came, and `nominal_at` is the gap's end.
    pub local: DateTime,
}

impl Slot {
    /// The calendar day of the slot in the schedule's zone.
    pub fn date(&self) -> Date {
        self.local.date()
    }

    /// The calendar day before: `params.day: yesterday`.
    pub fn yesterday(&self) -> Date {
        self.local.date().saturating_sub(Span::new().days(1))
    }
}

/// A checked cron expression with its zone.
#[derive(Debug, Clone)]
pub struct CronSchedule {
    expression: String,
    zone_name: String,
    zone: TimeZone,
    pattern: CronPattern,
    /// Times of the day that match, each list ascending and not empty.
    hours: Vec<i8>,
    minutes: Vec<i8>,
    seconds: Vec<i8>,
    wildcard: bool,
}

impl CronSchedule {
    /// Reads an expression of five fields (minute, hour, day of month, month, day of week), of six with seconds in front, or
    /// one of `@hourly @daily @midnight @weekly @monthly @yearly @annually`, in an IANA zone.
    ///
    /// Lists, ranges, steps (`*/5`, `10-50/5`), names of months and days in English, Sunday as 0 or 7, `?`, and the
    /// extensions `L` `LW` `15W` (day of month) and `5L` `MON#2` (day of week). When both days are restricted either may match.
    /// Whether it ever comes is a question for [`CronSchedule::first`].
    pub fn parse(expression: &str, zone: &str) -> Result<Self, CronError> {
        let normal = normalise(expression)?;
        let pattern = CronParser::builder()
            .seconds(Seconds::Required)
            .year(Year::Disallowed)
            .build()
            .parse(&normal.text)
            .map_err(|error| wrong(error.to_string(), "see `man 5 crontab`", 0..expression.len()))?
            .pattern;
        // `Etc/Unknown` parses, and means that nobody knows.
        let time_zone = TimeZone::get(zone).ok().filter(|tz| !tz.is_unknown());
        let Some(time_zone) = time_zone else { return Err(CronError::UnknownZone { zone: zone.to_owned() }) };
        Ok(Self {
            expression: expression.trim().to_owned(),
            zone_name: time_zone.iana_name().unwrap_or(zone).to_owned(),
            zone: time_zone,
            hours: values(&pattern.hours),
            minutes: values(&pattern.minutes),
            seconds: values(&pattern.seconds),
            pattern,
            wildcard: normal.wildcard,
        })
    }

    /// As it was written, without surrounding white space.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The zone's name as the database spells it.
    pub fn zone_name(&self) -> &str {
        &self.zone_name
    }

    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Expression and zone in one text. When it changes the schedule begins anew.
    pub fn identity(&self) -> String {
        format!("{} {}", self.expression.split_ascii_whitespace().collect::<Vec<_>>().join(" "), self.zone_name)
    }

    /// Follows the wall clock through a clock change, see the module's rule.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The first slot after `now`, or [`CronError::Never`]: a schedule is refused at load if nothing is due within [`HORIZON`].
    pub fn first(&self, now: Timestamp) -> Result<Slot, CronError> {
        self.next_after(now).ok_or_else(|| CronError::Never { expression: self.expression.clone() })
    }

    /// The first slot strictly after `after`; `None` if there is none within [`HORIZON`].
    pub fn next_after(&self, after: Timestamp) -> Option<Slot> {
        if self.wildcard { self.next_wildcard(after) } else { self.next_fixed(after) }
    }

    /// All slots strictly after `after`, in order. Ends when nothing is due within [`HORIZON`].
    pub fn slots_after(&self, after: Timestamp) -> Slots<'_> {
        Slots { schedule: self, after }
    }

    /// Walks through the stretches of constant offset: within one, wall clock time and time are the same thing.
    fn next_wildcard(&self, after: Timestamp) -> Option<Slot> {
        let limit = self.zone.to_datetime(after.checked_add(HORIZON).ok()?);
        let mut at = after;
        let mut offset = self.zone.to_offset(at);
        let mut from = next_second(offset.to_datetime(at))?;
        loop {
            let local = self.next_local(from, limit)?;
            let nominal_at = offset.to_timestamp(local).ok()?;
            match self.zone.following(at).find(|change| change.offset() != offset) {
                Some(change) if change.timestamp() <= nominal_at => {
                    at = change.timestamp();
                    offset = change.offset();
                    from = offset.to_datetime(at);
                }
                _ => return Some(Slot { nominal_at, local }),
            }
        }
    }

    /// Turns wall clock times into instants one by one. The mapping never goes backwards (a repeated time maps to its first
    /// pass, a missing one to the end of its gap), so no slot after `after` has a local time at or before that of `after`.
    fn next_fixed(&self, after: Timestamp) -> Option<Slot> {
        let limit = self.zone.to_datetime(after.checked_add(HORIZON).ok()?);
        let mut from = next_second(self.zone.to_datetime(after))?;
        loop {
            let local = self.next_local(from, limit)?;
            from = next_second(local)?;
            let nominal_at = match self.zone.to_ambiguous_timestamp(local).offset() {
                AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok()?,
                AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok()?,
                AmbiguousOffset::Gap { before, after: later } => {
                    let end = self.end_of_gap(local, later)?;
                    let midnight = local.date().to_datetime(jiff::civil::Time::midnight());
                    let next_midnight = local.date().tomorrow().ok()?.to_datetime(jiff::civil::Time::midnight());
                    if midnight >= before.to_datetime(end) && next_midnight <= later.to_datetime(end) {
                        from = next_midnight; // The date does not exist in this zone.
                        continue;
                    }
                    end
                }
            };
            if nominal_at > after {
                return Some(Slot { nominal_at, local });
            }
        }
    }

    /// The instant at which the wall clock jumped over `local`, to continue with the offset `later`.
    fn end_of_gap(&self, local: DateTime, later: Offset) -> Option<Timestamp> {
        // Read with the later (greater) offset, a time in the gap is an instant before the jump.
        let before = later.to_timestamp(local).ok()?;
        self.zone.following(before).find(|change| change.offset() == later).map(|change| change.timestamp())
    }

    /// The first wall clock time at or after `from` that matches, zone or no zone; `None` past `limit`.
    fn next_local(&self, from: DateTime, limit: DateTime) -> Option<DateTime> {
        let mut day = from.date();
        let mut earliest = (from.hour(), from.minute(), from.second());
        while day <= limit.date() {
            if !self.pattern.month_match(day.month().unsigned_abs().into()).ok()? {
                day = day.first_of_month().checked_add(Span::new().months(1)).ok()?;
                earliest = (0, 0, 0);
                continue;
            }
            if self.matches_day(day)
                && let Some((hour, minute, second)) = self.next_time(earliest)
            {
                return Some(day.at(hour, minute, second, 0));
            }
            day = day.tomorrow().ok()?;
            earliest = (0, 0, 0);
        }
        None
    }

    fn matches_day(&self, day: Date) -> bool {
        let weekday = Weekday::from_days_from_sunday(day.weekday().to_sunday_zero_offset().unsigned_abs().into());
        let (month, of_month) = (day.month().unsigned_abs().into(), day.day().unsigned_abs().into());
        // The only errors are a month or day that does not exist, and `Date` has none.
        self.pattern.day_match(day.year().into(), month, of_month, weekday).unwrap_or(false)
    }

    /// The first matching time of the day at or after `(hour, minute, second)`.
    fn next_time(&self, (hour, minute, second): (i8, i8, i8)) -> Option<(i8, i8, i8)> {
        let first = |list: &[i8]| list.first().copied();
        let at_least = |list: &[i8], least: i8| list.iter().copied().find(|value| *value >= least);
        let found = at_least(&self.hours, hour)?;
        if found > hour {
            return Some((found, first(&self.minutes)?, first(&self.seconds)?));
        }
        if let Some(of_hour) = at_least(&self.minutes, minute) {
            if of_hour > minute {
                return Some((hour, of_hour, first(&self.seconds)?));
            }
            if let Some(of_minute) = at_least(&self.seconds, second) {
                return Some((hour, minute, of_minute));
            }
            if let Some(of_hour) = at_least(&self.minutes, minute + 1) {
                return Some((hour, of_hour, first(&self.seconds)?));
            }
        }
        Some((at_least(&self.hours, hour + 1)?, first(&self.minutes)?, first(&self.seconds)?))
    }
}

/// Slots in order, see [`CronSchedule::slots_after`].
#[derive(Debug, Clone)]
pub struct Slots<'a> {
    schedule: &'a CronSchedule,
    after: Timestamp,
}

impl Iterator for Slots<'_> {
    type Item = Slot;
    fn next(&mut self) -> Option<Slot> {
        let slot = self.schedule.next_after(self.after)?;
        self.after = slot.nominal_at;
        Some(slot)
    }
}

/// The first whole second strictly after `at`.
fn next_second(at: DateTime) -> Option<DateTime> {
    at.with().subsec_nanosecond(0).build().ok()?.checked_add(SignedDuration::from_secs(1)).ok()
}

fn values(field: &croner::CronComponent) -> Vec<i8> {
    // A field of a time of day ends at 59.
    field.values().into_iter().filter_map(|value| i8::try_from(value).ok()).collect()
}

fn wrong(message: impl Into<String>, help: impl Into<String>, at: Range<usize>) -> CronError {
    CronError::Expression { message: message.into(), help: help.into(), at }
}

/// An expression in six fields of numbers, ready for croner.
struct Normal {
    text: String,
    wildcard: bool,
}

/// What a field may hold.
struct Field {
    name: &'static str,
    least: u16,
    most: u16,
    names: &'static [&'static str],
    /// The number of `names[0]`.
    first_name: u16,
    day: Option<Day>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Day {
    OfMonth,
    OfWeek,
}

const FIELDS: [Field; 6] = [
    Field { name: "second", least: 0, most: 59, names: &[], first_name: 0, day: None },
    Field { name: "minute", least: 0, most: 59, names: &[], first_name: 0, day: None },
    Field { name: "hour", least: 0, most: 23, names: &[], first_name: 0, day: None },
    Field { name: "day of month", least: 1, most: 31, names: &[], first_name: 1, day: Some(Day::OfMonth) },
    Field {
        name: "month",
        least: 1,
        most: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
        first_name: 1,
        day: None,
    },
    Field {
        name: "day of week",
        least: 0,
        most: 7,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
        first_name: 0,
        day: Some(Day::OfWeek),
    },
];

/// Checks every field and replaces names. croner alone would take `1,,2`, read `MON` in the month as January, and let `*/90`
/// stand for one value: a schedule that means something else than it says must not load.
fn normalise(expression: &str) -> Result<Normal, CronError> {
    let trimmed = expression.trim();
    let begin = expression.len() - expression.trim_start().len();
    let all = begin..begin + trimmed.len();
    if trimmed.is_empty() {
        return Err(wrong(
            "the cron expression is empty",
            "for instance `0 8 * * *`: every day at eight",
            0..expression.len(),
        ));
    }
    if trimmed.starts_with('@') {
        let text = match trimmed.to_ascii_lowercase().as_str() {
            "@hourly" => "0 0 * * * *",
            "@daily" | "@midnight" => "0 0 0 * * *",
            "@weekly" => "0 0 0 * * 0",
            "@monthly" => "0 0 0 1 * *",
            "@yearly" | "@annually" => "0 0 0 1 1 *",
            "@reboot" => return Err(wrong("`@reboot` is not a time", "use `@daily` or five fields", all)),
            every if every.starts_with("@every") => {
                return Err(wrong("`@every` is not cron", "`*/10 * * * *` is every ten minutes", all));
            }
            _ => {
                let known = "`@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`";
                return Err(wrong(format!("`{trimmed}` is not a known name"), format!("one of {known}"), all));
            }
        };
        return Ok(Normal { text: text.to_owned(), wildcard: text.starts_with("0 0 *") });
    }
    if trimmed.contains("TZ=") {
        return Err(wrong("the zone does not stand in the expression", "write it beside it, as `timezone`", all));
    }
    let parts: Vec<(usize, &str)> = words(expression);
    let skipped = match parts.len() {
        5 => 1,
        6 => 0,
        7 => return Err(wrong("years are not supported", "leave the seventh field out", all)),
        n => {
            return Err(wrong(
                format!("a cron expression has five fields, or six with seconds; this has {n}"),
                "minute, hour, day of month, month, day of week: `0 8 * * 1` is Mondays at eight",
                all,
            ));
        }
    };
    let mut text = if skipped == 1 { "0".to_owned() } else { String::new() };
    for (field, (at, part)) in FIELDS.iter().skip(skipped).zip(&parts) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&field.normalise(*at, part)?);
    }
    let starred = |index: usize| parts.get(index - skipped).is_some_and(|(_, part)| part.starts_with('*'));
    Ok(Normal { text, wildcard: starred(1) || starred(2) })
}

/// The words of `text` with the byte at which each begins.
fn words(text: &str) -> Vec<(usize, &str)> {
    let base = text.as_ptr() as usize;
    text.split_whitespace().map(|word| (word.as_ptr() as usize - base, word)).collect()
}

impl Field {
    fn normalise(&self, at: usize, part: &str) -> Result<String, CronError> {
        let mut at = at;
        let mut items = Vec::new();
        for item in part.split(',') {
            items.push(self.item(item, at..at + item.len())?);
            at += item.len() + 1;
        }
        Ok(items.join(","))
    }

    /// One item of the list: a value, a range or `*`, with or without a step, or a day's extension.
    fn item(&self, item: &str, at: Range<usize>) -> Result<String, CronError> {
        if item.is_empty() {
            return Err(wrong(
                format!("an empty item in the {}", self.name),
                "remove the comma",
                at.start.saturating_sub(1)..at.end,
            ));
        }
        let upper = item.to_ascii_uppercase();
        if self.day.is_some() && upper == "?" {
            return Ok("*".into());
        }
        if let Some(extension) = self.extension(&upper, &at)? {
            return Ok(extension);
        }
        let (base, step) = match item.split_once('/') {
            Some((base, step)) => (base, Some(step)),
            None => (item, None),
        };
        let (text, least, most, ranged) = if base == "*" {
            ("*".to_owned(), self.least, self.most, true)
        } else if let Some((from, to)) = base.split_once('-') {
            let (from, mut to_value) = (self.value(from, &at)?, self.value(to, &at)?);
            if self.day == Some(Day::OfWeek) && to_value == 0 && from > 0 {
                to_value = 7; // `sat-sun`
            }
            if from > to_value {
                let (least, most) = (self.least, if self.day == Some(Day::OfWeek) { 6 } else { self.most });
                let help = format!("write `{from}-{most},{least}-{to_value}`");
                return Err(wrong(format!("the range `{base}` runs backwards"), help, at));
            }
            (format!("{from}-{to_value}"), from, to_value, true)
        } else {
            let value = self.value(base, &at)?;
            (value.to_string(), value, value, false)
        };
        let Some(step) = step else { return Ok(text) };
        let step: u16 =
            step.parse().ok().filter(|step| *step > 0).ok_or_else(|| {
                wrong(format!("`{step}` is not a step"), "a step is a whole number above 0", at.clone())
            })?;
        if !ranged {
            let help = format!("write `{least}-{}/{step}`", self.most);
            return Err(wrong("a step needs a range or `*` in front", help, at));
        }
        if step > most - least {
            let message = format!("a step of {step} never gets anywhere between {least} and {most}");
            return Err(wrong(message, format!("cron counts anew in every {}", self.larger()), at));
        }
        Ok(format!("{text}/{step}"))
    }

    /// `L`, `LW`, `15W` in the day of month; `5L`, `FRIL`, `MON#2` in the day of week.
    fn extension(&self, upper: &str, at: &Range<usize>) -> Result<Option<String>, CronError> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match self.day {
            Some(Day::OfMonth) if upper == "L" || upper == "LW" => Ok(Some(upper.to_owned())),
            Some(Day::OfMonth) => match upper.strip_suffix('W').filter(|day| is_number(day)) {
                Some(day) => Ok(Some(format!("{}W", self.value(day, at)?))),
                None => Ok(None),
            },
            Some(Day::OfWeek) if upper == "L" => {
                Err(wrong("`L` alone is not a day of the week", "`5L` or `fril` is the last Friday", at.clone()))
            }
            Some(Day::OfWeek) => {
                if let Some((day, nth)) = upper.split_once('#') {
                    let day = self.value(day, at)? % 7;
                    return match nth {
                        "1" | "2" | "3" | "4" | "5" => Ok(Some(format!("{day}#{nth}"))),
                        _ => {
                            Err(wrong(format!("`#{nth}` is not a week of the month"), "from `#1` to `#5`", at.clone()))
                        }
                    };
                }
                match upper.strip_suffix('L') {
                    Some(day) => Ok(Some(format!("{}L", self.value(day, at)? % 7))),
                    None => Ok(None),
                }
            }
            None => Ok(None),
        }
    }

    fn value(&self, word: &str, at: &Range<usize>) -> Result<u16, CronError> {
        if let Some(index) = self.names.iter().position(|name| name.eq_ignore_ascii_case(word)) {
            return Ok(self.first_name + index as u16);
        }
        let number = word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse::<u16>().ok()).flatten();
        match number {
            Some(number) if (self.least..=self.most).contains(&number) => Ok(number),
            _ => {
                let names = match (self.names.first(), self.names.last()) {
                    (Some(first), Some(last)) => format!(", or {first} to {last}"),
                    _ => String::new(),
                };
                let help = format!("from {} to {}{names}", self.least, self.most);
                let article = if self.name == "hour" { "an" } else { "a" };
                Err(wrong(format!("`{word}` is not {article} {}", self.name), help, at.clone()))
            }
        }
    }

    /// The unit in which this field starts again.
    fn larger(&self) -> &'static str {
        match self.name {
            "second" => "minute",
            "minute" => "hour",
            "hour" => "day",
            "day of month" => "month",
            "month" => "year",
            _ => "week",
        }
    }
}
