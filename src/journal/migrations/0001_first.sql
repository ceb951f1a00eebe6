-- Times are microseconds since 1970 in UTC, money is micro-dollars, hashes are 64 hex digits.
-- A payload is JSON text, or NULL when it is a blob; then `blob` names it.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- What a run began with is the payload of its first entry. Open: no outcome yet.
CREATE TABLE runs (
    no           INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    pipeline     TEXT    NOT NULL,
    trigger_kind TEXT    NOT NULL,
    trigger_key  TEXT    NOT NULL,
    profile      TEXT    NOT NULL,
    effects      TEXT    NOT NULL,
    timezone     TEXT    NOT NULL,
    started_at   INTEGER NOT NULL,
    first_seq    INTEGER NOT NULL,
    -- By `resume --add-usd`, all together.
    added        INTEGER NOT NULL DEFAULT 0,
    outcome      TEXT,
    failure      TEXT,
    headline     TEXT    NOT NULL DEFAULT '',
    finished_at  INTEGER,
    UNIQUE (pipeline, trigger_kind, trigger_key)
) STRICT;
CREATE INDEX runs_open ON runs (pipeline) WHERE outcome IS NULL;

-- Append-only.
CREATE TABLE entries (
    seq        INTEGER PRIMARY KEY,
    run        INTEGER NOT NULL REFERENCES runs (no),
    family     TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    path       TEXT    NOT NULL,
    attempt    INTEGER NOT NULL,
    supersedes INTEGER,
    at         INTEGER NOT NULL,
    input      TEXT,
    payload    TEXT,
    blob       TEXT
) STRICT;
-- The row number is part of every index: this one gives a run's entries in their order.
CREATE INDEX entries_by_run ON entries (run);

-- One row per granted model call.
CREATE TABLE calls (
    intended       INTEGER PRIMARY KEY REFERENCES entries (seq),
    run            INTEGER NOT NULL REFERENCES runs (no),
    pipeline       TEXT    NOT NULL,
    path           TEXT    NOT NULL,
    input          TEXT,
    role           TEXT    NOT NULL,
    model          TEXT    NOT NULL,
    counts_turn    INTEGER NOT NULL,
    -- The days on which it was granted: UTC, and in the zone of the run.
    utc_day        TEXT    NOT NULL,
    pipeline_day   TEXT    NOT NULL,
    -- Of the holder that granted it: nobody settles for a dead one.
    epoch          INTEGER NOT NULL,
    granted        INTEGER NOT NULL,
    -- What it cost. NULL: outstanding, or charged as granted for good.
    settled        INTEGER,
    -- 1: nobody will settle it; charged as granted.
    abandoned      INTEGER NOT NULL DEFAULT 0,
    fresh_tokens   INTEGER NOT NULL DEFAULT 0,
    write_5m_tokens INTEGER NOT NULL DEFAULT 0,
    write_1h_tokens INTEGER NOT NULL DEFAULT 0,
    read_tokens    INTEGER NOT NULL DEFAULT 0,
    output_tokens  INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX calls_by_run ON calls (run, path);
CREATE INDEX calls_by_pipeline_day ON calls (pipeline, pipeline_day);
CREATE INDEX calls_by_day ON calls (utc_day);

-- Money that a person added while resuming: lifts the run's cap and that day's cap of the pipeline.
CREATE TABLE additions (
    seq          INTEGER PRIMARY KEY REFERENCES entries (seq),
    run          INTEGER NOT NULL REFERENCES runs (no),
    pipeline     TEXT    NOT NULL,
    pipeline_day TEXT    NOT NULL,
    amount       INTEGER NOT NULL
) STRICT;
CREATE INDEX additions_by_day ON additions (pipeline, pipeline_day);

-- `seq` is the Signal entry that holds value and sender.
CREATE TABLE signals (
    seq   INTEGER PRIMARY KEY REFERENCES entries (seq),
    run   INTEGER NOT NULL REFERENCES runs (no),
    path  TEXT    NOT NULL,
    name  TEXT    NOT NULL,
    -- The Value entry by which it was taken, or the RunFinished entry after which nobody took it.
    taken INTEGER
) STRICT;
CREATE INDEX signals_waiting ON signals (run, name) WHERE taken IS NULL;

CREATE TABLE slots (
    pipeline   TEXT    NOT NULL,
    nominal_at INTEGER NOT NULL,
    timezone   TEXT    NOT NULL,
    fate       TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    run        TEXT,
    decided_at INTEGER NOT NULL,
    PRIMARY KEY (pipeline, nominal_at)
) STRICT, WITHOUT ROWID;
CREATE INDEX slots_by_time ON slots (nominal_at);

CREATE TABLE schedules (
    pipeline     TEXT PRIMARY KEY,
    expr         TEXT    NOT NULL,
    timezone     TEXT    NOT NULL,
    config_hash  TEXT    NOT NULL,
    begins_at    INTEGER NOT NULL,
    last_nominal INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE paused (
    pipeline TEXT PRIMARY KEY,
    reason   TEXT    NOT NULL,
    since    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE definitions (
    hash      TEXT PRIMARY KEY,
    pipeline  TEXT    NOT NULL,
    stored_at INTEGER NOT NULL,
    payload   TEXT,
    blob      TEXT
) STRICT, WITHOUT ROWID;
