-- The first schema. Times are Unix seconds; paths, names and keys are bytes, as the file system has them.

CREATE TABLE targets (
    target_id INTEGER PRIMARY KEY,
    base_url TEXT NOT NULL UNIQUE
);

CREATE TABLE packs (
    target_id INTEGER NOT NULL REFERENCES targets,
    pack_id TEXT NOT NULL,
    key_id TEXT NOT NULL, -- public part of the latest key that saw it, or another pack of its scope
    PRIMARY KEY (target_id, pack_id)
);

CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    target_id INTEGER NOT NULL REFERENCES targets,
    started_at REAL NOT NULL,
    ended_at REAL,
    pid INTEGER NOT NULL,
    summary TEXT -- JSON of model.Summary
);

CREATE TABLE jobs (
    job_id INTEGER PRIMARY KEY,
    target_id INTEGER NOT NULL REFERENCES targets,
    pack_id TEXT NOT NULL,
    key BLOB NOT NULL,
    revision INTEGER NOT NULL,
    locator BLOB NOT NULL,
    file_name BLOB NOT NULL,
    state TEXT NOT NULL,
    admitted_at REAL NOT NULL,
    run_id TEXT NOT NULL,
    size_bytes INTEGER,
    mtime_ns INTEGER,
    fingerprint BLOB,
    content_type TEXT,
    url TEXT UNIQUE, -- minted for this job, for ever
    answered_url TEXT,
    image_id TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    is_alone INTEGER NOT NULL DEFAULT 0,
    adds_sent INTEGER NOT NULL DEFAULT 0,
    audit_is_open INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    detail TEXT,
    settled_at REAL,
    condemned TEXT, -- JSON list of the ids of surplus copies: deleted, or about to be
    UNIQUE (target_id, pack_id, key, revision)
);

-- "Does this pack hold these bytes?"
CREATE INDEX jobs_by_fingerprint ON jobs (target_id, pack_id, fingerprint) WHERE fingerprint IS NOT NULL;
-- What is not settled is small beside what is: these stay short however long the journal grows.
CREATE INDEX jobs_unsettled ON jobs (state, target_id, job_id) WHERE state IN ('pending', 'claimed', 'stored', 'parked');
CREATE INDEX jobs_owing_audits ON jobs (target_id, job_id) WHERE audit_is_open = 1;
CREATE INDEX jobs_not_added ON jobs (state, target_id, job_id) WHERE state IN ('rejected', 'failed');
-- What became of the jobs of each pack; an open job is not in it, so that it is written once a job.
CREATE INDEX jobs_settled ON jobs (target_id, pack_id, state)
    WHERE state IN ('added', 'duplicate', 'rejected', 'failed');
