-- Services: what each is to be, and the hashes of the keys that open it.
CREATE TABLE services (
    name   TEXT PRIMARY KEY,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
