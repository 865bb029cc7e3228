use super::{
    AttachInput, AttachOutput, AttachRestore, Awaited, Captured, CommandFollow, CreateWorkspace,
    ExportOptions, ForkWorkspace, KillSignal, LogTail, NetworkFollow, NetworkRecords, Newline, OpenShell,
    Pyro, ReadShell, Repair, SeedFilter, ServiceFollow, ServiceRequest, ServiceUntil, UpdateWorkspace,
    WorkspaceCommand, WorkspaceExec,
};
use crate::environments::Silent;
use crate::exec::Exit;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Lists asynchronous functions whose futures go from thread to thread, or it would not compile.
macro_rules! sendable {
    (|$($name:ident: $kind:ty),*| $($owner:ident.$method:ident($($argument:expr),*);)*) => {
        const SENDABLE: &[&str] = &[$(stringify!($method)),*];

        /// Never called: what a future is like is known when it compiles.
        #[allow(dead_code, clippy::too_many_arguments, reason = "it compiles, and that is the test")]
        fn compiles($($name: $kind),*) {
            fn send(_: impl Send) {}
            $(send($owner.$method($($argument),*));)*
        }
    };
}

sendable! {
    |pyro: &Pyro, create: &CreateWorkspace, fork: &ForkWorkspace, command: &WorkspaceCommand,
     exec: &WorkspaceExec<'_>, follow: &mut CommandFollow<'_>, path: &Path, service: &ServiceRequest,
     service_log: &mut ServiceFollow<'_>, open: &OpenShell, read: &ReadShell, input: &mut AttachInput,
     screen: &mut AttachOutput, restore: AttachRestore, finished: WorkspaceExec<'_>, exit: &Exit,
     update: &UpdateWorkspace, flows: &mut NetworkFollow<'_>|
    pyro.settle();
    pyro.create(create, Arc::new(Silent), &|_| ());
    pyro.fork("", fork);
    pyro.start("");
    pyro.stop("");
    pyro.delete("");
    pyro.status("");
    pyro.wait("", Awaited::Idle, None);
    pyro.exec("", command);
    exec.why_disconnected();
    finished.finish(exit, Captured::default());
    pyro.update("", update);
    flows.next();
    pyro.network_log("", NetworkRecords::All, LogTail::All);
    pyro.exec_detached("", command);
    pyro.command_wait("", 1, None);
    pyro.command_kill("", 1, KillSignal::Int);
    pyro.command_output("", 1);
    follow.next();
    pyro.snapshot_create("", "");
    pyro.snapshot_delete("", "");
    pyro.reset("", "");
    pyro.diff("", "");
    pyro.sync_push("", path, SeedFilter::All, "", &|_| ());
    pyro.sync_pull("", "", path, ExportOptions::default(), &|_| ());
    pyro.export("", "", path, ExportOptions::default(), &|_| ());
    pyro.disk_export("", path);
    pyro.disk_list("", "", false);
    pyro.disk_read("", "", 1);
    pyro.file_list("", "", false);
    pyro.file_stat("", "");
    pyro.file_read("", "", 1);
    pyro.file_write("", "", b"");
    pyro.file_remove("", "", false);
    pyro.file_mkdir("", "", false);
    pyro.file_move("", "", "", false);
    pyro.patch_apply("", b"");
    pyro.fsck(Repair::No);
    pyro.service_start("", service);
    pyro.service_list("");
    pyro.service_status("", "");
    pyro.service_stop("", "");
    pyro.service_restart("", "");
    pyro.service_wait("", "", ServiceUntil::Ready, None);
    pyro.service_logs("", "", LogTail::All);
    pyro.service_follow("", "", LogTail::All);
    service_log.next();
    pyro.shell_open("", open);
    pyro.shell_read("", "", read);
    pyro.shell_write("", "", b"", Newline::Append);
    pyro.shell_resize("", "", 1, 1);
    pyro.shell_signal("", "", KillSignal::Int);
    pyro.shell_close("", "");
    pyro.shell_attach("", "", 1, 1);
    input.write(b"");
    input.resize(1, 1);
    screen.next();
    restore.bytes();
}

fn sources(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn each_asynchronous_function_of_workspaces_is_known_to_run_on_any_thread() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = sources(&source.join("workspace"));
    files.push(source.join("workspace.rs"));
    let texts: Vec<_> = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let declared = texts.iter().flat_map(|text| text.lines());
    let declared = declared.filter_map(|line| line.trim_start().strip_prefix("pub async fn "));
    let declared: BTreeSet<_> = declared.map(|rest| rest.split(['(', '<']).next().unwrap()).collect();
    assert_eq!(declared, SENDABLE.iter().copied().collect());
}
