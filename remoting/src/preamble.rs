//! The first bytes of an accepted connection: a frame, a HAProxy PROXY header in front of the frames (v1 text or v2
//! binary), or a TLS handshake.
//!
//! The three cannot be mistaken for one another: read as a frame's length word, the first byte of a PROXY header or
//! a handshake would announce a frame far over the limit. Source: spec/wire.md §1.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const V1_START: &[u8] = b"PROXY ";
/// The longest v1 line, its line end included.
const V1_BYTES_MAX: usize = 108;
const V2_START: &[u8] = b"\x0D\x0A\x0D\x0A\x00\x0D\x0AQUIT\x0A";
const V2_FIXED_BYTES: usize = 16;
/// v2 allows 64 KiB of extensions; what real proxies add is far below this.
const V2_BYTES_MAX: usize = 4096;
const TLS_HANDSHAKE: u8 = 0x16;

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Preamble {
    /// Frames from the first byte on.
    None,
    /// A PROXY header of so many bytes, and the client it announces.
    Proxy(usize, Option<SocketAddr>),
    /// More bytes are needed to say.
    Partial,
    /// A TLS handshake.
    Tls,
    /// It begins like a PROXY header and is none.
    Malformed,
}

pub(crate) fn look(input: &[u8]) -> Preamble {
    match input.first() {
        None => Preamble::Partial,
        Some(&TLS_HANDSHAKE) => Preamble::Tls,
        Some(b'P') => v1(input),
        Some(0x0D) => v2(input),
        Some(_) => Preamble::None,
    }
}

/// `PROXY TCP4 source destination sourcePort destinationPort\r\n`, or `PROXY UNKNOWN …\r\n`.
fn v1(input: &[u8]) -> Preamble {
    if !starts_alike(input, V1_START) {
        return Preamble::Malformed;
    }
    let window = &input[..input.len().min(V1_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if input.len() < V1_BYTES_MAX {
            Preamble::Partial
        } else {
            Preamble::Malformed
        };
    };
    let announced = std::str::from_utf8(&input[V1_START.len()..end])
        .ok()
        .and_then(|line| {
            let mut words = line.split(' ');
            let family = words.next()?;
            let source: IpAddr = words.next()?.parse().ok()?;
            let port = words.nth(1)?.parse().ok()?;
            matches!(family, "TCP4" | "TCP6").then(|| SocketAddr::new(source, port))
        });
    Preamble::Proxy(end + 2, announced)
}

/// Signature, version and command, family, i16 length, then addresses and extensions.
fn v2(input: &[u8]) -> Preamble {
    if !starts_alike(input, V2_START) {
        return Preamble::Malformed;
    }
    let Some(&[version_command, family, high, low]) = input.get(12..V2_FIXED_BYTES) else {
        return Preamble::Partial;
    };
    let total = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 || total > V2_BYTES_MAX {
        return Preamble::Malformed;
    }
    let Some(rest) = input.get(V2_FIXED_BYTES..total) else {
        return Preamble::Partial;
    };
    // The command LOCAL (0) is the proxy's own health check: it announces nobody.
    let announced = (version_command & 0xf == 1)
        .then(|| v2_source(family, rest))
        .flatten();
    Preamble::Proxy(total, announced)
}

fn v2_source(family: u8, rest: &[u8]) -> Option<SocketAddr> {
    let port_at = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    match family >> 4 {
        1 => {
            let raw: [u8; 4] = rest.get(..4)?.try_into().ok()?;
            Some(SocketAddr::new(Ipv4Addr::from(raw).into(), port_at(8)?))
        }
        2 => {
            let raw: [u8; 16] = rest.get(..16)?.try_into().ok()?;
            Some(SocketAddr::new(Ipv6Addr::from(raw).into(), port_at(32)?))
        }
        _ => None,
    }
}

/// As far as both go, they are equal.
fn starts_alike(input: &[u8], start: &[u8]) -> bool {
    input.iter().zip(start).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut anywhere, a header is partial; whole, it is recognised, whatever follows.
    fn check(header: &[u8], announced: Option<&str>) {
        for cut in 0..header.len() {
            assert_eq!(look(&header[..cut]), Preamble::Partial, "cut at {cut}");
        }
        let mut longer = header.to_vec();
        longer.extend_from_slice(&[0, 0, 0, 9]);
        let announced = announced.map(|text| text.parse().unwrap());
        assert_eq!(look(&longer), Preamble::Proxy(header.len(), announced));
    }

    #[test]
    fn version_1() {
        check(
            b"PROXY TCP4 203.0.113.7 10.0.0.1 5151 9876\r\n",
            Some("203.0.113.7:5151"),
        );
        check(
            b"PROXY TCP6 2001:db8::7 ::1 5151 9876\r\n",
            Some("[2001:db8::7]:5151"),
        );
        check(b"PROXY UNKNOWN\r\n", None);
    }

    #[test]
    fn version_2() {
        let mut header = V2_START.to_vec();
        header.extend_from_slice(&[0x21, 0x11, 0, 12, 203, 0, 113, 7, 10, 0, 0, 1]);
        header.extend_from_slice(&[0x14, 0x1f, 0x26, 0x94]);
        check(&header, Some("203.0.113.7:5151"));
        let mut local = V2_START.to_vec();
        local.extend_from_slice(&[0x20, 0, 0, 0]);
        check(&local, None);
    }

    #[test]
    fn everything_else() {
        assert_eq!(look(&[0, 0, 0, 5]), Preamble::None);
        assert_eq!(look(&[0x16, 3, 1]), Preamble::Tls);
        assert_eq!(look(b"POST / HTTP/1.1\r\n"), Preamble::Malformed);
        assert_eq!(look(b"\r\nGET /"), Preamble::Malformed);
        assert_eq!(
            look(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()),
            Preamble::Malformed
        );
        let mut huge = V2_START.to_vec();
        huge.extend_from_slice(&[0x21, 0x11, 0xff, 0xff]);
        assert_eq!(look(&huge), Preamble::Malformed);
    }
}
