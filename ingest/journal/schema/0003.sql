-- What sources could not read as jobs: no job, and so in no pack; what a later pass over its source does not meet is dropped.

CREATE TABLE refusals (
    target_id INTEGER NOT NULL REFERENCES targets,
    source BLOB NOT NULL, -- which one: a path as the file system has it, or a URL without secrets
    place TEXT NOT NULL, -- within the source: a line's number, a message's id
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    run_id TEXT NOT NULL, -- the last one that refused it
    refused_at REAL NOT NULL,
    PRIMARY KEY (target_id, source, place)
) WITHOUT ROWID;
