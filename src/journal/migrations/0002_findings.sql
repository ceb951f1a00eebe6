-- What pipelines know of findings with an identity. Kept per pipeline, profile, effects and source.

CREATE TABLE findings (
    pipeline    TEXT    NOT NULL,
    profile     TEXT    NOT NULL,
    effects     TEXT    NOT NULL,
    source      TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    -- For commands: the beginning of a hash over the five above.
    id          TEXT    NOT NULL,
    title       TEXT    NOT NULL,
    place       TEXT    NOT NULL,
    -- When it was handled last.
    weight      REAL    NOT NULL,
    first_seen  INTEGER NOT NULL,
    last_seen   INTEGER NOT NULL,
    -- handled, muted, fixed
    state       TEXT    NOT NULL,
    -- How a run ended with it: baseline, dropped, reported, ticket, pull_request…
    ended       TEXT    NOT NULL,
    url_or_path TEXT,
    -- The id of the run that handled it last.
    run         TEXT    NOT NULL,
    -- NULL while muted: without end.
    muted_until INTEGER,
    reason      TEXT,
    -- Who muted it, or took that back.
    by          TEXT,
    PRIMARY KEY (pipeline, profile, effects, source, fingerprint)
) STRICT, WITHOUT ROWID;
CREATE INDEX findings_by_id ON findings (id);

-- Sources of which something was recorded, were it that there is nothing: only the first reading can be a baseline.
CREATE TABLE finding_sources (
    pipeline TEXT    NOT NULL,
    profile  TEXT    NOT NULL,
    effects  TEXT    NOT NULL,
    source   TEXT    NOT NULL,
    run      TEXT    NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (pipeline, profile, effects, source)
) STRICT, WITHOUT ROWID;

-- Figures to compare with the next run's, for instance how many tests there are. `before`: what the run was told, so that it
-- is told the same again.
CREATE TABLE figures (
    no       INTEGER PRIMARY KEY,
    pipeline TEXT    NOT NULL,
    profile  TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    run      TEXT    NOT NULL,
    value    INTEGER NOT NULL,
    before   INTEGER,
    at       INTEGER NOT NULL,
    UNIQUE (pipeline, profile, name, run)
) STRICT;
