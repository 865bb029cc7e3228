-- Times are milliseconds since the epoch, paths are blobs, ids are lower case hex digits.

CREATE TABLE layers (
    id TEXT PRIMARY KEY NOT NULL,
    parent TEXT REFERENCES layers (id),
    base_key TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX layers_by_parent ON layers (parent);

CREATE TABLE workspaces (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT,
    environment TEXT NOT NULL,
    environment_version TEXT,
    base_key TEXT NOT NULL,
    base_rootfs BLOB NOT NULL,
    kernel BLOB,
    vcpu_count INTEGER NOT NULL,
    mem_mib INTEGER NOT NULL,
    disk_mib INTEGER,
    ttl_seconds INTEGER NOT NULL,
    network_policy TEXT NOT NULL,
    image TEXT NOT NULL,
    seed_mode TEXT NOT NULL,
    seed_path BLOB,
    seed_destination TEXT NOT NULL,
    seed_entry_count INTEGER NOT NULL DEFAULT 0,
    seed_bytes_written INTEGER NOT NULL DEFAULT 0,
    top_layer TEXT NOT NULL REFERENCES layers (id),
    state TEXT NOT NULL,
    stop_reason TEXT,
    created_at INTEGER NOT NULL,
    last_activity_at INTEGER NOT NULL,
    expires_at INTEGER,
    reset_count INTEGER NOT NULL DEFAULT 0,
    last_reset_at INTEGER,
    next_sequence INTEGER NOT NULL DEFAULT 1,
    output_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX workspaces_by_top_layer ON workspaces (top_layer);

CREATE TABLE labels (
    workspace TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (workspace, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE secrets (
    workspace TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    source_kind TEXT NOT NULL,
    PRIMARY KEY (workspace, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshots (
    workspace TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    layer TEXT NOT NULL REFERENCES layers (id),
    created_at INTEGER NOT NULL,
    entry_count INTEGER NOT NULL,
    bytes_written INTEGER NOT NULL,
    PRIMARY KEY (workspace, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX snapshots_by_layer ON snapshots (layer);

-- A token names a command for ever; sequences start again at a reset.
CREATE TABLE commands (
    token INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    command TEXT NOT NULL,
    cwd TEXT NOT NULL,
    detached INTEGER NOT NULL,
    state TEXT NOT NULL,
    exit_code INTEGER,
    duration_ms INTEGER,
    started_at INTEGER NOT NULL,
    UNIQUE (workspace, sequence)
) STRICT;
CREATE INDEX commands_running ON commands (workspace) WHERE state = 'running';

-- A finished command without a row here has had its output dropped.
CREATE TABLE outputs (
    token INTEGER PRIMARY KEY REFERENCES commands (token) ON DELETE CASCADE,
    workspace TEXT NOT NULL,
    stdout_truncated INTEGER NOT NULL,
    stderr_truncated INTEGER NOT NULL,
    stdout BLOB NOT NULL,
    stderr BLOB NOT NULL
) STRICT;
CREATE INDEX outputs_by_workspace ON outputs (workspace, token);

CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_workspace ON events (workspace, number);

CREATE TABLE tombstones (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    name TEXT,
    at INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
