//! Batch bodies: what comes apart is put together again, up to the words that say nothing.
#![no_main]

use agena_protocol::batch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(messages) = batch::messages(bytes).collect::<Result<Vec<_>, _>>() else {
        return;
    };
    let mut written = Vec::new();
    for message in &messages {
        message
            .write(&mut written)
            .expect("lengths that were read fit");
    }
    assert_eq!(written.len(), bytes.len());
    let again: Vec<_> = batch::messages(&written)
        .collect::<Result<_, _>>()
        .expect("what we wrote");
    assert_eq!(again, messages);
});
