PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE layers (
    id TEXT PRIMARY KEY NOT NULL,
    parent TEXT REFERENCES layers (id),
    base_key TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
INSERT INTO layers VALUES('0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a',NULL,'debian_12-1.0.0.ext4','sealed',1000);
INSERT INTO layers VALUES('0b0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a','0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a','debian_12-1.0.0.ext4','sealed',1000);
INSERT INTO layers VALUES('32323232323232323232323232323232','0b0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a','debian_12-1.0.0.ext4','open',2000);
INSERT INTO layers VALUES('33333333333333333333333333333333','0b0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a','debian_12-1.0.0.ext4','open',3000);
INSERT INTO layers VALUES('14141414141414141414141414141414','0b0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a','debian_12-1.0.0.ext4','open',6000);
INSERT INTO layers VALUES('1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e',NULL,'debian_12-1.0.0.ext4','sealed',6500);
INSERT INTO layers VALUES('1f1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e','1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e','debian_12-1.0.0.ext4','open',6500);
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
INSERT INTO workspaces VALUES('010101010101','repo','debian:12','1.0.0','debian_12-1.0.0.ext4',X'2f63616368652f726f6f7466732e65787434',X'2f63616368652f766d6c696e7578',1,1024,512,600,'egress+published-ports','{"env":[["PATH","/bin"]],"cwd":"/src","user":"dev"}','tar_archive',X'2e2f7265706f2e746172','/workspace',3,40,'33333333333333333333333333333333','started',NULL,1000,5100,605100,1,3000,3,4);
INSERT INTO workspaces VALUES('020202020202',NULL,'debian:12','1.0.0','debian_12-1.0.0.ext4',X'2f63616368652f726f6f7466732e65787434',NULL,1,1024,NULL,0,'off','{"env":[],"cwd":null,"user":null}','empty',NULL,'/workspace',0,0,'14141414141414141414141414141414','creating',NULL,6000,6000,NULL,0,NULL,1,0);
CREATE TABLE labels (
    workspace TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (workspace, key)
) STRICT, WITHOUT ROWID;
INSERT INTO labels VALUES('010101010101','owner','me');
CREATE TABLE secrets (
    workspace TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    source_kind TEXT NOT NULL,
    PRIMARY KEY (workspace, name)
) STRICT, WITHOUT ROWID;
INSERT INTO secrets VALUES('010101010101','FILE','file');
INSERT INTO secrets VALUES('010101010101','TOKEN','literal');
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
INSERT INTO snapshots VALUES('010101010101','baseline','baseline','0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a',1000,3,40);
INSERT INTO snapshots VALUES('010101010101','checkpoint','named','0b0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a',2000,1,2);
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
INSERT INTO commands VALUES(1,'010101010101',1,'make','/workspace',0,'exited',2,150,4000);
INSERT INTO commands VALUES(2,'010101010101',2,'serve','/workspace',1,'running',NULL,NULL,5000);
CREATE TABLE outputs (
    token INTEGER PRIMARY KEY REFERENCES commands (token) ON DELETE CASCADE,
    workspace TEXT NOT NULL,
    stdout_truncated INTEGER NOT NULL,
    stderr_truncated INTEGER NOT NULL,
    stdout BLOB NOT NULL,
    stderr BLOB NOT NULL
) STRICT;
INSERT INTO outputs VALUES(1,'010101010101',0,1,X'6f0a',X'65ff');
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace TEXT NOT NULL REFERENCES workspaces (id) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
INSERT INTO events VALUES(1,'010101010101',5100,'exec','{"sequence":1}');
CREATE TABLE tombstones (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    name TEXT,
    at INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
INSERT INTO tombstones VALUES(1,'030303030303','old',7000,'expired');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('commands',2);
INSERT INTO sqlite_sequence VALUES('events',1);
INSERT INTO sqlite_sequence VALUES('tombstones',1);
CREATE INDEX layers_by_parent ON layers (parent);
CREATE INDEX workspaces_by_top_layer ON workspaces (top_layer);
CREATE INDEX snapshots_by_layer ON snapshots (layer);
CREATE INDEX commands_running ON commands (workspace) WHERE state = 'running';
CREATE INDEX outputs_by_workspace ON outputs (workspace, token);
CREATE INDEX events_by_workspace ON events (workspace, number);
COMMIT;
PRAGMA application_id=1887007343;
PRAGMA user_version=1;
