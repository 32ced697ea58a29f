//! When a CronJob is due: five fields (minute, hour, day of month, month, day of week), or a name like `@hourly`, or `@every 90m`.
//!
//! Fields are lists of values, ranges and steps (`1,10-20/5,*/15`); months and days of the week have names. If both day fields
//! are restricted, either of them is enough. In a time zone that changes its clocks, times that do not exist are left out and
//! times that exist twice are two.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields.
    #[error("expected exactly 5 fields, found {found}: [{text}]")]
    Fields {
        /// How many there are.
        found: usize,
        /// The schedule.
        text: String,
    },
    /// A name that starts with `@` and is none.
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    /// A field with a part that is not understood.
    #[error("failed to parse field {field}: {part}")]
    Part {
        /// Which field.
        field: &'static str,
        /// The part.
        part: String,
    },
    /// A time zone that the database does not have.
    #[error("unknown time zone {0}")]
    TimeZone(String),
}

/// Years that are searched for the next time: 29 February on a Monday comes every 28 years at most, or 40 around 2100.
const YEARS_MAX: i16 = 41;

/// A field as a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    /// `*`, also with a step.
    any: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| value < 64 && self.bits & (1 << value) != 0)
    }
}

/// What a field may hold.
struct Shape {
    name: &'static str,
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

const MINUTE: Shape = Shape { name: "minute", first: 0, last: 59, names: &[] };
const HOUR: Shape = Shape { name: "hour", first: 0, last: 23, names: &[] };
const DAY: Shape = Shape { name: "day of month", first: 1, last: 31, names: &[] };
const MONTH: Shape = Shape {
    name: "month",
    first: 1,
    last: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAY: Shape = Shape {
    name: "day of week",
    first: 0,
    last: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl Shape {
    fn parse(&self, text: &str) -> Result<Field, ScheduleError> {
        let mut field = Field { bits: 0, any: false };
        for part in text.split(',') {
            let failed = || ScheduleError::Part { field: self.name, part: part.to_owned() };
            let (first, last, step, any) = self.range(part).ok_or_else(failed)?;
            field.any |= any;
            for value in (first..=last).step_by(step) {
                field.bits |= 1 << value;
            }
        }
        Ok(field)
    }

    /// `*`, `?`, `4`, `1-5`, each with `/2` behind; whether it is open to all.
    fn range(&self, part: &str) -> Option<(u32, u32, usize, bool)> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<usize>().ok().filter(|step| *step > 0)?)),
            None => (part, None),
        };
        let (first, last, any) = match range {
            // With a step, the star is a range like any other: days that it leaves out are restricted.
            "*" | "?" => (self.first, self.last, step.is_none_or(|step| step == 1)),
            _ => match range.split_once('-') {
                Some((first, last)) => (self.value(first)?, self.value(last)?, false),
                // `5/10` is `5-59/10`.
                None if step.is_some() => (self.value(range)?, self.last, false),
                None => (self.value(range)?, self.value(range)?, false),
            },
        };
        (first <= last).then_some((first, last, step.unwrap_or(1), any))
    }

    fn value(&self, text: &str) -> Option<u32> {
        let name = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let value = match name {
            Some(at) => u32::try_from(at).ok()?.checked_add(self.first)?,
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok()?,
            None => return None,
        };
        (self.first..=self.last).contains(&value).then_some(value)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Fields { minute: Field, hour: Field, day: Field, month: Field, weekday: Field },
    Every(SignedDuration),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Schedule {
    rule: Rule,
    zone: TimeZone,
}

impl Schedule {
    /// Reads a schedule and the name of a time zone; without one it is UTC.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Self, ScheduleError> {
        let zone = match zone.filter(|zone| !zone.is_empty()) {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| ScheduleError::TimeZone(name.to_owned()))?,
        };
        let text = text.trim();
        let rule = match text.strip_prefix('@') {
            Some(name) => descriptor(name)?,
            None => fields(text)?,
        };
        Ok(Self { rule, zone })
    }

    /// The time zone.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The first time after `moment`; `None` when there is none (30 February).
    pub fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(interval) => {
                let start = Timestamp::from_second(moment.as_second()).ok()?;
                start.checked_add(*interval).ok()
            }
            Rule::Fields { .. } => self.matching(moment),
        }
    }

    fn matching(&self, moment: Timestamp) -> Option<Timestamp> {
        let Rule::Fields { minute, hour, month, .. } = &self.rule else { return None };
        let whole =
            Timestamp::from_second(moment.as_second().div_euclid(60).checked_add(1)?.checked_mul(60)?)
                .ok()?;
        let mut time = whole.to_zoned(self.zone.clone());
        let last_year = time.year().checked_add(YEARS_MAX)?;
        // Each turn moves to the beginning of the next candidate of the coarsest field that does not match.
        while time.year() <= last_year {
            time = if !month.has(time.month()) {
                let first = time.date().first_of_month().checked_add(jiff::Span::new().months(1)).ok()?;
                first.to_zoned(self.zone.clone()).ok()?
            } else if !self.has_day(&time) {
                time.date().tomorrow().ok()?.to_zoned(self.zone.clone()).ok()?
            } else if !hour.has(time.hour()) {
                let rest = SignedDuration::from_mins(60 - i64::from(time.minute()));
                time.checked_add(rest).ok()?
            } else if !minute.has(time.minute()) {
                time.checked_add(SignedDuration::from_mins(1)).ok()?
            } else {
                return Some(time.timestamp());
            };
        }
        None
    }

    fn has_day(&self, time: &Zoned) -> bool {
        let Rule::Fields { day, weekday, .. } = &self.rule else { return false };
        let by_date = day.has(time.day());
        let by_weekday = weekday.has(time.weekday().to_sunday_zero_offset());
        if day.any || weekday.any { by_date && by_weekday } else { by_date || by_weekday }
    }

    /// The last time after `earliest` and not after `now`, and how many there were (counted up to `count_max`).
    pub fn latest(
        &self,
        earliest: Timestamp,
        now: Timestamp,
        count_max: usize,
    ) -> Option<(Timestamp, usize)> {
        if let Rule::Every(interval) = &self.rule {
            let passed = now.duration_since(earliest).as_secs();
            let count = passed.checked_div(interval.as_secs()).filter(|count| *count > 0)?;
            let last = SignedDuration::from_secs(count.checked_mul(interval.as_secs())?);
            let start = Timestamp::from_second(earliest.as_second()).ok()?;
            return Some((
                start.checked_add(last).ok()?,
                usize::try_from(count).unwrap_or(count_max).min(count_max),
            ));
        }
        let (mut count, mut time, mut last) = (0, earliest, None);
        while count < count_max {
            let Some(next) = self.after(time).filter(|next| *next <= now) else {
                return last.map(|last| (last, count));
            };
            (count, time, last) = (count + 1, next, Some(next));
        }
        // Too many to go through: from the end, in windows that grow.
        for window in [3600, 86_400, 31 * 86_400, 366 * 86_400, i64::from(YEARS_MAX) * 366 * 86_400] {
            let start = crate::metadata::after_seconds(now, -window).max(time);
            let times = std::iter::successors(self.after(start), |time| self.after(*time));
            if let Some(found) = times.take_while(|time| *time <= now).last() {
                return Some((found, count));
            }
        }
        last.map(|last| (last, count))
    }
}

fn fields(text: &str) -> Result<Rule, ScheduleError> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = parts.as_slice() else {
        return Err(ScheduleError::Fields { found: parts.len(), text: text.to_owned() });
    };
    Ok(Rule::Fields {
        minute: MINUTE.parse(minute)?,
        hour: HOUR.parse(hour)?,
        day: DAY.parse(day)?,
        month: MONTH.parse(month)?,
        weekday: WEEKDAY.parse(weekday)?,
    })
}

fn descriptor(name: &str) -> Result<Rule, ScheduleError> {
    let unknown = || ScheduleError::Descriptor(format!("@{name}"));
    if let Some(interval) = name.strip_prefix("every ") {
        let interval: SignedDuration = interval.trim().parse().map_err(|_| unknown())?;
        if interval.as_secs() < 1 {
            return Err(unknown());
        }
        return Ok(Rule::Every(SignedDuration::from_secs(interval.as_secs())));
    }
    let text = match name {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => return Err(unknown()),
    };
    fields(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn next_times() {
        for (schedule, zone, after, want) in [
            ("* * * * *", None, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", None, "2026-01-01T00:00:59.5Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", None, "2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"),
            ("5/20 * * * *", None, "2026-01-01T00:06:00Z", "2026-01-01T00:25:00Z"),
            ("0 9-17/4 * * *", None, "2026-01-01T10:00:00Z", "2026-01-01T13:00:00Z"),
            ("30 4 1,15 * *", None, "2026-01-02T00:00:00Z", "2026-01-15T04:30:00Z"),
            ("0 0 * * MON-FRI", None, "2026-01-02T01:00:00Z", "2026-01-05T00:00:00Z"),
            ("0 0 1 feb ?", None, "2026-02-01T00:00:00Z", "2027-02-01T00:00:00Z"),
            // Both days restricted: either.
            ("0 0 13 * FRI", None, "2026-01-03T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 29 2 *", None, "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("@hourly", None, "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"),
            ("@weekly", None, "2026-01-01T00:30:00Z", "2026-01-04T00:00:00Z"),
            ("@yearly", None, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", None, "2026-01-01T00:00:10Z", "2026-01-01T01:30:10Z"),
            ("0 8 * * *", Some("Europe/Berlin"), "2026-01-01T12:00:00Z", "2026-01-02T07:00:00Z"),
            ("0 8 * * *", Some("Europe/Berlin"), "2026-07-01T12:00:00Z", "2026-07-02T06:00:00Z"),
            // 2:30 does not exist on the day the clocks go forward.
            ("30 2 * * *", Some("Europe/Berlin"), "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"),
            // The hour before the clocks go back is there twice.
            ("*/30 2 * * *", Some("Europe/Berlin"), "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z"),
        ] {
            let parsed = Schedule::parse(schedule, zone).unwrap();
            assert_eq!(parsed.after(at(after)), Some(at(want)), "{schedule} after {after}");
        }
        assert_eq!(Schedule::parse("0 0 30 2 *", None).unwrap().after(at("2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn what_is_no_schedule() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "-1 * * * *",
            "@often",
            "@every",
            "@every x",
            "1,,2 * * * *",
            "+1 * * * *",
        ] {
            assert!(Schedule::parse(text, None).is_err(), "{text}");
        }
        assert_eq!(
            Schedule::parse("* * * * *", Some("Mars/Base")).unwrap_err().to_string(),
            "unknown time zone Mars/Base"
        );
    }

    #[test]
    fn the_latest_of_many() {
        let minutely = Schedule::parse("* * * * *", None).unwrap();
        let latest = |schedule: &Schedule, from: &str, to: &str| schedule.latest(at(from), at(to), 101);
        assert_eq!(latest(&minutely, "2026-01-01T00:00:00Z", "2026-01-01T00:00:30Z"), None);
        assert_eq!(
            latest(&minutely, "2026-01-01T00:00:00Z", "2026-01-01T00:02:30Z"),
            Some((at("2026-01-01T00:02:00Z"), 2))
        );
        assert_eq!(
            latest(&minutely, "2000-01-01T00:00:00Z", "2026-01-01T00:02:30Z"),
            Some((at("2026-01-01T00:02:00Z"), 101))
        );
        let nightly = Schedule::parse("0-10 3 * * *", None).unwrap();
        assert_eq!(
            latest(&nightly, "2000-01-01T00:00:00Z", "2026-01-01T02:00:00Z"),
            Some((at("2025-12-31T03:10:00Z"), 101))
        );
        let every = Schedule::parse("@every 1m", None).unwrap();
        assert_eq!(
            latest(&every, "2026-01-01T00:00:00Z", "2026-01-01T00:03:30Z"),
            Some((at("2026-01-01T00:03:00Z"), 3))
        );
    }
}
