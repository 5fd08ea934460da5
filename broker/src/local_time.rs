//! The operator's wall clock: times in remarks, and where a day begins.

use chrono::{Local, NaiveDate, TimeZone};

/// `yyyy-MM-dd HH:mm:ss` in the local zone.
#[must_use]
pub(crate) fn text(ms: i64) -> String {
    match Local.timestamp_millis_opt(ms).single() {
        Some(time) => time.format("%Y-%m-%d %H:%M:%S").to_string(),
        None => ms.to_string(),
    }
}

/// `yyyy-MM-dd#HH:mm:ss:SSS` in the local zone, as consume time spans have it.
#[must_use]
pub(crate) fn mark(ms: i64) -> String {
    match Local.timestamp_millis_opt(ms).single() {
        Some(time) => time.format("%Y-%m-%d#%H:%M:%S:%3f").to_string(),
        None => ms.to_string(),
    }
}

/// The local day that `ms` falls on.
#[must_use]
pub(crate) fn day(ms: i64) -> Option<NaiveDate> {
    Local
        .timestamp_millis_opt(ms)
        .single()
        .map(|time| time.date_naive())
}

/// What the local zone adds to UTC at `ms`, in ms.
#[must_use]
pub(crate) fn utc_offset_ms(ms: i64) -> i64 {
    let offset = Local
        .timestamp_millis_opt(ms)
        .single()
        .map(|time| *time.offset());
    offset.map_or(0, |offset| i64::from(offset.local_minus_utc()) * 1000)
}
