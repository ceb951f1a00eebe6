-- What findings are tied to: messages, tickets, pull requests; and what people said of them.

-- A fingerprint belongs to one finding of its pipeline, whatever source it came from; a publication names fingerprints only.
CREATE TABLE ties (
    pipeline    TEXT    NOT NULL,
    profile     TEXT    NOT NULL,
    effects     TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    -- slack, ticket, pull_request
    kind        TEXT    NOT NULL,
    -- Its address: the identity. Its key where it has none.
    url         TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    -- The sink or publisher that keeps it.
    destination TEXT    NOT NULL,
    -- open, merged, closed, not_planned, expired
    state       TEXT    NOT NULL,
    -- That tied it, or learnt of its state.
    run         TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (pipeline, profile, effects, fingerprint, kind, url)
) STRICT, WITHOUT ROWID;
CREATE INDEX ties_by_url ON ties (pipeline, profile, effects, url);

-- "Is the same as": every fingerprint of a group that a model has merged, with the least of them. Groups only ever grow together.
CREATE TABLE sames (
    pipeline    TEXT    NOT NULL,
    profile     TEXT    NOT NULL,
    effects     TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    root        TEXT    NOT NULL,
    run         TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (pipeline, profile, effects, fingerprint)
) STRICT, WITHOUT ROWID;
CREATE INDEX sames_by_root ON sames (pipeline, profile, effects, root);

-- What people said with one click, also of a finding whose run has not yet told the ledger.
CREATE TABLE feedback (
    no      INTEGER PRIMARY KEY,
    -- Of the finding.
    id      TEXT    NOT NULL,
    -- wrong_cause, wont_fix
    word    TEXT    NOT NULL,
    by      TEXT    NOT NULL,
    at      INTEGER NOT NULL,
    -- 0: the finding is not there yet.
    applied INTEGER NOT NULL
) STRICT;
CREATE INDEX feedback_by_id ON feedback (id);
CREATE INDEX feedback_waiting ON feedback (id) WHERE applied = 0;

-- What ended it: a pull request or a ticket, and when we learnt of that.
ALTER TABLE findings ADD COLUMN fixed_kind TEXT;
ALTER TABLE findings ADD COLUMN fixed_url TEXT;
ALTER TABLE findings ADD COLUMN fixed_at INTEGER;
-- A person said that what was made of it is wrong: it is new when it is seen next.
ALTER TABLE findings ADD COLUMN again INTEGER NOT NULL DEFAULT 0;
