//! Dates for templates that tell the model what day it is: `strftime_now`, in UTC, by the parts of C's `strftime` that
//! do not depend on a place or a language.

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Seconds since 1970, by the system's clock.
pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// A moment in a format such as `%d %b %Y`. What is not known stays as it is.
pub(super) fn strftime(format: &str, seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let name = |names: &[&'static str], index: i64| names.get(index as usize).copied().unwrap_or_default();
    let weekday = (days + 4).rem_euclid(7);
    let half = if hour % 12 == 0 { 12 } else { hour % 12 };
    let short = |name: &'static str| name.get(..3).unwrap_or(name).to_string();
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let (mut code, mut padded) = (characters.next(), true);
        if code == Some('-') {
            (code, padded) = (characters.next(), false);
        }
        let two = |value: i64| if padded { format!("{value:02}") } else { value.to_string() };
        let part = match code {
            Some('Y') => year.to_string(),
            Some('y') => two(year.rem_euclid(100)),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('e') => format!("{day:2}"),
            Some('H') => two(hour),
            Some('I') => two(half),
            Some('M') => two(minute),
            Some('S') => two(second % 60),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
            Some('j') => format!("{:03}", days - days_before(year) + 1),
            Some('A') => name(&DAYS, weekday).to_string(),
            Some('a') => short(name(&DAYS, weekday)),
            Some('B') => name(&MONTHS, month - 1).to_string(),
            Some('b' | 'h') => short(name(&MONTHS, month - 1)),
            Some('u') => if weekday == 0 { 7 } else { weekday }.to_string(),
            Some('w') => weekday.to_string(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{:02}", second % 60),
            Some('D') => format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
            Some('s') => seconds.to_string(),
            Some('z') => "+0000".to_string(),
            Some('Z') => "UTC".to_string(),
            Some('n') => "\n".to_string(),
            Some('t') => "\t".to_string(),
            Some('%') => "%".to_string(),
            Some(other) => format!("%{other}"),
            None => "%".to_string(),
        };
        text.push_str(&part);
    }
    text
}

/// Year, month and day of a number of days since 1970 (Howard Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Days from 1970 to the first of a year.
fn days_before(year: i64) -> i64 {
    let last = year - 1;
    365 * (year - 1970) + (last.div_euclid(4) - 492) - (last.div_euclid(100) - 19) + (last.div_euclid(400) - 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        // 2024-02-29 23:05:09 UTC, a Thursday.
        let moment = 1_709_247_909;
        assert_eq!(strftime("%d %b %Y|%A %-d %B|%H:%M:%S|%I%p|%j|%y|%%|%q", moment), {
            "29 Feb 2024|Thursday 29 February|23:05:09|11PM|060|24|%|%q"
        });
        assert_eq!(strftime("%F %a %e %u", 0), "1970-01-01 Thu  1 4");
        assert_eq!(strftime("%F %j", 4_102_444_799), "2099-12-31 365");
        assert_eq!(strftime("%F %T %j", -1), "1969-12-31 23:59:59 365");
    }
}
