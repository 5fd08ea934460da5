//! Where answers go: as the original's text, or as JSON documents, one per line.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// The form in which answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Json,
}

/// Prints answers.
pub(crate) struct Output {
    form: Form,
    sink: Box<dyn Write>,
}

impl Output {
    pub(crate) fn new(form: Form, sink: Box<dyn Write>) -> Self {
        Self { form, sink }
    }

    /// Prints one answer: its text, or its document and a line feed.
    ///
    /// Flushed at once: commands that follow something (an interval, a queue) are watched while they run.
    pub(crate) fn show<A: Display + Serialize>(&mut self, answer: &A) -> Result<(), Failure> {
        match self.form {
            Form::Text => write!(self.sink, "{answer}")?,
            Form::Json => {
                serde_json::to_writer(&mut self.sink, answer).map_err(io::Error::from)?;
                self.sink.write_all(b"\n")?;
            }
        }
        self.sink.flush()?;
        Ok(())
    }

    /// Prints a line that only readers of the text need; in JSON the documents say it.
    pub(crate) fn note(&mut self, line: impl Display) -> Result<(), Failure> {
        if self.form == Form::Text {
            writeln!(self.sink, "{line}")?;
            self.sink.flush()?;
        }
        Ok(())
    }
}
