//! The shipped queries over the shipped samples, through the table of sources.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nightcrew::domain::activity::Rows;
use nightcrew::domain::definition::ToolQuery;
use nightcrew::ports::source::{SourceQuery, SourceSetup};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

async fn ask(kind: &str, name: &str, base: &Path, target: &str, query: ToolQuery, args: Value) -> Rows {
    let row = nightcrew::sources::ALL.iter().find(|row| row.name == kind).unwrap();
    let setup = SourceSetup {
        target: Some(target.into()),
        timeout: Duration::from_secs(30),
        ..SourceSetup::new(
            name,
            base.to_owned(),
            nightcrew::ports::service::Outside::none(nightcrew::base::env::Env::system()),
        )
    };
    let source = row.make.unwrap()(&setup).unwrap();
    let args = args.as_object().unwrap();
    source.fetch(SourceQuery { query: Some(&query), filter: None, args, max_rows: 500 }).await.unwrap()
}

#[tokio::test]
async fn the_shipped_query_reads_the_shipped_warehouse() {
    let folder = tempfile::tempdir().unwrap();
    let sql = std::fs::read_to_string(root().join("tests/samples/analytics/warehouse.sql")).unwrap();
    let database = rusqlite::Connection::open(folder.path().join("warehouse.db")).unwrap();
    database.execute_batch(&sql).unwrap();
    drop(database);
    let text = std::fs::read_to_string(root().join("pipelines/sql/signups.sql")).unwrap();
    let query = ToolQuery::Sql { file: "sql/signups.sql".into(), text };
    let args = json!({"from": "2026-09-24", "to": "2026-11-19"});
    let rows = ask("sqlite", "warehouse", folder.path(), "warehouse.db", query, args).await;
    let last = rows.rows.last().unwrap();
    assert_eq!((rows.rows.len(), rows.truncated), (57, false));
    assert_eq!((&last["day"], &last["signups"], &last["activated"]), (&json!("2026-11-19"), &json!(1204), &json!(413)));
}

#[tokio::test]
async fn the_shops_answers_in_a_file_stand_in_for_the_shop() {
    let query = ToolQuery::HttpGet { path: "/v1/checkout/errors".into(), rows: Some("$.data".into()) };
    let args = json!({"from": "2026-09-24", "to": "2026-11-19"});
    let rows = ask("files", "shop", &root().join("tests/samples"), "analytics/checkout.json", query, args).await;
    let last = rows.rows.last().unwrap();
    assert_eq!((rows.rows.len(), rows.via.as_str()), (57, "files"));
    assert_eq!((&last["day"], &last["errors"], &last["rate_pct"]), (&json!("2026-11-19"), &json!(216), &json!(2.1)));
}

#[test]
fn every_row_of_the_tables_has_a_name_and_a_summary() {
    let sources = nightcrew::sources::ALL.iter().map(|row| (row.name, row.summary));
    let sinks = nightcrew::sinks::ALL.iter().map(|row| (row.name, row.summary));
    for rows in [sources.collect::<Vec<_>>(), sinks.collect()] {
        for (index, (name, summary)) in rows.iter().enumerate() {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !summary.is_empty(), "{name}");
            assert!(rows[..index].iter().all(|(other, _)| other != name), "{name} twice");
        }
    }
}
