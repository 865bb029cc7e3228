use super::*;
use pyro_core::authorities::AuthoritySource;
use pyro_core::workspace::{
    CommandCounts, CommandView, DetachedCommand, Diff, DiffEntry, DiffSummary, DiskExport, Exported,
    FileChanged, FileContent, FileEntry, FileListing, FileStat, FileWritten, LastCommand, LogEntry,
    PatchReport, PatchSummary, ResetFacts, SecretFacts, SkippedEntry, Summary, SummaryCommand, SummaryEvent,
    SyncFacts, Synced, WaitedCommand, WaitedWorkspace,
};

const ID: &str = "0123456789ab";

fn plain() -> WorkspaceView {
    WorkspaceView {
        workspace_id: ID.into(),
        name: None,
        labels: BTreeMap::new(),
        environment: "debian:12".into(),
        environment_version: Some("1.0.0".into()),
        vcpu_count: 1,
        mem_mib: 1024,
        disk_mib: None,
        ttl_seconds: 600,
        created_at: 1_700_000_000.0,
        last_activity_at: 1_700_000_060.5,
        expires_at: Some(1_700_000_660.5),
        state: "started",
        stop_reason: None,
        network_policy: "off".into(),
        network_rules: pyro_core::network::NetworkRules::default(),
        host_proxy: false,
        certificate_authorities: vec![],
        network_enabled: false,
        guest_ip: None,
        execution_mode: "guest_vsock",
        workspace_path: "/workspace",
        workspace_seed: SeedView {
            mode: "directory".into(),
            seed_path: Some("/home/you/repo".into()),
            destination: "/workspace".into(),
            entry_count: 3,
            bytes_written: 40,
            origin: None,
        },
        secrets: vec![],
        command_count: 0,
        last_command: None,
        reset_count: 0,
        last_reset_at: None,
        service_count: 0,
        running_service_count: 0,
        shell_count: 0,
        machine: None,
    }
}

fn full() -> WorkspaceView {
    WorkspaceView {
        name: Some("fix it's".into()),
        labels: [("b", "2"), ("a", "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        disk_mib: Some(4096),
        expires_at: None,
        state: "stopped",
        stop_reason: Some("the machine ended:\nkilled".into()),
        workspace_seed: SeedView { mode: "empty".into(), seed_path: None, ..plain().workspace_seed },
        host_proxy: true,
        certificate_authorities: [("host", 142), ("/etc/it's.pem", 1)]
            .map(|(source, count)| AuthoritySource { source: source.into(), count })
            .to_vec(),
        secrets: [("A", "literal"), ("B", "file")]
            .map(|(name, kind)| SecretFacts { name: name.into(), source_kind: kind.into() })
            .to_vec(),
        command_count: 2,
        last_command: Some(LastCommand {
            sequence: 2,
            command: "sh -c 'a\nb'".into(),
            cwd: "/workspace".into(),
            exit_code: None,
            duration_ms: None,
            execution_mode: "guest_vsock",
        }),
        reset_count: 1,
        last_reset_at: Some(1_700_000_030.0),
        service_count: 2,
        running_service_count: 1,
        shell_count: 3,
        ..plain()
    }
}

#[test]
fn a_new_workspace_is_shown_as_in_the_transcript() {
    let shown = "\
Workspace ID: 0123456789ab
Environment: debian:12
State: started
Workspace: /workspace
Workspace seed: directory from /home/you/repo
Network policy: off
Execution mode: guest_vsock
Resources: 1 vCPU / 1024 MiB
Command count: 0";
    assert_eq!(workspace("Workspace ID", &plain()), shown);
}

#[test]
fn everything_known_of_a_workspace_is_shown_between_the_transcripts_lines() {
    let shown = "\
Stopped workspace ID: 0123456789ab
Name: fix it's
Labels: a=1, b=2
Environment: debian:12
State: stopped
Stop reason: the machine ended:\\nkilled
Workspace: /workspace
Workspace seed: empty
Network policy: off
Network proxy: the host's
Certificate authorities: 142 from host, 1 from /etc/it's.pem
Secrets: A (literal), B (file)
Execution mode: guest_vsock
Resources: 1 vCPU / 1024 MiB / 4096 MiB disk
Command count: 2
Reset count: 1
Last reset at: 1700000030.0
Services: 1/2 running
Shells: 3 open
Last command: sh -c 'a\\nb' (exit_code=unknown)";
    assert_eq!(workspace("Stopped workspace ID", &full()), shown);
}

#[test]
fn rules_and_a_limit_of_the_network_are_shown() {
    let network_rules = pyro_core::network::NetworkRules {
        allow: vec!["10.0.0.5:5432".parse().unwrap()],
        egress_limit_bytes: Some(500 << 20),
        ..Default::default()
    };
    let shown = workspace("Workspace ID", &WorkspaceView { network_rules, ..plain() });
    let wanted = "Network policy: off\nNetwork rules: --allow 10.0.0.5:5432\nEgress limit: 500MiB\n";
    assert!(shown.contains(wanted), "{shown}");
}

#[test]
fn a_status_adds_the_times() {
    let shown = status(&plain());
    let added = "\nCreated at: 1700000000.0\nLast activity at: 1700000060.5\nExpires at: 1700000660.5";
    assert_eq!(shown.strip_prefix(&workspace("Workspace ID", &plain())), Some(added));
    assert!(status(&full()).ends_with("\nExpires at: never"));
}

#[test]
fn a_list_has_one_line_for_each_workspace() {
    assert_eq!(
        listed(&plain()),
        "[workspace] workspace_id=0123456789ab state=started environment=debian:12 \
         last_activity_at=1700000060.5 expires_at=1700000660.5 commands=0 services=0/0 shells=0"
    );
    assert_eq!(
        listed(&full()),
        "[workspace] workspace_id=0123456789ab name=\"fix it's\" state=stopped environment=debian:12 \
         labels=a=1,b=2 last_activity_at=1700000060.5 expires_at=never commands=2 services=1/2 shells=3"
    );
}

#[test]
fn a_reset_is_shown_as_in_the_transcript() {
    let workspace_reset = ResetFacts {
        snapshot_name: "checkpoint".into(),
        kind: "named",
        destination: "/workspace",
        entry_count: 7,
        bytes_written: 99,
    };
    let workspace = WorkspaceView { reset_count: 1, ..plain() };
    let shown = "\
Workspace reset from snapshot: checkpoint (named)
[workspace-reset] destination=/workspace entry_count=7 bytes_written=99
Workspace ID: 0123456789ab
State: started
Command count: 0
Reset count: 1";
    assert_eq!(reset(&Reset { workspace, workspace_reset }), shown);
}

#[test]
fn a_command_is_summed_up_in_one_line() {
    let facts = ExecFacts {
        workspace_id: ID.into(),
        environment: "debian:12".into(),
        environment_version: None,
        sequence: 2,
        cwd: "/workspace".into(),
        command: "make test".into(),
    };
    let exit = Exit { code: Some(3), signal: None, timed_out: false, duration_ms: 12 };
    assert_eq!(
        executed(&facts, &exit),
        "[workspace-exec] workspace_id=0123456789ab sequence=2 cwd=/workspace execution_mode=guest_vsock \
         exit_code=3 duration_ms=12"
    );
    let exit = Exit { code: None, signal: Some(9), timed_out: true, duration_ms: 1000 };
    assert!(executed(&facts, &exit).ends_with(" exit_code=124 duration_ms=1000"));
}

#[test]
fn snapshots_are_shown_as_in_the_transcript() {
    let snapshot = SnapshotView {
        workspace_id: ID.into(),
        snapshot_name: "checkpoint".into(),
        kind: "named",
        created_at: 1_700_000_000.0,
        entry_count: 7,
        bytes_written: 99,
        deletable: true,
    };
    assert_eq!(
        snapshot_created(&snapshot),
        "[workspace-snapshot-create] snapshot_name=checkpoint kind=named entry_count=7 bytes_written=99"
    );
    let shown = "checkpoint [named] entry_count=7 bytes_written=99 deletable=yes";
    assert_eq!(snapshot_listed(&snapshot), shown);
    let baseline =
        SnapshotView { snapshot_name: "baseline".into(), kind: "baseline", deletable: false, ..snapshot };
    assert!(snapshot_listed(&baseline).ends_with(" deletable=no"));
}

#[test]
fn a_sync_is_shown_as_in_the_transcript() {
    let workspace_sync = SyncFacts {
        mode: "directory",
        source_path: "/home/you/changes".into(),
        destination: "/workspace/src".into(),
        entry_count: 2,
        bytes_written: 28,
    };
    let shown = Synced { workspace_id: ID.into(), execution_mode: "guest_vsock", workspace_sync };
    assert_eq!(
        synced(&shown),
        "[workspace-sync] workspace_id=0123456789ab mode=directory source=/home/you/changes \
         destination=/workspace/src entry_count=2 bytes_written=28 execution_mode=guest_vsock"
    );
}

#[test]
fn an_export_is_shown_as_in_the_transcript() {
    let facts = Exported {
        workspace_id: ID.into(),
        workspace_path: "/workspace/src/note.txt".into(),
        output_path: "/home/you/note\n.txt".into(),
        artifact_type: "file",
        entry_count: 1,
        bytes_written: 28,
        skipped_count: 3,
        skipped: vec![SkippedEntry { path: "a\nb".into(), reason: "it leads out".into() }],
        execution_mode: "guest_vsock",
    };
    assert_eq!(
        exported("workspace-export", &facts),
        "[workspace-export] workspace_id=0123456789ab workspace_path=/workspace/src/note.txt \
         output_path=/home/you/note\\n.txt artifact_type=file entry_count=1 bytes_written=28 \
         execution_mode=guest_vsock"
    );
    let told = ["[workspace-export] skipped: a\\nb (it leads out)", "[workspace-export] skipped: 2 more"];
    assert_eq!(skipped("workspace-export", &facts), told);
}

fn entry(path: &str, artifact_type: &'static str, size_bytes: u64, link_target: Option<&str>) -> FileEntry {
    FileEntry { path: path.into(), artifact_type, size_bytes, link_target: link_target.map(str::to_owned) }
}

#[test]
fn listings_show_an_entry_a_line() {
    let entries = vec![
        entry("/workspace/a", "directory", 0, None),
        entry("/workspace/a/b\u{1b}c", "file", 5, None),
        entry("/workspace/l", "symlink", 1, Some("a/b")),
    ];
    let lines = "\
- /workspace/a [directory] bytes=0
- /workspace/a/b\\u{1b}c [file] bytes=5
- /workspace/l [symlink] bytes=1 -> a/b";
    let listing = FileListing {
        workspace_id: ID.into(),
        path: "/workspace".into(),
        recursive: true,
        entries: entries.clone(),
        truncated: false,
        execution_mode: "guest_vsock",
    };
    assert_eq!(file_listing(&listing), format!("Workspace file path: /workspace\n{lines}"));
    let empty = FileListing { entries: vec![], ..listing };
    assert_eq!(file_listing(&empty), "Workspace file path: /workspace\nNo workspace entries found.");
    let disk = FileListing { path: "/etc".into(), entries, ..empty };
    assert_eq!(disk_listing(&disk), format!("Workspace: 0123456789ab\nPath: /etc\n{lines}"));
}

#[test]
fn contents_are_followed_by_what_is_known_of_them() {
    assert_eq!(whole_lines(b"").as_ref(), b"");
    assert_eq!(whole_lines(b"a\n").as_ref(), b"a\n");
    assert_eq!(whole_lines(b"a\nb").as_ref(), b"a\nb\n");
    let content = FileContent {
        workspace_id: ID.into(),
        path: "/workspace/a".into(),
        size_bytes: 9,
        max_bytes: 4,
        bytes: b"abcd".to_vec(),
        content: "abcd".into(),
        truncated: true,
        execution_mode: "guest_vsock",
    };
    assert_eq!(
        file_read(&content),
        "[workspace-file-read] workspace_id=0123456789ab path=/workspace/a size_bytes=9 truncated=yes"
    );
    let content = FileContent { path: "/etc/x".into(), size_bytes: 4, truncated: false, ..content };
    assert_eq!(
        disk_read(&content),
        "[workspace-disk-read] workspace_id=0123456789ab path=/etc/x size_bytes=4 truncated=no"
    );
}

#[test]
fn changes_of_files_are_told_in_one_line() {
    let written = FileWritten {
        workspace_id: ID.into(),
        path: "/workspace/a".into(),
        size_bytes: 5,
        bytes_written: 5,
        created: true,
        execution_mode: "guest_vsock",
    };
    assert_eq!(
        file_written(&written),
        "[workspace-file-write] workspace_id=0123456789ab path=/workspace/a bytes_written=5 \
         execution_mode=guest_vsock"
    );
    let changed =
        FileChanged { workspace_id: ID.into(), path: "/workspace/a".into(), execution_mode: "guest_vsock" };
    assert_eq!(
        file_changed("workspace-file-remove", &changed),
        "[workspace-file-remove] workspace_id=0123456789ab path=/workspace/a execution_mode=guest_vsock"
    );
    let facts = FileStat {
        workspace_id: ID.into(),
        entry: entry("/workspace/l", "symlink", 3, Some("x")),
        mode: "0755".into(),
        uid: 0,
        gid: 1000,
        modified_at: 1_700_000_000.0,
        execution_mode: "guest_vsock",
    };
    assert_eq!(
        file_facts(&facts),
        "/workspace/l [symlink] bytes=3 -> x mode=0755 uid=0 gid=1000 modified_at=1700000000.0"
    );
}

#[test]
fn patches_and_disks_are_told_in_one_line() {
    let report = PatchReport {
        workspace_id: ID.into(),
        changed: true,
        summary: PatchSummary { total: 3, added: 1, modified: 1, deleted: 1 },
        entries: vec![],
        patch: String::new(),
        execution_mode: "guest_vsock",
    };
    assert_eq!(
        patched(&report),
        "[workspace-patch] workspace_id=0123456789ab total=3 added=1 modified=1 deleted=1 \
         execution_mode=guest_vsock"
    );
    let exported = DiskExport {
        workspace_id: ID.into(),
        output_path: "/tmp/x.ext4".into(),
        disk_format: "ext4",
        bytes_written: 42,
    };
    assert_eq!(
        disk_exported(&exported),
        "[workspace-disk-export] workspace_id=0123456789ab output_path=/tmp/x.ext4 disk_format=ext4 \
         bytes_written=42"
    );
}

fn difference() -> Diff {
    let changed = |path: &str, artifact_type, status, patch: Option<&str>| DiffEntry {
        path: path.into(),
        status,
        artifact_type,
        text_patch: patch.map(str::to_owned),
        omitted: false,
    };
    let patch = "--- a/src/note.txt\n+++ b/src/note.txt\n@@ -1,2 +1,2 @@\n-a\n--- b\n+c\n d\n";
    Diff {
        workspace_id: ID.into(),
        against: "baseline".into(),
        changed: true,
        summary: DiffSummary {
            total: 2,
            added: 1,
            modified: 1,
            deleted: 0,
            type_changed: 0,
            text_patched: 1,
            non_text: 1,
        },
        entries: vec![
            changed("src/note.txt", "file", "modified", Some(patch)),
            changed("x", "symlink", "added", None),
        ],
        patch: patch.into(),
    }
}

#[test]
fn a_difference_is_headed_as_in_the_transcript() {
    assert_eq!(
        diff_header(&difference()),
        "[workspace-diff] workspace_id=0123456789ab total=2 added=1 modified=1 deleted=0 type_changed=0 \
         text_patched=1 non_text=1"
    );
}

#[test]
fn a_difference_is_drawn_by_lines_that_changed() {
    let shown = " src/note.txt | 3 +--
 x            | symlink added
 2 files changed, 1 insertion(+), 2 deletions(-)";
    assert_eq!(diff_stat(&difference()), shown);
    let mut large = difference();
    large.entries[0].text_patch = Some(format!("@@ -1 +1,1000 @@\n-a\n{}", "+b\n".repeat(1000)));
    let drawn = diff_stat(&large);
    let line = drawn.lines().next().unwrap();
    assert!(line.starts_with(" src/note.txt | 1001 ++++") && line.ends_with("+-"), "{line}");
    assert!(line.len() < 70, "{line}");
}

#[test]
fn logs_tell_how_each_command_ended() {
    let entry = LogEntry {
        sequence: 3,
        command: "make test".into(),
        cwd: "/workspace".into(),
        state: "exited",
        exit_code: Some(2),
        duration_ms: Some(40),
        execution_mode: "guest_vsock",
        recorded_at: 1_700_000_000.0,
        stdout: String::new(),
        stdout_truncated: false,
        stderr: String::new(),
        stderr_truncated: false,
        network_denials: vec![],
        network_denials_truncated: false,
    };
    assert_eq!(log_entry(&entry), "#3 exit_code=2 duration_ms=40 cwd=/workspace\n$ make test");
    let lost = LogEntry { exit_code: None, duration_ms: None, ..entry };
    assert!(log_entry(&lost).starts_with("#3 exit_code=unknown duration_ms=unknown "));
}

#[test]
fn a_summary_is_read_in_half_a_minute() {
    let command =
        |sequence, command: &str, exit_code| SummaryCommand { sequence, command: command.into(), exit_code };
    let plain = Summary {
        workspace_id: ID.into(),
        name: Some("fix".into()),
        state: "started".into(),
        reset_count: 1,
        commands: CommandCounts { total: 4, succeeded: 1, failed: 1, lost: 2, running: 0 },
        shell_count: 0,
        failed_commands: vec![command(2, "make test", Some(2))],
        last_command: Some(command(4, "make", None)),
        service_count: 2,
        running_service_count: 1,
        events: vec![SummaryEvent {
            at: 1_700_000_001.0,
            kind: "export".into(),
            detail: serde_json::json!({ "path": "a\nb", "entry_count": 1 }),
        }],
        event_counts: [("export".to_owned(), 1), ("patch".to_owned(), 2)].into(),
    };
    let wanted = "\
Workspace: 0123456789ab (fix)
State: started
Reset count: 1
Commands: 4 total, 1 succeeded, 1 failed, 2 lost, 0 running
- failed: #2 exit_code=2 make test
- last: #4 exit_code=unknown make
Services: 1/2 running
Events: 1 export, 2 patch
- export entry_count=1 path=a\\nb";
    assert_eq!(summary(&plain), wanted);
    let quiet = Summary { events: vec![], event_counts: BTreeMap::new(), service_count: 0, ..plain };
    let text = summary(&quiet);
    assert!(text.ends_with("\nEvents: none") && !text.contains("Services"), "{text}");
}

fn command() -> CommandView {
    CommandView {
        workspace_id: ID.into(),
        sequence: 3,
        command: "sh -c 'a\nb'".into(),
        cwd: "/work space".into(),
        detached: true,
        state: "running",
        exit_code: None,
        duration_ms: None,
        started_at: 1_700_000_000.5,
        execution_mode: "guest_vsock",
        network_denials: vec![],
        network_denials_truncated: false,
    }
}

#[test]
fn a_detached_command_is_told_like_others_with_its_state() {
    let facts = ExecFacts {
        workspace_id: ID.into(),
        environment: "debian:12".into(),
        environment_version: None,
        sequence: 3,
        cwd: "/workspace".into(),
        command: "make".into(),
    };
    let started = DetachedCommand { facts, state: "running", execution_mode: "guest_vsock" };
    assert_eq!(
        detached(&started),
        "[workspace-exec] workspace_id=0123456789ab sequence=3 cwd=/workspace execution_mode=guest_vsock \
         state=running"
    );
}

#[test]
fn a_command_is_listed_in_one_line_whatever_it_is() {
    assert_eq!(
        command_listed(&command()),
        "[workspace-command] workspace_id=0123456789ab sequence=3 state=running exit_code=unknown \
         duration_ms=unknown detached=yes started_at=1700000000.5 cwd=/work space \
         command=\"sh -c 'a\\nb'\""
    );
}

#[test]
fn an_end_of_the_time_for_waiting_is_told_from_an_end_of_the_command() {
    let waited = WaitedCommand { command: command(), wait_timed_out: true };
    assert_eq!(
        command_waited(&waited),
        "[workspace-exec-wait] workspace_id=0123456789ab sequence=3 state=running exit_code=unknown \
         duration_ms=unknown wait_timed_out=yes"
    );
    let ended = CommandView { state: "killed", exit_code: Some(124), duration_ms: Some(9), ..command() };
    assert_eq!(
        command_killed(&ended),
        "[workspace-exec-kill] workspace_id=0123456789ab sequence=3 state=killed exit_code=124 duration_ms=9"
    );
    let waited = WaitedCommand { command: ended, wait_timed_out: false };
    assert!(command_waited(&waited).ends_with(" exit_code=124 duration_ms=9 wait_timed_out=no"));
    assert_eq!(
        workspace_waited(&WaitedWorkspace { workspace: plain(), wait_timed_out: false }),
        "[workspace-wait] workspace_id=0123456789ab state=started wait_timed_out=no"
    );
}
