//! Compressed message bodies: zlib, LZ4 frames and zstd, chosen by `sysFlag`. Source: spec/wire.md §5.5.
//!
//! Decompression stops at a limit that the caller gives: a body of a few bytes must not become gigabytes.

use std::io::{self, Read, Write};

use thiserror::Error;

use crate::sys_flag::Codec;

/// Why a body cannot be compressed or decompressed.
#[derive(Debug, Error)]
pub enum CompressionError {
    /// Decompressed it would have more bytes than the caller allows.
    #[error("more than {limit} bytes decompressed")]
    TooLong {
        /// The caller's limit in bytes.
        limit: usize,
    },
    /// The stream is damaged, cut, or none of this codec.
    #[error("not a {codec:?} stream: {source}")]
    Damaged {
        /// The codec it should be of.
        codec: Codec,
        /// What the codec says.
        source: io::Error,
    },
}

/// Compresses with the codec's own scale of levels; LZ4 has none.
///
/// # Errors
/// [`CompressionError::Damaged`], if the codec refuses.
pub fn compress(codec: Codec, level: u8, plain: &[u8]) -> Result<Vec<u8>, CompressionError> {
    let result = match codec {
        Codec::Zlib => {
            let level = flate2::Compression::new(u32::from(level.min(9)));
            let mut stream = flate2::write::ZlibEncoder::new(Vec::new(), level);
            stream.write_all(plain).and_then(|()| stream.finish())
        }
        Codec::Lz4 => {
            let mut stream = lz4_flex::frame::FrameEncoder::new(Vec::new());
            stream
                .write_all(plain)
                .and_then(|()| stream.finish().map_err(io::Error::from))
        }
        Codec::Zstd => zstd::stream::encode_all(plain, i32::from(level.min(22))),
    };
    result.map_err(|source| CompressionError::Damaged { codec, source })
}

/// Decompresses at most `limit` bytes.
///
/// # Errors
/// [`CompressionError`].
pub fn decompress(codec: Codec, body: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
    let damaged = |source| CompressionError::Damaged { codec, source };
    match codec {
        Codec::Zlib => read_bounded(codec, flate2::read::ZlibDecoder::new(body), limit),
        Codec::Lz4 => read_bounded(codec, lz4_flex::frame::FrameDecoder::new(body), limit),
        Codec::Zstd => {
            let mut stream = zstd::stream::read::Decoder::with_buffer(body).map_err(damaged)?;
            stream
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(damaged)?;
            read_bounded(codec, stream, limit)
        }
    }
}

/// The window is memory too. 8 MiB serve levels up to 19; the original's clients use 5, and a message has 4 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

fn read_bounded(
    codec: Codec,
    stream: impl Read,
    limit: usize,
) -> Result<Vec<u8>, CompressionError> {
    let mut plain = Vec::new();
    let allowed = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    stream
        .take(allowed)
        .read_to_end(&mut plain)
        .map_err(|source| CompressionError::Damaged { codec, source })?;
    if plain.len() > limit {
        return Err(CompressionError::TooLong { limit });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODECS: [Codec; 3] = [Codec::Zlib, Codec::Lz4, Codec::Zstd];

    #[test]
    fn every_codec_goes_both_ways() {
        let plain = b"what is said twice is said twice ".repeat(1000);
        for codec in CODECS {
            for level in [1, 5, 9] {
                let body = compress(codec, level, &plain).unwrap();
                assert!(body.len() < plain.len() / 10, "{codec:?}");
                assert_eq!(decompress(codec, &body, plain.len()).unwrap(), plain);
            }
            let nothing = compress(codec, 5, b"").unwrap();
            assert_eq!(decompress(codec, &nothing, 0).unwrap(), b"");
        }
    }

    #[test]
    fn the_streams_are_those_of_the_original() {
        assert_eq!(compress(Codec::Zlib, 5, b"x").unwrap()[0], 0x78);
        assert_eq!(
            compress(Codec::Lz4, 5, b"x").unwrap()[..4],
            [4, 0x22, 0x4d, 0x18]
        );
        assert_eq!(
            compress(Codec::Zstd, 5, b"x").unwrap()[..4],
            [0x28, 0xb5, 0x2f, 0xfd]
        );
    }

    #[test]
    fn a_small_body_that_would_become_a_large_one_is_refused() {
        let plain = vec![0; 1 << 24];
        for codec in CODECS {
            let body = compress(codec, 9, &plain).unwrap();
            let limit = plain.len() - 1;
            assert!(matches!(
                decompress(codec, &body, limit),
                Err(CompressionError::TooLong { .. })
            ));
        }
    }

    #[test]
    fn cut_and_damaged_bodies_are_errors() {
        let plain: Vec<u8> = (0..5000_u32).flat_map(|n| (n * n).to_be_bytes()).collect();
        for codec in CODECS {
            let body = compress(codec, 5, &plain).unwrap();
            for keep in (1..body.len() - 8).step_by(97) {
                assert!(
                    decompress(codec, &body[..keep], 1 << 20).is_err(),
                    "{codec:?} {keep}"
                );
            }
            assert!(decompress(codec, b"not a stream at all", 1 << 20).is_err());
        }
    }
}
