//! Recall handles: by which a sender takes a timer message back before it is due (request 370).
//!
//! A handle is `v1 topic brokerName deliverMs uniqueKey`, joined by blanks, in base64 with `-` and `_`, padded. Source:
//! spec/wire.md §4.3.6; Apache `RecallMessageHandle`.

use std::fmt::Write;

/// What a handle says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecallHandle {
    /// The message's topic.
    pub topic: String,
    /// The broker that holds it.
    pub broker_name: String,
    /// When it is due, as its answer said.
    pub deliver_ms: i64,
    /// Its unique key.
    pub unique_key: String,
}

/// The handle of a message.
pub fn handle(topic: &str, broker_name: &str, deliver_ms: i64, unique_key: &str) -> String {
    encode(format!("v1 {topic} {broker_name} {deliver_ms} {unique_key}").as_bytes())
}

/// Reads a handle; `None` when it is none.
pub fn parse(text: &str) -> Option<RecallHandle> {
    let decoded = String::from_utf8(decode(text)?).ok()?;
    let mut parts = decoded.split(' ');
    if parts.next()? != "v1" {
        return None;
    }
    let parsed = RecallHandle {
        topic: parts.next()?.to_owned(),
        broker_name: parts.next()?.to_owned(),
        deliver_ms: parts.next()?.parse().ok()?,
        unique_key: parts.next()?.to_owned(),
    };
    Some(parsed)
}

/// How a recall names the message that it takes back (`TIMER_DEL_UNIQKEY`).
pub fn delete_key(topic: &str, unique_key: &str) -> String {
    let mut key = String::with_capacity(topic.len() + unique_key.len() + 1);
    let _ = write!(key, "{topic}+{unique_key}");
    key
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for digit in 0..4 {
            if digit > chunk.len() {
                text.push('=');
            } else {
                let at = usize::try_from(bits >> (18 - 6 * digit) & 63).unwrap_or(0);
                text.push(char::from(ALPHABET[at]));
            }
        }
    }
    text
}

/// Accepts the digits of both alphabets, padded or not.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let mut bits: u32 = 0;
    let mut count = 0;
    for digit in text.bytes() {
        let digit = match digit {
            b'+' => b'-',
            b'/' => b'_',
            other => other,
        };
        let value = ALPHABET.iter().position(|candidate| *candidate == digit)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_goes_both_ways() {
        for key in ["K", "KE", "KEY", "7F000001ABCD"] {
            let text = handle("Topic-1", "broker-a", 1_700_000_000_001, key);
            assert_eq!(text.len() % 4, 0);
            let parsed = parse(&text).unwrap();
            assert_eq!(
                (parsed.topic.as_str(), parsed.broker_name.as_str()),
                ("Topic-1", "broker-a")
            );
            assert_eq!(
                (parsed.deliver_ms, parsed.unique_key.as_str()),
                (1_700_000_000_001, key)
            );
        }
    }

    #[test]
    fn the_encoding_is_the_original_s() {
        assert_eq!(encode(b"v1 T b 1 k"), "djEgVCBiIDEgaw==");
        assert_eq!(encode(&[0xfb, 0xff]), "-_8=");
    }

    #[test]
    fn what_is_no_handle_is_refused() {
        for text in [
            "",
            "!",
            "djEg",
            &encode(b"v2 T b 1 k"),
            &encode(b"v1 T b x k"),
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
