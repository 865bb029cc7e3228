use super::*;
use crate::exec::ExecRequest;
use crate::store::tests::Fixture;
use tokio::net::UnixStream;

#[tokio::test]
async fn a_workspaces_time_stands_still_while_a_detached_command_runs() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, now());
    let places = Places::new(fixture.directory.path());
    std::fs::create_dir_all(places.workspace(id)).unwrap();
    let mut supervised = Supervised::open(places, &id.to_string(), false).await.unwrap();
    assert!(supervised.deadline().is_some());

    let (host, guest) = UnixStream::pair().unwrap();
    let exec = ExecRequest::new(vec!["make".into()]);
    let command = RunCommand { command: "make".into(), cwd: "/".into(), exec };
    let answer = supervised.commands.run(id, command, host, None).unwrap();
    assert!(supervised.deadline().is_none());
    drop((answer, guest));
    assert!(matches!(supervised.next(false).await, Next::CommandEnded));
    assert!(supervised.deadline().is_some());
}
