//! Why a sub-command did not do what was asked: one line that names the step that failed.
//!
//! The original prints a stack trace and exits with 0; scripts cannot tell. Here every failure is one line on the
//! error stream and exit code 2.

use std::io;

use agena_protocol::response_code::ResponseCode;

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// An option's value makes no sense.
    #[error("{0}")]
    Input(String),
    /// A server could not be asked.
    #[error("{step}: {address}: {cause}")]
    Unreachable {
        step: String,
        address: String,
        cause: String,
    },
    /// A server answered with an error.
    #[error("{step}: {address} answered {}: {}", code_name(*.code), one_line(.remark))]
    Refused {
        step: String,
        address: String,
        code: i32,
        remark: String,
    },
    /// A server's answer is not what the protocol promises.
    #[error("{step}: {address} sent an answer that cannot be read: {cause}")]
    Garbled {
        step: String,
        address: String,
        cause: String,
    },
    /// What was asked for does not exist.
    #[error("{0}")]
    Absent(String),
    /// The answers could not be written.
    #[error("writing the answer: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The answer's code, if a server refused.
    pub(crate) fn refusal(&self) -> Option<ResponseCode> {
        match self {
            Self::Refused { code, .. } => ResponseCode::from_number(*code),
            Self::Input(_)
            | Self::Unreachable { .. }
            | Self::Garbled { .. }
            | Self::Absent(_)
            | Self::Output(_) => None,
        }
    }
}

fn code_name(code: i32) -> String {
    ResponseCode::from_number(code).map_or_else(
        || format!("code {code}"),
        |known| format!("code {code} {known:?}"),
    )
}

/// Servers put line feeds into their remarks; ours is one line.
fn one_line(remark: &str) -> String {
    remark.split_whitespace().collect::<Vec<_>>().join(" ")
}
