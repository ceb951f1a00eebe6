-- Secrets that a service refused, and the runs that wait for others.

CREATE TABLE refused_secrets (
    name        TEXT    PRIMARY KEY,
    -- By which the refused content is known again; it cannot be had from it.
    salt        TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    -- Who refused it and what it said, for people.
    service     TEXT    NOT NULL,
    message     TEXT    NOT NULL,
    refused_at  INTEGER NOT NULL,
    -- 1: somebody was told where people are.
    told        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Ended `blocked` for a secret; a resumed run leaves.
CREATE TABLE parked_runs (
    run    INTEGER PRIMARY KEY REFERENCES runs (no),
    secret TEXT    NOT NULL
) STRICT;
