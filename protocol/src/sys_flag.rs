//! The bits of a message's `sysFlag`. Source: Apache's `MessageSysFlag`, `CompressionType`.

/// The body is compressed; see [`compression`].
pub const COMPRESSED: i32 = 0x1;
/// The topic's messages may carry several tags.
pub const MULTI_TAGS: i32 = 0x2;
/// The two bits that say where a message stands in a transaction.
pub const TRANSACTION_MASK: i32 = 0xC;
/// The producer's host has 16 address bytes.
pub const BORN_HOST_V6: i32 = 0x10;
/// The broker's host has 16 address bytes.
pub const STORE_HOST_V6: i32 = 0x20;
/// The consumer has to unwrap an inner batch.
pub const NEED_UNWRAP: i32 = 0x40;
/// The record holds an inner batch.
pub const INNER_BATCH: i32 = 0x80;
/// The bits that name the codec of a compressed body.
pub const CODEC_MASK: i32 = 0x700;

/// Where a message stands in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionState {
    /// Not part of one (also a half message in its own topic, since 4.3).
    None,
    /// A half message of an old store: indexed, in no queue.
    Prepared,
    /// A committed message: an ordinary one that remembers its half.
    Commit,
    /// A rolled back one of an old store: in no queue, not indexed.
    Rollback,
}

impl TransactionState {
    /// Reads the bits.
    #[must_use]
    pub fn of(sys_flag: i32) -> Self {
        match sys_flag & TRANSACTION_MASK {
            0 => Self::None,
            0x4 => Self::Prepared,
            0x8 => Self::Commit,
            _ => Self::Rollback,
        }
    }

    /// The bits.
    #[must_use]
    pub fn bits(self) -> i32 {
        match self {
            Self::None => 0,
            Self::Prepared => 0x4,
            Self::Commit => 0x8,
            Self::Rollback => 0xC,
        }
    }

    /// `sys_flag` with these transaction bits instead of its own.
    #[must_use]
    pub fn in_flag(self, sys_flag: i32) -> i32 {
        (sys_flag & !TRANSACTION_MASK) | self.bits()
    }

    /// Whether a record in this state takes a place in its queue.
    #[must_use]
    pub fn is_queued(self) -> bool {
        matches!(self, Self::None | Self::Commit)
    }
}

/// The codec of a compressed body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// LZ4's frame format.
    Lz4,
    /// A zstd frame.
    Zstd,
    /// RFC 1950; what old clients mean when they name none.
    Zlib,
}

impl Codec {
    /// The bits of the codec, without [`COMPRESSED`].
    #[must_use]
    pub fn bits(self) -> i32 {
        match self {
            Self::Lz4 => 0x100,
            Self::Zstd => 0x200,
            Self::Zlib => 0x300,
        }
    }
}

/// How the body is compressed: `None` when it is not. Unknown codec bits are `Some(Err(bits))`.
#[must_use]
pub fn compression(sys_flag: i32) -> Option<Result<Codec, i32>> {
    if sys_flag & COMPRESSED == 0 {
        return None;
    }
    Some(match sys_flag & CODEC_MASK {
        0x100 => Ok(Codec::Lz4),
        0x200 => Ok(Codec::Zstd),
        0 | 0x300 => Ok(Codec::Zlib),
        unknown => Err(unknown),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_flags_read_as_sent() {
        assert_eq!(compression(769), Some(Ok(Codec::Zlib)));
        assert_eq!(compression(257), Some(Ok(Codec::Lz4)));
        assert_eq!(compression(513), Some(Ok(Codec::Zstd)));
        assert_eq!(compression(1), Some(Ok(Codec::Zlib)));
        assert_eq!(compression(0x701), Some(Err(0x700)));
        assert_eq!(compression(0x300), None);
        assert_eq!(TransactionState::of(4), TransactionState::Prepared);
        assert_eq!(TransactionState::Commit.in_flag(0x10 | 4), 0x18);
        assert!(!TransactionState::of(0xC).is_queued());
    }
}
