//! Many messages in one body: of a batch send (code 320), and of a batch stored as one record.
//!
//! ```text
//! repeated { i32 totalSize | i32 magic 0 | i32 bodyCRC 0 | i32 flag | i32 bodyLen | body | i16 propertiesLen | properties }
//! ```
//! The first three words say nothing that the others do not, and are not read, as in the original.
//! Source: spec/wire.md §5.4; Apache `MessageDecoder.encodeMessage`.

use thiserror::Error;

use crate::frame::{be_i16, be_i32};

/// Bytes in front of the body.
const HEAD_BYTES: usize = 5 * 4;

/// Bytes between body and properties.
const PROPERTIES_LENGTH_BYTES: usize = 2;

/// The bytes of a batch are not a sequence of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BatchError {
    /// It ends within a message, or a length points behind its end.
    #[error("the batch is cut at byte {at}")]
    Cut {
        /// Where the message begins, in bytes from the start of the batch.
        at: usize,
    },
    /// A length is negative.
    #[error("a length of the batch's message at byte {at} is negative")]
    Negative {
        /// Where the message begins, in bytes from the start of the batch.
        at: usize,
    },
}

/// A message has parts too long for the lengths of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a message with a body of {body} and properties of {properties} bytes fits no batch")]
pub struct TooLong {
    /// Bytes of the body.
    pub body: usize,
    /// Bytes of the properties.
    pub properties: usize,
}

/// One message of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InnerMessage<'a> {
    /// The application's own flags.
    pub flag: i32,
    /// The body.
    pub body: &'a [u8],
    /// The encoded properties.
    pub properties: &'a [u8],
}

impl InnerMessage<'_> {
    /// Appends the message to a batch.
    ///
    /// # Errors
    /// [`TooLong`]; nothing was appended then.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let too_long = TooLong {
            body: self.body.len(),
            properties: self.properties.len(),
        };
        let properties_bytes = i16::try_from(self.properties.len()).map_err(|_| too_long)?;
        let body_bytes = i32::try_from(self.body.len()).map_err(|_| too_long)?;
        let total = HEAD_BYTES + self.body.len() + PROPERTIES_LENGTH_BYTES + self.properties.len();
        let total = i32::try_from(total).map_err(|_| too_long)?;
        for word in [total, 0, 0, self.flag, body_bytes] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(self.body);
        out.extend_from_slice(&properties_bytes.to_be_bytes());
        out.extend_from_slice(self.properties);
        Ok(())
    }
}

/// The messages of a batch in order; an error is the last item.
pub fn messages(batch: &[u8]) -> impl Iterator<Item = Result<InnerMessage<'_>, BatchError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= batch.len() {
            return None;
        }
        match read(batch, at) {
            Ok((message, behind)) => {
                at = behind;
                Some(Ok(message))
            }
            Err(error) => {
                at = batch.len();
                Some(Err(error))
            }
        }
    })
}

/// Reads the message at `at`; the number is where the next one begins.
fn read(batch: &[u8], at: usize) -> Result<(InnerMessage<'_>, usize), BatchError> {
    let cut = BatchError::Cut { at };
    let negative = BatchError::Negative { at };
    let flag = be_i32(batch, at + 12).ok_or(cut)?;
    let body_bytes = be_i32(batch, at + 16).ok_or(cut)?;
    let body_bytes = usize::try_from(body_bytes).map_err(|_| negative)?;
    let body_at = at + HEAD_BYTES;
    let body_end = body_at.checked_add(body_bytes).ok_or(cut)?;
    let body = batch.get(body_at..body_end).ok_or(cut)?;
    let properties_bytes = be_i16(batch, body_end).ok_or(cut)?;
    let properties_bytes = usize::try_from(properties_bytes).map_err(|_| negative)?;
    let properties_at = body_end + PROPERTIES_LENGTH_BYTES;
    let end = properties_at + properties_bytes;
    let properties = batch.get(properties_at..end).ok_or(cut)?;
    let message = InnerMessage {
        flag,
        body,
        properties,
    };
    Ok((message, end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(messages: &[(i32, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (flag, body, properties) in messages {
            let message = InnerMessage {
                flag: *flag,
                body,
                properties,
            };
            message.write(&mut out).unwrap();
        }
        out
    }

    #[test]
    fn no_bytes_are_no_messages() {
        assert_eq!(messages(&[]).count(), 0);
    }

    #[test]
    fn a_batch_cut_inside_a_message_ends_with_an_error() {
        let first = batch(&[(1, b"a".to_vec(), b"k\x01v\x02".to_vec())]);
        let whole = [first.as_slice(), first.as_slice()].concat();
        for keep in 1..whole.len() {
            let read: Result<Vec<_>, _> = messages(&whole[..keep]).collect();
            let at = if keep > first.len() { first.len() } else { 0 };
            if keep == first.len() {
                assert_eq!(read.unwrap().len(), 1);
            } else {
                assert_eq!(read, Err(BatchError::Cut { at }));
            }
        }
    }

    #[test]
    fn negative_lengths_are_refused() {
        let mut bytes = batch(&[(0, b"abc".to_vec(), Vec::new())]);
        bytes[16..20].copy_from_slice(&(-1_i32).to_be_bytes());
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read, [Err(BatchError::Negative { at: 0 })]);
    }

    #[test]
    fn properties_over_the_limit_are_refused_and_leave_no_trace() {
        let properties = vec![b'x'; 32_768];
        let message = InnerMessage {
            flag: 0,
            body: b"",
            properties: &properties,
        };
        let mut out = Vec::new();
        assert!(message.write(&mut out).is_err());
        assert!(out.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            parts in proptest::collection::vec(
                (any::<i32>(), proptest::collection::vec(any::<u8>(), 0..40), proptest::collection::vec(any::<u8>(), 0..40)),
                0..6,
            )
        ) {
            let bytes = batch(&parts);
            let read: Vec<_> = messages(&bytes)
                .map(|m| m.map(|m| (m.flag, m.body.to_vec(), m.properties.to_vec())))
                .collect::<Result<_, _>>()
                .unwrap();
            prop_assert_eq!(read, parts);
        }

        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
        }
    }
}
