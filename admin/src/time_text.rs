//! Times as the original writes and reads them, in the machine's own time zone.

use chrono::{DateTime, Local, NaiveDateTime, TimeZone};

use crate::failure::Failure;

/// `2026-11-21 01:18:09`.
pub(crate) fn seconds(millis: i64) -> String {
    format(millis, "%Y-%m-%d %H:%M:%S")
}

/// `2026-11-21 01:18:09,172`.
pub(crate) fn millis(millis: i64) -> String {
    format(millis, "%Y-%m-%d %H:%M:%S,%3f")
}

fn format(millis: i64, pattern: &str) -> String {
    DateTime::from_timestamp_millis(millis).map_or_else(
        || millis.to_string(),
        |time| time.with_timezone(&Local).format(pattern).to_string(),
    )
}

/// Milliseconds from `yyyy-MM-dd#HH:mm:ss:SSS`, or from a number that is one already.
pub(crate) fn parse(text: &str) -> Result<i64, Failure> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let (whole, fraction) = text.rsplit_once(':').unwrap_or((text, ""));
    let wrong = || {
        Failure::Input(format!(
            "'{text}' is neither milliseconds nor yyyy-MM-dd#HH:mm:ss:SSS"
        ))
    };
    let fraction: i64 = fraction.parse().map_err(|_| wrong())?;
    let local = NaiveDateTime::parse_from_str(whole, "%Y-%m-%d#%H:%M:%S").map_err(|_| wrong())?;
    let time = Local
        .from_local_datetime(&local)
        .earliest()
        .ok_or_else(wrong)?;
    Ok(time.timestamp_millis() + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let millis = parse("2026-11-21#01:18:09:172").unwrap();
        assert_eq!(super::millis(millis), "2026-11-21 01:18:09,172");
        assert_eq!(seconds(millis), "2026-11-21 01:18:09");
        assert_eq!(parse("1795223888275").unwrap(), 1_795_223_888_275);
    }

    #[test]
    fn names_a_time_it_cannot_read() {
        assert!(
            parse("yesterday")
                .unwrap_err()
                .to_string()
                .contains("'yesterday'")
        );
        assert!(parse("2026-11-21#01:18").is_err());
    }
}
