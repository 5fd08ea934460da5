//! How the text of a `broker.conf` value becomes a typed one, and back as the original lists it.

use std::time::Duration;

/// A type that a key can have.
pub(super) trait Setting: Sized {
    /// Reads a trimmed value, or says what would be one.
    fn parse(text: &str) -> Result<Self, &'static str>;

    /// The text that [`Setting::parse`] reads back.
    fn text(&self) -> String;
}

macro_rules! numbers {
    ($($kind:ty: $expected:literal),* $(,)?) => {$(
        impl Setting for $kind {
            fn parse(text: &str) -> Result<Self, &'static str> {
                text.parse().map_err(|_| $expected)
            }

            fn text(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
numbers! {
    u8: "a number from 0 to 255",
    u16: "a number from 0 to 65535",
    u32: "a whole number from 0 to 4294967295",
    u64: "a whole number, not negative",
    usize: "a whole number, not negative",
    i64: "a whole number",
}

impl Setting for bool {
    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.eq_ignore_ascii_case("true") {
            Ok(true)
        } else if text.eq_ignore_ascii_case("false") {
            Ok(false)
        } else {
            Err("true or false")
        }
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn parse(text: &str) -> Result<Self, &'static str> {
        Ok(text.to_owned())
    }

    fn text(&self) -> String {
        self.clone()
    }
}

/// Keys whose unit is the millisecond.
impl Setting for Duration {
    fn parse(text: &str) -> Result<Self, &'static str> {
        text.parse()
            .map(Self::from_millis)
            .map_err(|_| "a number of milliseconds")
    }

    fn text(&self) -> String {
        self.as_millis().to_string()
    }
}

/// A time whose key counts seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(
    /// How many.
    pub u64,
);

impl Seconds {
    /// The same as a duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl Setting for Seconds {
    fn parse(text: &str) -> Result<Self, &'static str> {
        text.parse().map(Self).map_err(|_| "a number of seconds")
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

/// A time whose key counts hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours(
    /// How many.
    pub u32,
);

impl Hours {
    /// The same as a duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(u64::from(self.0) * 3600)
    }
}

impl Setting for Hours {
    fn parse(text: &str) -> Result<Self, &'static str> {
        text.parse().map(Self).map_err(|_| "a number of hours")
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

/// Texts separated by `;`; blanks around them and empty ones do not count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SemicolonList(
    /// In the order written.
    pub Vec<String>,
);

impl SemicolonList {
    /// The parts of `text`.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let parts = text
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        Self(parts.map(str::to_owned).collect())
    }
}

impl Setting for SemicolonList {
    fn parse(text: &str) -> Result<Self, &'static str> {
        Ok(Self::of(text))
    }

    fn text(&self) -> String {
        self.0.join(";")
    }
}

/// Whether an acknowledgement waits for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushDiskType {
    /// Answered when the bytes are in the page cache.
    Async,
    /// Answered when a data sync that covers the message returned.
    Sync,
}

impl Setting for FlushDiskType {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "ASYNC_FLUSH" => Ok(Self::Async),
            "SYNC_FLUSH" => Ok(Self::Sync),
            _ => Err("ASYNC_FLUSH or SYNC_FLUSH"),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Async => "ASYNC_FLUSH",
            Self::Sync => "SYNC_FLUSH",
        }
        .to_owned()
    }
}

/// The part a broker plays in replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerRole {
    /// Takes writes; does not wait for replicas.
    AsyncMaster,
    /// Takes writes; waits for `inSyncReplicas`, itself among them.
    SyncMaster,
    /// Follows a master.
    Slave,
}

impl Setting for BrokerRole {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "ASYNC_MASTER" => Ok(Self::AsyncMaster),
            "SYNC_MASTER" => Ok(Self::SyncMaster),
            "SLAVE" => Ok(Self::Slave),
            _ => Err("ASYNC_MASTER, SYNC_MASTER or SLAVE"),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::AsyncMaster => "ASYNC_MASTER",
            Self::SyncMaster => "SYNC_MASTER",
            Self::Slave => "SLAVE",
        }
        .to_owned()
    }
}
