-- Which journal this is, and how far it has come: by these an older copy of it is told from the one last used.

CREATE TABLE identity (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    journal_id TEXT NOT NULL, -- random: a copy has the same
    epoch INTEGER NOT NULL -- raised by every opening for writing and by every commit of a run
);

INSERT INTO identity (only_row, journal_id, epoch) VALUES (1, lower(hex(randomblob(16))), 0);
