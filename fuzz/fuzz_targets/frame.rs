//! A stream of bytes: every whole frame in it decodes or is refused, and what decodes is written again without loss.
#![no_main]

use agena_protocol::frame::{self, Frame, Split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Split::Whole(raw, used)) = frame::split(rest) {
        assert!(used <= rest.len());
        rest = &rest[used..];
        let Ok(frame) = Frame::decode(raw) else {
            continue;
        };
        let command = frame.to_command();
        let written = command.encode();
        // The binary form cuts codes and versions to 16 bits, so only the JSON form gives back everything.
        if frame.serialize == frame::SerializeType::Json
            && let Ok(Split::Whole(raw, _)) = frame::split(&written)
        {
            let again = Frame::decode(raw).expect("what we wrote").to_command();
            assert_eq!(again.ext, command.ext);
            assert_eq!((again.code, again.opaque), (command.code, command.opaque));
        }
    }
});
