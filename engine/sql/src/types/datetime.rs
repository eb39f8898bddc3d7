//! Calendar arithmetic and the ISO text forms of dates, times and intervals. The only time zones are UTC and fixed offsets.

use super::Interval;
use std::fmt::Write;

/// Microseconds of a day.
pub const DAY: i64 = 86_400_000_000;
const HOUR: i64 = 3_600_000_000;
const MINUTE: i64 = 60_000_000;
const SECOND: i64 = 1_000_000;
/// Days from 1970-01-01 to 2000-01-01.
pub const UNIX_TO_2000_DAYS: i64 = 10_957;

/// Days since 2000-01-01 of a proleptic Gregorian date.
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_index = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_index + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468 - UNIX_TO_2000_DAYS
}

/// (year, month, day) of days since 2000-01-01.
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + UNIX_TO_2000_DAYS + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_index + 2) / 5 + 1) as u32;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Adds an interval to microseconds since 2000-01-01: months first (clamped to the month's end), then days, then time.
pub fn add_interval(micros: i64, interval: Interval) -> Option<i64> {
    let (mut days, time) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    if interval.months != 0 {
        let (year, month, day) = civil_from_days(days);
        let total = year * 12 + i64::from(month) - 1 + i64::from(interval.months);
        let (year, month) = (total.div_euclid(12), total.rem_euclid(12) as u32 + 1);
        days = days_from_civil(year, month, day.min(days_in_month(year, month)));
    }
    (days + i64::from(interval.days))
        .checked_mul(DAY)?
        .checked_add(time)?
        .checked_add(interval.micros)
}

pub fn write_date(days: i32, out: &mut String) {
    match days {
        i32::MAX => return out.push_str("infinity"),
        i32::MIN => return out.push_str("-infinity"),
        _ => {}
    }
    let (year, month, day) = civil_from_days(i64::from(days));
    if year > 0 {
        let _ = write!(out, "{year:04}-{month:02}-{day:02}");
    } else {
        let _ = write!(out, "{:04}-{month:02}-{day:02} BC", 1 - year);
    }
}

pub fn write_time(micros: i64, out: &mut String) {
    let (hour, minute, second) = (micros / HOUR, micros / MINUTE % 60, micros / SECOND % 60);
    let _ = write!(out, "{hour:02}:{minute:02}:{second:02}");
    write_fraction(micros % SECOND, out);
}

fn write_fraction(fraction: i64, out: &mut String) {
    if fraction != 0 {
        let digits = format!(".{fraction:06}");
        out.push_str(digits.trim_end_matches('0'));
    }
}

pub fn write_timestamp(micros: i64, zone: bool, out: &mut String) {
    match micros {
        i64::MAX => return out.push_str("infinity"),
        i64::MIN => return out.push_str("-infinity"),
        _ => {}
    }
    let days = micros.div_euclid(DAY);
    let mut date = String::new();
    write_date(days as i32, &mut date);
    let era = date.strip_suffix(" BC");
    out.push_str(era.unwrap_or(&date));
    out.push(' ');
    write_time(micros.rem_euclid(DAY), out);
    if zone {
        out.push_str("+00");
    }
    if era.is_some() {
        out.push_str(" BC");
    }
}

pub fn write_interval(interval: Interval, out: &mut String) {
    let start = out.len();
    let mut part = |count: i32, unit: &str| {
        if count != 0 {
            if out.len() > start {
                out.push(' ');
            }
            let _ = write!(out, "{count} {unit}{}", if count == 1 { "" } else { "s" });
        }
    };
    part(interval.months / 12, "year");
    part(interval.months % 12, "mon");
    part(interval.days, "day");
    if interval.micros != 0 || out.len() == start {
        if out.len() > start {
            out.push(' ');
        }
        if interval.micros < 0 {
            out.push('-');
        }
        let micros = interval.micros.unsigned_abs() as i64;
        write_time(micros, out);
    }
}

pub fn parse_date(text: &str) -> Option<i32> {
    let text = text.trim();
    match text {
        "infinity" => return Some(i32::MAX),
        "-infinity" => return Some(i32::MIN),
        "epoch" => return Some(-(UNIX_TO_2000_DAYS as i32)),
        _ => {}
    }
    let (text, before_christ) = match text.strip_suffix(" BC") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let date = text.split_once([' ', 'T']).map_or(text, |(date, _)| date);
    let (year, month, day) = match *date.split(['-', '/']).collect::<Vec<_>>() {
        [year, month, day] if year.len() >= 4 => (year, month, day),
        [one] if one.len() == 8 && one.is_ascii() => (&one[..4], &one[4..6], &one[6..]),
        _ => return None,
    };
    let year: i64 = year.parse().ok()?;
    let (month, day): (u32, u32) = (month.parse().ok()?, day.parse().ok()?);
    let year = if before_christ { 1 - year } else { year };
    if !(1..=12).contains(&month)
        || day < 1
        || day > days_in_month(year, month)
        || !(-4713..=294_276).contains(&year)
    {
        return None;
    }
    i32::try_from(days_from_civil(year, month, day)).ok()
}

pub fn parse_time(text: &str) -> Option<i64> {
    let text = text.trim();
    let (clock, _zone) = split_zone(text);
    let mut parts = clock.trim().splitn(3, ':');
    let hour: i64 = parts.next()?.parse().ok()?;
    let minute: i64 = parts.next()?.parse().ok()?;
    let second = parse_seconds(parts.next().unwrap_or("0"))?;
    let total = hour * HOUR + minute * MINUTE + second;
    ((0..=24).contains(&hour) && (0..60).contains(&minute) && second <= 60 * SECOND && total <= DAY)
        .then_some(total)
}

fn parse_seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut digits = fraction.to_owned();
    digits.push_str("000000");
    let rounding = i64::from(
        digits.as_bytes()[6..]
            .first()
            .is_some_and(|digit| *digit >= b'5' && fraction.len() > 6),
    );
    whole
        .checked_mul(SECOND)?
        .checked_add(digits[..6].parse::<i64>().ok()? + rounding)
}

/// Splits a zone (`Z`, `UTC`, `+02`, `-03:30`) off a time; its offset in microseconds.
fn split_zone(text: &str) -> (&str, Option<i64>) {
    for suffix in ["UTC", "utc", "GMT", "Z", "z"] {
        if let Some(rest) = text.strip_suffix(suffix) {
            return (rest, Some(0));
        }
    }
    let Some(at) = text.rfind(['+', '-']) else {
        return (text, None);
    };
    let (rest, zone) = text.split_at(at);
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let digits: String = zone[1..].chars().filter(|character| *character != ':').collect();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) || digits.len() > 6 {
        return (text, None);
    }
    let part = |from: usize| {
        digits
            .get(from..from + 2)
            .and_then(|text| text.parse::<i64>().ok())
            .unwrap_or(0)
    };
    let hours = if digits.len() == 1 {
        digits.parse().unwrap_or(0)
    } else {
        part(0)
    };
    (
        rest,
        Some(sign * (hours * HOUR + part(2) * MINUTE + part(4) * SECOND)),
    )
}

/// Parses a timestamp; a zone is applied when `zone` and ignored otherwise.
pub fn parse_timestamp(text: &str, zone: bool) -> Option<i64> {
    let text = text.trim();
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        "epoch" => return Some(-UNIX_TO_2000_DAYS * DAY),
        _ => {}
    }
    let (text, era) = match text.strip_suffix(" BC") {
        Some(rest) => (rest, " BC"),
        None => (text, ""),
    };
    let Some((date, time)) = text.split_once([' ', 'T']) else {
        return i64::from(parse_date(&format!("{text}{era}"))?).checked_mul(DAY);
    };
    let days = parse_date(&format!("{date}{era}"))?;
    let (clock, offset) = split_zone(time.trim());
    let micros = i64::from(days)
        .checked_mul(DAY)?
        .checked_add(parse_time(clock)?)?;
    if zone {
        micros.checked_sub(offset.unwrap_or(0))
    } else {
        Some(micros)
    }
}

/// Parses `1 year 2 mons 3 days 04:05:06.7`, `90 minutes`, `ago`.
pub fn parse_interval(text: &str) -> Option<Interval> {
    let mut interval = Interval::default();
    let mut words = text.split_whitespace().peekable();
    words.peek()?;
    while let Some(word) = words.next() {
        if word == "ago" {
            interval = Interval {
                months: -interval.months,
                days: -interval.days,
                micros: -interval.micros,
            };
        } else if word.contains(':') {
            let (negative, clock) = match word.strip_prefix('-') {
                Some(rest) => (true, rest),
                None => (false, word.trim_start_matches('+')),
            };
            let mut parts = clock.splitn(3, ':');
            let hours: i64 = parts.next()?.parse().ok()?;
            let minutes: i64 = parts.next()?.parse().ok()?;
            let micros = hours.checked_mul(HOUR)?
                + minutes.checked_mul(MINUTE)?
                + parse_seconds(parts.next().unwrap_or("0"))?;
            interval.micros = interval
                .micros
                .checked_add(if negative { -micros } else { micros })?;
        } else {
            let split = word
                .find(|character: char| character.is_ascii_alphabetic())
                .unwrap_or(word.len());
            let (number, unit) = word.split_at(split);
            let unit = if unit.is_empty() {
                words.next().unwrap_or("second")
            } else {
                unit
            };
            add_unit(&mut interval, number.parse().ok()?, unit)?;
        }
    }
    Some(interval)
}

fn add_unit(interval: &mut Interval, count: f64, unit: &str) -> Option<()> {
    let months = |factor: f64| (count * factor) as i32;
    match unit.to_ascii_lowercase().trim_end_matches('s') {
        "year" | "yr" | "y" => interval.months += months(12.0),
        "mon" | "month" => interval.months += months(1.0),
        "decade" => interval.months += months(120.0),
        "centurie" | "century" => interval.months += months(1200.0),
        "week" | "w" => add_days(interval, count * 7.0),
        "day" | "d" => add_days(interval, count),
        "hour" | "hr" | "h" => interval.micros += (count * HOUR as f64) as i64,
        "minute" | "min" | "m" => interval.micros += (count * MINUTE as f64) as i64,
        "second" | "sec" | "" => interval.micros += (count * SECOND as f64).round() as i64,
        "millisecond" | "msec" | "m " => interval.micros += (count * 1000.0).round() as i64,
        "microsecond" | "usec" | "u" => interval.micros += count.round() as i64,
        _ => return None,
    }
    Some(())
}

fn add_days(interval: &mut Interval, days: f64) {
    interval.days += days.trunc() as i32;
    interval.micros += (days.fract() * DAY as f64).round() as i64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_round_trip() {
        for days in (-800_000..800_000).step_by(37) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
        assert_eq!(parse_date("2000-01-01"), Some(0));
        assert_eq!(parse_date("2026-02-29"), None);
    }

    #[test]
    fn timestamps_know_offsets() {
        let mut text = String::new();
        write_timestamp(
            parse_timestamp("2026-11-21 01:30:00.25+02", true).unwrap(),
            true,
            &mut text,
        );
        assert_eq!(text, "2026-11-20 23:30:00.25+00");
    }

    #[test]
    fn intervals_print_as_postgresql_does() {
        let mut text = String::new();
        write_interval(
            parse_interval("1 year 2 months 3 days 04:05:06").unwrap(),
            &mut text,
        );
        assert_eq!(text, "1 year 2 mons 3 days 04:05:06");
        let month_end = parse_timestamp("2024-01-31 00:00:00", false).unwrap();
        let next = add_interval(
            month_end,
            Interval {
                months: 1,
                ..Interval::default()
            },
        );
        assert_eq!(next, parse_timestamp("2024-02-29 00:00:00", false));
    }
}
