//! The two ids of a message: the broker's, which names its place, and the producer's, which names the sending.
//!
//! ```text
//! offset id   upper-case hex of  address (4 | 16) | port i32 | physical offset i64
//! unique id   upper-case hex of  address (4 | 16) | pid u16 | salt u32 | ms since the month began i32 | counter u16
//! ```
//! Source: Apache's `MessageDecoder.createMessageId`, `MessageClientIDSetter`; spec/wire.md §5.6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::offset::PhysicalOffset;

/// Where a record is: the broker that stored it and the place in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OffsetId {
    /// Store host: the advertised address and the listen port.
    pub store_host: SocketAddr,
    /// Place in that broker's log.
    pub offset: PhysicalOffset,
}

impl OffsetId {
    /// Reads 32 or 56 hex digits of either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = from_hex(text)?;
        let (address, rest) = match bytes.len() {
            16 => {
                let address = <[u8; 4]>::try_from(&bytes[..4]).ok()?;
                (IpAddr::from(Ipv4Addr::from(address)), &bytes[4..])
            }
            28 => {
                let address = <[u8; 16]>::try_from(&bytes[..16]).ok()?;
                (IpAddr::from(Ipv6Addr::from(address)), &bytes[16..])
            }
            _ => return None,
        };
        let port = i32::from_be_bytes(<[u8; 4]>::try_from(&rest[..4]).ok()?);
        let offset = i64::from_be_bytes(<[u8; 8]>::try_from(&rest[4..]).ok()?);
        Some(Self {
            store_host: SocketAddr::new(address, u16::try_from(port).ok()?),
            offset: PhysicalOffset::from_wire(offset)?,
        })
    }

    /// Writes the digits behind `out`.
    pub fn write(&self, out: &mut String) {
        match self.store_host.ip() {
            IpAddr::V4(address) => push_hex(out, &address.octets()),
            IpAddr::V6(address) => push_hex(out, &address.octets()),
        }
        push_hex(out, &u32::from(self.store_host.port()).to_be_bytes());
        push_hex(out, &self.offset.number().to_be_bytes());
    }
}

impl std::fmt::Display for OffsetId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::with_capacity(56);
        self.write(&mut text);
        f.write_str(&text)
    }
}

/// Makes unique ids. One per process; any thread may ask.
///
/// Two ids of one generator differ as long as fewer than 65,536 are made in a millisecond.
#[derive(Debug)]
pub struct UniqueIds {
    address: IpAddr,
    pid: u16,
    salt: u32,
    utc_offset_ms: i64,
    counter: AtomicU32,
}

impl UniqueIds {
    /// `salt` tells processes apart that share address and pid (containers); `utc_offset_ms` is the local time zone's,
    /// because tools read the time in an id as local.
    #[must_use]
    pub fn new(address: IpAddr, pid: u16, salt: u32, utc_offset_ms: i64) -> Self {
        Self {
            address,
            pid,
            salt,
            utc_offset_ms,
            counter: AtomicU32::new(0),
        }
    }

    /// The next id, 32 digits (56 when the address is IPv6), made at `now_ms`.
    #[must_use]
    pub fn next(&self, now_ms: i64) -> String {
        let mut text = String::with_capacity(56);
        match self.address {
            IpAddr::V4(address) => push_hex(&mut text, &address.octets()),
            IpAddr::V6(address) => push_hex(&mut text, &address.octets()),
        }
        push_hex(&mut text, &self.pid.to_be_bytes());
        push_hex(&mut text, &self.salt.to_be_bytes());
        let local_ms = now_ms.saturating_add(self.utc_offset_ms);
        let since = i32::try_from(ms_since_month_start(local_ms)).unwrap_or(0);
        push_hex(&mut text, &since.to_be_bytes());
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        push_hex(&mut text, &count.to_be_bytes()[2..]);
        text
    }
}

const DAY_MS: i64 = 86_400_000;

/// Milliseconds from the first day of the month, in the calendar of `local_ms`.
fn ms_since_month_start(local_ms: i64) -> i64 {
    // Howard Hinnant's civil_from_days, of which only the day of the month is wanted.
    let days = local_ms.div_euclid(DAY_MS) + 719_468;
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5;
    day_of_month * DAY_MS + local_ms.rem_euclid(DAY_MS)
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() > 56 || !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            u8::try_from(high << 4 | low).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_ids_of_the_golden_store() {
        let id = OffsetId::parse("7F00000100005D67000000000000014E").unwrap();
        assert_eq!(id.store_host, "127.0.0.1:23911".parse().unwrap());
        assert_eq!(id.offset, PhysicalOffset::new(334));
        assert_eq!(id.to_string(), "7F00000100005D67000000000000014E");
    }

    #[test]
    fn ipv6_makes_56_digits() {
        let id = OffsetId {
            store_host: "[fd00::2]:10911".parse().unwrap(),
            offset: PhysicalOffset::new(510),
        };
        let text = id.to_string();
        assert_eq!(text.len(), 56);
        assert_eq!(OffsetId::parse(&text), Some(id));
    }

    #[test]
    fn other_text_is_no_offset_id() {
        for text in [
            "",
            "7F",
            "zz00000100005D67000000000000014E",
            "7F00000100015D67000000000000014E",
            "7F00000100005D67F00000000000014E",
            "é00000100005D67000000000000014E",
        ] {
            assert_eq!(OffsetId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn unique_ids_tell_address_and_time() {
        let ids = UniqueIds::new("127.0.0.1".parse().unwrap(), 0x1234, 0xA1B2_C3D4, 0);
        // 2026-11-21 03:00:00 UTC
        let now = 1_795_230_000_000;
        let since = 20 * DAY_MS + 3 * 3_600_000;
        assert_eq!(
            ids.next(now),
            format!("7F0000011234A1B2C3D4{since:08X}0000")
        );
        assert!(ids.next(now).ends_with("0001"));
    }
}
