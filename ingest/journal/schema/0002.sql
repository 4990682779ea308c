-- Surplus copies of a job's url that audits have deleted: no add accounts for a copy twice.

ALTER TABLE jobs ADD COLUMN copies_deleted INTEGER NOT NULL DEFAULT 0;
