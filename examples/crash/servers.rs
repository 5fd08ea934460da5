//! Name server and broker as `.ci/servers` starts, kills and stops them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/servers");

const SETTINGS: [&str; 4] = [
    "flushDiskType=SYNC_FLUSH",
    "mappedFileSizeCommitLog=67108864",
    // What is read again at the end must not have been cleaned away, however full the disk of the machine is.
    "fileReservedTime=876000",
    "cleanFileForciblyEnable=false",
];

/// Where the two listen.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    pub(crate) name_server: String,
    pub(crate) broker: String,
}

pub(crate) struct Servers {
    directory: PathBuf,
    settings: Vec<String>,
}

impl Servers {
    pub(crate) fn new(directory: &Path, more_settings: &[String]) -> Self {
        let mut settings: Vec<String> = SETTINGS.iter().map(|&line| line.to_owned()).collect();
        settings.extend_from_slice(more_settings);
        Self {
            directory: directory.to_owned(),
            settings,
        }
    }

    /// Starts both and returns when the broker is registered.
    pub(crate) fn up(&self) -> io::Result<()> {
        let mut command = self.script("up");
        command.args(&self.settings);
        finish(command)
    }

    /// kill -9 of both.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let mut command = self.script("down");
        command.arg("-9");
        finish(command)
    }

    /// The orderly stop of both.
    pub(crate) fn stop(&self) -> io::Result<()> {
        finish(self.script("down"))
    }

    /// The addresses, which are the same after every start.
    pub(crate) fn addresses(&self) -> io::Result<Addresses> {
        let ports = std::fs::read_to_string(self.directory.join("ports"))?;
        let mut ports = ports
            .split_whitespace()
            .map(|port| format!("127.0.0.1:{port}"));
        match (ports.next(), ports.next()) {
            (Some(name_server), Some(broker)) => Ok(Addresses {
                name_server,
                broker,
            }),
            _ => Err(io::Error::other("the file `ports` does not name two")),
        }
    }

    fn script(&self, verb: &str) -> Command {
        let mut command = Command::new(SCRIPT);
        command
            .arg(verb)
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

fn finish(mut command: Command) -> io::Result<()> {
    let status = command.status()?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{command:?} ended with {status}"))),
    }
}
