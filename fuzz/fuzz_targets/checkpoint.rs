//! The checkpoint: any bytes are one, and a mark is believed only with its sum.
#![no_main]

use agena_store::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let read = Checkpoint::decode(bytes);
    if read.mark.is_some() {
        let summed = &bytes[512..544];
        assert_eq!(crc32fast::hash(summed).to_be_bytes(), bytes[544..548]);
    }
});
