//! The scans of all parcels: in memory, and in a file.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;

/// A carrier saw a parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    pub place: String,
    pub grams: u32,
    /// The carrier's word for what happened.
    pub word: String,
}

pub struct Store {
    file: PathBuf,
    scans: BTreeMap<String, Vec<Scan>>,
}

impl Store {
    /// Reads what is there. Lines that nobody can read are passed over.
    pub fn open(file: impl Into<PathBuf>) -> io::Result<Self> {
        let mut store = Self { file: file.into(), scans: BTreeMap::new() };
        let text = match fs::read_to_string(&store.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        for line in text.lines() {
            let fields: Vec<&str> = line.split(',').collect();
            let [parcel, place, grams, word] = fields[..] else { continue };
            let scan = Scan { place: place.into(), grams: grams.parse().unwrap_or(0), word: word.into() };
            store.scans.entry(parcel.to_owned()).or_default().push(scan);
        }
        Ok(store)
    }

    /// Keeps a scan. Once this is `Ok` it outlives the server.
    pub fn record(&mut self, parcel: &str, scan: Scan) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(&self.file)?;
        writeln!(file, "{parcel},{},{},{}", scan.place, scan.grams, scan.word)?;
        self.scans.entry(parcel.to_owned()).or_default().push(scan);
        Ok(())
    }

    /// All scans of a parcel, the oldest first.
    pub fn scans(&self, parcel: &str) -> &[Scan] {
        self.scans.get(parcel).map_or(&[], Vec::as_slice)
    }
}
