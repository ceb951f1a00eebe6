-- Errors that the intake has received, grouped and bounded.

CREATE TABLE error_groups (
    no           INTEGER PRIMARY KEY,
    project      TEXT    NOT NULL,
    key          TEXT    NOT NULL,
    -- Of the event that was seen last.
    title        TEXT    NOT NULL,
    culprit      TEXT    NOT NULL,
    level        TEXT    NOT NULL,
    platform     TEXT    NOT NULL,
    count        INTEGER NOT NULL,
    -- Rows of `error_users` that were ever written for it.
    users        INTEGER NOT NULL,
    first_seen   INTEGER NOT NULL,
    last_seen    INTEGER NOT NULL,
    -- Lists in JSON, the newest last.
    releases     TEXT    NOT NULL,
    environments TEXT    NOT NULL,
    levels       TEXT    NOT NULL,
    -- What the triggers were told last, and when: NULL for never.
    told_count   INTEGER,
    told_users   INTEGER,
    told_at      INTEGER,
    UNIQUE (project, key)
) STRICT;
CREATE INDEX error_groups_by_time ON error_groups (project, last_seen);
CREATE INDEX error_groups_untold ON error_groups (project, told_at, last_seen);

-- Who met it, as hashes: only ever counted.
CREATE TABLE error_users (
    grp  INTEGER NOT NULL,
    user INTEGER NOT NULL,
    PRIMARY KEY (grp, user)
) STRICT, WITHOUT ROWID;

-- A few events of each group: the first and the newest.
CREATE TABLE error_events (
    no       INTEGER PRIMARY KEY,
    grp      INTEGER NOT NULL,
    event_id TEXT    NOT NULL,
    -- When it came.
    at       INTEGER NOT NULL,
    -- The raw JSON, redacted; deflated if `packed`.
    packed   INTEGER NOT NULL,
    body     BLOB    NOT NULL,
    UNIQUE (grp, event_id)
) STRICT;
CREATE INDEX error_events_by_group ON error_events (grp, no);
CREATE INDEX error_events_by_time ON error_events (at);

-- How much there is of a project, so that its bounds cost nothing to keep.
CREATE TABLE error_projects (
    project TEXT    PRIMARY KEY,
    groups  INTEGER NOT NULL,
    users   INTEGER NOT NULL,
    bytes   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What was not taken in, or given up, by hour (microseconds since 1970) and reason.
CREATE TABLE error_drops (
    project TEXT    NOT NULL,
    hour    INTEGER NOT NULL,
    reason  TEXT    NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (project, hour, reason)
) STRICT, WITHOUT ROWID;
