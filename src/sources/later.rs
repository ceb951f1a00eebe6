//! Kinds that the configuration knows and that cannot read yet: a file may name them, a run that needs them is blocked.

use crate::ports::source::SourceKind;

pub const POSTGRES: SourceKind =
    SourceKind { name: "postgres", summary: "a PostgreSQL database", query: "sql", make: None };

pub const PROMETHEUS: SourceKind =
    SourceKind { name: "prometheus", summary: "a Prometheus server", query: "promql", make: None };
