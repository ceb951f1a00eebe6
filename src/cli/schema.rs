//! `nightcrew schema [--cel]`: the JSON Schema of pipelines, or the functions of expressions; both from the tables.

use serde_json::json;

use super::Exit;
use super::args::SchemaArgs;
use super::session::Session;
use super::ui::table;
use crate::builtin::REGISTRY;
use crate::daemon::load;
use crate::expr::functions::{self, Function};

pub fn run(session: &Session, args: &SchemaArgs) -> anyhow::Result<Exit> {
    if !args.cel {
        session.ui.data(load::schema(&REGISTRY).trim_end())?;
        return Ok(Exit::Done);
    }
    if session.ui.json {
        let row = |f: &Function| json!({"name": f.name, "signature": f.signature(), "doc": f.doc, "example": f.example, "value": f.value});
        let rows: Vec<_> = functions::ALL.iter().map(row).collect();
        session.ui.data_json(&json!({ "functions": rows }))?;
        return Ok(Exit::Done);
    }
    let example = |f: &Function| format!("{} = {}", f.example, f.value);
    let rows: Vec<_> = functions::ALL.iter().map(|f| vec![f.signature(), f.doc.to_owned(), example(f)]).collect();
    session.ui.data(table(&["FUNCTION", "WHAT IT DOES", "EXAMPLE"], &rows, &[]))?;
    Ok(Exit::Done)
}
