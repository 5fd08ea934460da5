//! A header without its frame, in the form that the first byte chooses, into the headers of the hot requests.
#![no_main]

use agena_protocol::frame::{Frame, RawFrame, SerializeType};
use agena_protocol::headers::DecodeHeader;
use agena_protocol::headers::namesrv::RegisterBrokerRequest;
use agena_protocol::headers::pop::PopMessageRequest;
use agena_protocol::headers::pull::PullMessageRequest;
use agena_protocol::headers::send::SendMessageRequest;
use agena_protocol::request_code::RequestCode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((form, header)) = bytes.split_first() else {
        return;
    };
    let serialize = if form & 1 == 0 {
        SerializeType::Json
    } else {
        SerializeType::Rocketmq
    };
    let raw = RawFrame {
        serialize,
        header,
        body: &[],
    };
    let Ok(frame) = Frame::decode(raw) else {
        return;
    };
    let _ = SendMessageRequest::read(RequestCode::SendMessageV2, &frame.ext);
    let _ = SendMessageRequest::read(RequestCode::SendMessage, &frame.ext);
    let _ = PullMessageRequest::decode(&frame.ext);
    let _ = PopMessageRequest::decode(&frame.ext);
    let _ = RegisterBrokerRequest::decode(&frame.ext);
});
