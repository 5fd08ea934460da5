//! The number that a queue entry keeps of a message's tag, so that a pull can filter without reading the record.

/// The tag's code: Java's `String.hashCode` over UTF-16 units, sign-extended. No tag is 0.
///
/// Different tags may share a code (`AaAa` and `BBBB`): the exact comparison is the consumer's job.
/// Source: `MessageExtBrokerInner.tagsString2tagsCode`.
#[must_use]
pub fn tags_code(tags: &str) -> i64 {
    i64::from(java_hash(tags))
}

/// Java's `String.hashCode`: h = 31 h + unit over the UTF-16 units, wrapping.
#[must_use]
pub fn java_hash(text: &str) -> i32 {
    java_hash_more(0, text)
}

/// Goes on hashing behind a prefix: `java_hash_more(java_hash(a), b)` is the hash of `a` followed by `b`.
#[must_use]
pub fn java_hash_more(prefix: i32, text: &str) -> i32 {
    if text.is_ascii() {
        // The usual case by far; skipping the UTF-16 decoder makes it several times faster.
        return text.bytes().fold(prefix, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(i32::from(byte))
        });
    }
    text.encode_utf16().fold(prefix, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_java() {
        assert_eq!(tags_code(""), 0);
        assert_eq!(tags_code("single"), 0xFFFF_FFFF_CA38_8448_u64.cast_signed());
        assert_eq!(tags_code("AaAa"), tags_code("BBBB"));
        assert_eq!(java_hash("标签"), 0x6807 * 31 + 0x7B7E);
        // Outside the basic plane Java sees two surrogates.
        assert_eq!(
            java_hash("😀"),
            0xD83D_i32.wrapping_mul(31).wrapping_add(0xDE00)
        );
    }

    #[test]
    fn goes_on_behind_a_prefix() {
        let whole = java_hash("Topic#key-日");
        assert_eq!(
            java_hash_more(java_hash_more(java_hash("Topic"), "#"), "key-日"),
            whole
        );
    }
}
