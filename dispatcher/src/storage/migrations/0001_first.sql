-- Records are JSON of the domain's types; columns beside them are what is looked up or referred to.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE groups (
    name     TEXT PRIMARY KEY,
    record   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
    id     TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE rollouts (
    id     INTEGER PRIMARY KEY,
    record TEXT NOT NULL
) STRICT;

CREATE TABLE rollout_devices (
    rollout INTEGER NOT NULL REFERENCES rollouts (id) ON DELETE CASCADE,
    device  TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    record  TEXT NOT NULL,
    PRIMARY KEY (rollout, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX rollout_devices_by_device ON rollout_devices (device);

-- last_version is the last number ever given: numbers of deleted versions are not given again.
CREATE TABLE models (
    name         TEXT PRIMARY KEY,
    last_version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE versions (
    model    TEXT NOT NULL REFERENCES models (name),
    version  INTEGER NOT NULL,
    digest   TEXT NOT NULL,
    content  TEXT NOT NULL,
    summary  TEXT NOT NULL,
    manifest BLOB NOT NULL,
    PRIMARY KEY (model, version)
) STRICT, WITHOUT ROWID;
CREATE INDEX versions_by_digest ON versions (digest);

CREATE TABLE files (
    model     TEXT NOT NULL,
    version   INTEGER NOT NULL,
    path      TEXT NOT NULL,
    digest    TEXT NOT NULL,
    size      INTEGER NOT NULL,
    blob      TEXT NOT NULL,
    blob_size INTEGER NOT NULL,
    PRIMARY KEY (model, version, path),
    FOREIGN KEY (model, version) REFERENCES versions (model, version) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX files_by_digest ON files (digest);

CREATE TABLE tags (
    model   TEXT NOT NULL,
    version INTEGER NOT NULL,
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (model, version, key),
    FOREIGN KEY (model, version) REFERENCES versions (model, version) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- No digest: there is no delta worth sending.
CREATE TABLE deltas (
    base       TEXT NOT NULL,
    want       TEXT NOT NULL,
    digest     TEXT,
    size       INTEGER NOT NULL,
    offer      BLOB,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (base, want)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE enroll_tokens (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,
    groups     TEXT NOT NULL,
    labels     TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    uses_left  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL
) STRICT;

-- Sums over all windows; never a row per message.
CREATE TABLE telemetry (
    device     TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    slot       TEXT NOT NULL,
    digest     TEXT NOT NULL,
    record     TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (device, slot, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE telemetry_devices (
    device TEXT PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
