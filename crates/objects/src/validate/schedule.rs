//! The schedule of a CronJob: minute, hour, day of month, month, day of week; or a name such as `@daily`.
//!
//! Only whether a schedule is well formed; when it is due is the controller's to compute.

/// A field: least and greatest number, and names for numbers.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [(&'static str, u32)],
}

const MONTHS: &[(&str, u32)] = &[
    ("jan", 1),
    ("feb", 2),
    ("mar", 3),
    ("apr", 4),
    ("may", 5),
    ("jun", 6),
    ("jul", 7),
    ("aug", 8),
    ("sep", 9),
    ("oct", 10),
    ("nov", 11),
    ("dec", 12),
];
const DAYS: &[(&str, u32)] =
    &[("sun", 0), ("mon", 1), ("tue", 2), ("wed", 3), ("thu", 4), ("fri", 5), ("sat", 6)];
const FIELDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds { min: 1, max: 12, names: MONTHS },
    Bounds { min: 0, max: 6, names: DAYS },
];
const DESCRIPTORS: &[&str] =
    &["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// What is wrong with a schedule, in the words of the parser that Kubernetes uses.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    if schedule.is_empty() {
        return Err("empty spec string".to_owned());
    }
    if schedule.starts_with('@') {
        return descriptor(schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        let found = fields.len();
        return Err(format!("expected exactly 5 fields, found {found}: [{}]", fields.join(" ")));
    }
    for (field, bounds) in fields.iter().zip(&FIELDS) {
        field.split(',').filter(|part| !part.is_empty()).try_for_each(|part| range(part, bounds))?;
    }
    Ok(())
}

fn descriptor(schedule: &str) -> Result<(), String> {
    if let Some(duration) = schedule.strip_prefix("@every ") {
        let is_duration = duration.parse::<jiff::SignedDuration>().is_ok();
        let why = || format!("failed to parse duration {schedule}: time: invalid duration {duration:?}");
        return if is_duration { Ok(()) } else { Err(why()) };
    }
    if DESCRIPTORS.contains(&schedule) {
        return Ok(());
    }
    Err(format!("unrecognized descriptor: {schedule}"))
}

/// `*`, `n`, `n-m`, each with `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<(), String> {
    let (span, step) = match text.split_once('/') {
        Some((_, step)) if step.contains('/') => return Err(format!("too many slashes: {text}")),
        Some((span, step)) => (span, Some(step)),
        None => (text, None),
    };
    let (low, high) = match span.split_once('-') {
        _ if span == "*" || span == "?" => (bounds.min, bounds.max),
        Some((_, high)) if high.contains('-') => return Err(format!("too many hyphens: {text}")),
        Some((low, high)) => (number(low, bounds)?, number(high, bounds)?),
        None => {
            let low = number(span, bounds)?;
            (low, if step.is_some() { bounds.max } else { low })
        }
    };
    let step = step.map_or(Ok(1), plain_number)?;
    if low < bounds.min {
        return Err(format!("beginning of range ({low}) below minimum ({}): {text}", bounds.min));
    }
    if high > bounds.max {
        return Err(format!("end of range ({high}) above maximum ({}): {text}", bounds.max));
    }
    if low > high {
        return Err(format!("beginning of range ({low}) beyond end of range ({high}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let lower = text.to_lowercase();
    match bounds.names.iter().find(|(name, _)| *name == lower) {
        Some((_, number)) => Ok(*number),
        None => plain_number(text),
    }
}

fn plain_number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_refused_in_the_words_of_the_parser() {
        let cases = [
            ("*/5 * * * *", ""),
            ("0 0-12/2,18 1 JAN-mar mon", ""),
            ("@hourly", ""),
            ("@every 1h30m", ""),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
        ];
        for (schedule, want) in cases {
            assert_eq!(check(schedule).err().unwrap_or_default(), want, "{schedule}");
        }
    }
}
