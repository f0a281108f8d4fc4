//! The log's JSON Schema, and the check that holds a line to it.

use schemars::Schema;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::chunks::SessionRecord;
use super::record::{
    CellRecord, FlowRecord, IncidentRecord, Record, RouteRecord, StatusRecord, VerdictRecord,
};

/// Why a line is no record of `lastmile/1`.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("not a JSON object with a `type`: {0}")]
    NotARecord(serde_json::Error),
    #[error("`{0}` is no record type: flow, session, cell, route, verdict, incident, status")]
    UnknownType(String),
    #[error("{record} record: {error}")]
    Wrong {
        record: &'static str,
        error: serde_json::Error,
    },
}

/// The JSON Schema (draft 2020-12) of every line.
pub fn schema() -> Schema {
    let mut schema = schemars::schema_for!(Record);
    schema.insert("title".to_owned(), "lastmile/1".into());
    schema
}

/// Checks one line: its type is known, every field is there with the right type and a known
/// name, and nothing else is.
pub fn validate_line(line: &str) -> Result<(), Invalid> {
    #[derive(Deserialize)]
    struct Head {
        r#type: String,
    }
    let head: Head = serde_json::from_str(line).map_err(Invalid::NotARecord)?;
    match head.r#type.as_str() {
        "flow" => is::<FlowRecord>(line, "flow"),
        "session" => is::<SessionRecord>(line, "session"),
        "cell" => is::<CellRecord>(line, "cell"),
        "route" => is::<RouteRecord>(line, "route"),
        "verdict" => is::<VerdictRecord>(line, "verdict"),
        "incident" => is::<IncidentRecord>(line, "incident"),
        "status" => is::<StatusRecord>(line, "status"),
        _ => Err(Invalid::UnknownType(head.r#type)),
    }
}

fn is<T: DeserializeOwned>(line: &str, record: &'static str) -> Result<(), Invalid> {
    serde_json::from_str::<T>(line)
        .map(drop)
        .map_err(|error| Invalid::Wrong { record, error })
}
