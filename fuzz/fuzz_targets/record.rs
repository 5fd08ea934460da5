//! A stretch of the log: records come apart at their own lengths, and what parses says nothing that lies outside of it.
#![no_main]

use agena_protocol::record::{RecordView, blank_length, records};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = blank_length(bytes);
    let mut summed = 0;
    for record in records(bytes) {
        let Ok(record) = record else { break };
        summed += record.bytes().len();
        assert!(record.body().len() + record.topic().len() < record.bytes().len());
        let _ = record.check_sums();
        let _ = record.offset_id();
        for (name, value) in record.properties().pairs() {
            assert!(name.len() + value.len() <= record.bytes().len());
        }
        let again = RecordView::parse_unsummed(record.bytes()).expect("a record alone");
        assert_eq!(again.body(), record.body());
    }
    assert!(summed <= bytes.len());
});
