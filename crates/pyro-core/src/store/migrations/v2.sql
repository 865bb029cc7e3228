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
-- A token names a service for ever; a new one of the same name takes another.
CREATE TABLE services (
    token INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    command TEXT NOT NULL,
    cwd TEXT NOT NULL,
    spec TEXT NOT NULL,
    autostart INTEGER NOT NULL,
    state TEXT NOT NULL,
    pid INTEGER,
    started_at INTEGER NOT NULL,
    ready_at INTEGER,
    ended_at INTEGER,
    exit_code INTEGER,
    stop_reason TEXT,
    problem TEXT,
    restart_count INTEGER NOT NULL DEFAULT 0,
    published TEXT,
    UNIQUE (workspace, name)
) STRICT;
CREATE INDEX services_live ON services (workspace) WHERE state IN ('starting', 'running', 'backoff');
-- What refines `network_policy`: lists of rules, as JSON.
ALTER TABLE workspaces ADD COLUMN network_rules TEXT NOT NULL DEFAULT '{}';
