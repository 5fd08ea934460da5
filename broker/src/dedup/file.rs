//! `config/dedup.windows`: the windows of all producers, one behind the other, with a sum over all.
//!
//! ```text
//! version u32 · mark u64 · { true · WindowHead · entries × WrittenFirst }* · false · Option<Anchor> · sum [u8; 4]
//! ```
//! Everything but the sum is bincode 2 in its standard configuration; the sum is the CRC-32 of what stands in front of it,
//! big-endian. It is written and read in a stream: neither needs memory for more than one window. What is read is bounded by
//! the configuration, not by what the file says.
//!
//! A new file is written beside the present one and takes its place later, when all that it speaks of is on the device; the
//! present one becomes `.bak`, which is read when the other does not hold.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::queue::QueueId;
use bincode::{Decode, Encode};

use super::First;
use super::table::{Limits, Table};
use super::window::Window;

const VERSION: u32 = 1;
const SUM_BYTES: u64 = 4;

/// No item is longer: a name has 64 bytes, the rest are numbers.
const ITEM_BYTES_MAX: usize = 1024;

#[derive(Encode, Decode)]
struct Head {
    version: u32,
    mark: u64,
}

#[derive(Encode, Decode)]
struct WindowHead {
    producer: String,
    floor: Option<u64>,
    last_ms: i64,
    entries: u64,
}

#[derive(Encode, Decode)]
struct WrittenFirst {
    sequence: u64,
    physical: u64,
    queue_offset: u64,
    queue: u32,
    bytes: u32,
    count: u32,
    topic_sum: u32,
}

/// The youngest record that the file speaks of: by it a log is told from another that is as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Anchor {
    /// Where it stands.
    pub(super) physical: u64,
    /// When it was stored.
    pub(super) stored_ms: i64,
    /// CRC-32 of its bytes, its place among them.
    pub(super) sum: u32,
}

/// What a file says.
pub(super) struct Found {
    /// Every record in front of it is accounted for.
    pub(super) mark: PhysicalOffset,
    pub(super) anchor: Option<Anchor>,
    pub(super) table: Table,
}

/// The file, its backup, and the one that is to become it.
#[derive(Debug)]
pub(super) struct WindowsFile {
    path: PathBuf,
}

impl WindowsFile {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("dedup.windows"),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn backup(&self) -> PathBuf {
        self.path.with_extension("windows.bak")
    }

    fn fresh(&self) -> PathBuf {
        self.path.with_extension("windows.new")
    }

    /// Begins a new file.
    pub(super) fn write(&self, mark: PhysicalOffset) -> io::Result<Writer> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut writer = Writer {
            out: BufWriter::new(File::create(self.fresh())?),
            sum: crc32fast::Hasher::new(),
            item: Vec::new(),
        };
        writer.put(Head {
            version: VERSION,
            mark: mark.number(),
        })?;
        Ok(writer)
    }

    /// Puts the new file in the place of the present one, which becomes the backup if it holds.
    pub(super) fn replace(&self, present_holds: bool) -> io::Result<()> {
        if present_holds {
            fs::rename(&self.path, self.backup())?;
        }
        fs::rename(self.fresh(), &self.path)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}

/// A file that is being written.
pub(super) struct Writer {
    out: BufWriter<File>,
    sum: crc32fast::Hasher,
    item: Vec<u8>,
}

impl Writer {
    fn put(&mut self, value: impl Encode) -> io::Result<()> {
        self.item.clear();
        bincode::encode_into_std_write(value, &mut self.item, bincode::config::standard())
            .map_err(io::Error::other)?;
        self.sum.update(&self.item);
        self.out.write_all(&self.item)
    }

    /// One producer's window.
    pub(super) fn window(
        &mut self,
        producer: &str,
        floor: Option<u64>,
        last_ms: i64,
        entries: &[(u64, First)],
    ) -> io::Result<()> {
        self.put(true)?;
        self.put(WindowHead {
            producer: producer.to_owned(),
            floor,
            last_ms,
            entries: u64::try_from(entries.len()).unwrap_or(u64::MAX),
        })?;
        for (sequence, first) in entries {
            self.put(WrittenFirst {
                sequence: *sequence,
                physical: first.physical.number(),
                queue_offset: first.queue_offset.number(),
                queue: first.queue.number(),
                bytes: first.bytes,
                count: first.count,
                topic_sum: first.topic_sum,
            })?;
        }
        Ok(())
    }

    /// That was all. On return it is on the device, under its own name.
    pub(super) fn finish(mut self, anchor: Option<Anchor>) -> io::Result<()> {
        self.put(false)?;
        self.put(anchor)?;
        let sum = self.sum.finalize();
        self.out.write_all(&sum.to_be_bytes())?;
        let file = self.out.into_inner().map_err(|fault| fault.into_error())?;
        file.sync_all()
    }
}

/// What the file at `path` says; `None` when there is none.
pub(super) fn read(path: &Path, limits: Limits) -> io::Result<Option<Found>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(cause),
    };
    let content = file.metadata()?.len().checked_sub(SUM_BYTES);
    let content = content.ok_or_else(|| invalid("too short"))?;
    check_sum(&mut file, content)?;
    file.rewind()?;
    let mut items = Items(BufReader::new(file).take(content));
    let head: Head = items.next()?;
    if head.version != VERSION {
        return Err(invalid("of another version"));
    }
    let mut table = Table::new(limits);
    while items.next::<bool>()? {
        let window: WindowHead = items.next()?;
        let producer: Box<str> = window.producer.into();
        let mut kept = Window::with_floor(window.floor, window.last_ms);
        for _ in 0..window.entries {
            let written: WrittenFirst = items.next()?;
            kept.keep(written.sequence, written.first(), limits.window);
        }
        table.insert(producer, kept);
    }
    Ok(Some(Found {
        mark: PhysicalOffset::new(head.mark),
        anchor: items.next()?,
        table,
    }))
}

impl WrittenFirst {
    fn first(&self) -> First {
        First {
            physical: PhysicalOffset::new(self.physical),
            queue_offset: QueueOffset::new(self.queue_offset),
            queue: QueueId::new(self.queue),
            bytes: self.bytes,
            count: self.count,
            topic_sum: self.topic_sum,
        }
    }
}

fn check_sum(file: &mut File, content: u64) -> io::Result<()> {
    let mut sum = crc32fast::Hasher::new();
    let mut chunk = vec![0; 64 * 1024];
    let mut left = file.take(content);
    loop {
        let count = left.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        sum.update(&chunk[..count]);
    }
    let mut expected = [0; 4];
    left.into_inner().read_exact(&mut expected)?;
    if u32::from_be_bytes(expected) != sum.finalize() {
        return Err(invalid("its sum does not match"));
    }
    Ok(())
}

struct Items(io::Take<BufReader<File>>);

impl Items {
    fn next<T: Decode<()>>(&mut self) -> io::Result<T> {
        let bounded = bincode::config::standard().with_limit::<ITEM_BYTES_MAX>();
        bincode::decode_from_std_read(&mut self.0, bounded)
            .map_err(|fault| invalid(&fault.to_string()))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
