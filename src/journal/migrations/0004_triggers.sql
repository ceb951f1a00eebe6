-- What has reached the daemon from outside, until it has become a run.

-- Deliveries to webhooks, so that each counts once however often it comes. Kept for a week.
CREATE TABLE deliveries (
    hook TEXT    NOT NULL,
    id   TEXT    NOT NULL,
    at   INTEGER NOT NULL,
    PRIMARY KEY (hook, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_by_time ON deliveries (at);

-- Errors that may become a run: one row per pipeline and error, and a bounded number of rows.
CREATE TABLE trigger_waiting (
    pipeline  TEXT    NOT NULL,
    key       TEXT    NOT NULL,
    -- What a run would be handed.
    item      TEXT    NOT NULL,
    -- 1: the source need not be asked for the rest of it.
    whole     INTEGER NOT NULL,
    -- 1: the source says that it was resolved and is back.
    regressed INTEGER NOT NULL,
    -- When it happened last.
    seen_at   INTEGER NOT NULL,
    -- Since when it waits: with the key, what a run stands for.
    first_at  INTEGER NOT NULL,
    due_at    INTEGER NOT NULL,
    -- How often it was told.
    times     INTEGER NOT NULL,
    -- Why it waits longer than it was asked to.
    reason    TEXT    NOT NULL DEFAULT '',
    PRIMARY KEY (pipeline, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX trigger_waiting_due ON trigger_waiting (due_at);

-- What became of them last: a run, or the reason why there is none.
CREATE TABLE trigger_decided (
    pipeline TEXT    NOT NULL,
    key      TEXT    NOT NULL,
    fate     TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    seen_at  INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    -- Told so often, all in all.
    times    INTEGER NOT NULL,
    -- The last run for it, and when it was claimed.
    run      TEXT,
    run_at   INTEGER,
    PRIMARY KEY (pipeline, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX trigger_decided_by_time ON trigger_decided (at);

-- How many runs a pipeline may still begin now, and how much was dropped because too much waits.
CREATE TABLE trigger_rates (
    pipeline TEXT PRIMARY KEY,
    tokens   REAL    NOT NULL,
    at       INTEGER NOT NULL,
    dropped  INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- How far a project has been polled.
CREATE TABLE trigger_polls (
    project TEXT PRIMARY KEY,
    seen_to INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What the source said of an error last, so that its coming back is noticed once.
CREATE TABLE trigger_states (
    key   TEXT PRIMARY KEY,
    state TEXT    NOT NULL,
    at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX trigger_states_by_time ON trigger_states (at);
