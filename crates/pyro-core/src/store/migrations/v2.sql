-- Shells of the machine that runs. One that has ended stays until it is closed or the machine ends.
CREATE TABLE shells (
    workspace TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    shell_id TEXT NOT NULL,
    cwd TEXT NOT NULL,
    cols INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    state TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    exit_code INTEGER,
    PRIMARY KEY (workspace, shell_id)
) STRICT, WITHOUT ROWID;
