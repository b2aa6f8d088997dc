-- Rollouts have another form since they have stages. Earlier ones are kept aside, for people to look at; what devices
-- shall run stands in their own records.
ALTER TABLE rollout_devices RENAME TO rollout_devices_0001;
ALTER TABLE rollouts RENAME TO rollouts_0001;

CREATE TABLE rollouts (
    id     INTEGER PRIMARY KEY,
    record TEXT NOT NULL
) STRICT;

CREATE TABLE parts (
    rollout INTEGER NOT NULL REFERENCES rollouts (id) ON DELETE CASCADE,
    device  TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
    record  TEXT NOT NULL,
    PRIMARY KEY (rollout, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX parts_by_device ON parts (device);

-- Versions that were recalled, by the digest of their manifests.
CREATE TABLE denied (
    digest TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
