//! Ties by their address: whose findings something outside is about.

use rusqlite::params;

use super::error::Error;
use super::reader::Reader;
use crate::base::ids::RunId;
use crate::domain::finding::TieKind;

use super::entries::word;

/// One ledger's ties to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tied {
    /// A run of that ledger: the last that tied one of them.
    pub run: RunId,
    pub pipeline: String,
    pub kind: TieKind,
    pub destination: String,
    pub key: String,
}

impl Reader {
    /// Who has tied findings to this address, one line per ledger.
    pub fn tied_to_url(&self, url: &str) -> Result<Vec<Tied>, Error> {
        self.with(|conn, _| {
            let mut statement = conn.prepare_cached(
                "SELECT run, pipeline, kind, destination, key, max(at) FROM ties WHERE url = ?1
                 GROUP BY pipeline, profile, effects, kind ORDER BY pipeline, profile, effects, kind",
            )?;
            let mut rows = statement.query(params![url])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(Tied {
                    run: RunId(row.get(0)?),
                    pipeline: row.get(1)?,
                    kind: word(row.get_ref(2)?.as_str().unwrap_or_default())?,
                    destination: row.get(3)?,
                    key: row.get(4)?,
                });
            }
            Ok(found)
        })
    }
}
