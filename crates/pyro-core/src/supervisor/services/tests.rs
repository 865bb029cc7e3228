use super::*;
use crate::exec::ExecRequest;
use crate::service_logs::{self, Stream};
use crate::services::{PortLimits, Readiness, RestartPolicy};
use crate::store::WorkspaceState;
use crate::store::tests::Fixture;
use pyro_agent::wire::{self, FrameKind};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Enough for a loaded machine; nothing here takes long by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// A workspace's services, and the guest that their streams lead to.
struct Lab {
    services: Services,
    id: WorkspaceId,
    fixture: Fixture,
}

/// The guest's end of one stream.
struct Guest(UnixStream);

impl Guest {
    async fn say(&mut self, kind: FrameKind, payload: &[u8]) {
        self.0.write_all(&wire::emit_frame(kind, payload)).await.unwrap();
    }

    async fn hear(&mut self) -> (FrameKind, Value) {
        let mut header = [0; wire::HEADER_BYTES];
        let heard = tokio::time::timeout(PATIENCE, self.0.read_exact(&mut header)).await;
        heard.expect("the guest was told nothing").unwrap();
        let header = wire::Header::parse(header).unwrap();
        let mut payload = vec![0; header.len];
        self.0.read_exact(&mut payload).await.unwrap();
        (header.kind, serde_json::from_slice(&payload).unwrap())
    }

    /// What is asked of the guest, after which it answers.
    async fn asked(&mut self) -> Value {
        let (kind, mut request) = self.hear().await;
        assert_eq!(kind, FrameKind::Request);
        request["operation"].take()
    }

    async fn execute(&mut self, pid: i32) {
        assert!(self.asked().await["exec"]["confined"].as_bool().unwrap());
        self.say(FrameKind::Started, json!({ "pid": pid }).to_string().as_bytes()).await;
    }

    async fn exit(&mut self, code: i32) {
        let exit = json!({ "code": code, "signal": null, "timed_out": false, "duration_ms": 5 });
        self.say(FrameKind::Exit, exit.to_string().as_bytes()).await;
    }
}

fn spec(readiness: Option<Readiness>, restart: RestartPolicy) -> ServiceSpec {
    ServiceSpec {
        exec: ExecRequest { confined: true, ..ExecRequest::new(vec!["serve".into()]) },
        readiness,
        ready_timeout: Duration::from_secs(30),
        ready_interval: Duration::from_millis(10),
        restart,
        ports: vec![],
        port_limits: PortLimits::default(),
    }
}

fn on_failure() -> RestartPolicy {
    RestartPolicy::OnFailure { most: None }
}

fn tcp() -> Option<Readiness> {
    Some(Readiness::Tcp { address: "127.0.0.1:80".into() })
}

impl Lab {
    fn new() -> Self {
        let fixture = Fixture::new();
        let id = fixture.workspace(1, now());
        let places = Places::new(fixture.directory.path());
        let services = Services::open(Arc::new(fixture.again()), places, id).unwrap();
        Self { services, id, fixture }
    }

    fn start(&mut self, name: &str, spec: ServiceSpec) -> Result<Later, Problem> {
        let (name, command, cwd) = (name.into(), "serve".into(), "/".into());
        self.services.start(StartService { name, command, cwd, autostart: false, spec })
    }

    /// The guest's end of the next stream that a service wants.
    async fn stream(&mut self) -> Guest {
        let wanted = tokio::time::timeout(PATIENCE, self.services.next()).await.expect("no stream is wanted");
        let (host, guest) = UnixStream::pair().unwrap();
        wanted.send(Ok(host)).unwrap();
        Guest(guest)
    }

    /// A service without readiness that the guest runs.
    async fn running(&mut self, name: &str, restart: RestartPolicy) -> Guest {
        let answer = self.start(name, spec(None, restart)).unwrap();
        let mut guest = self.stream().await;
        guest.execute(7).await;
        assert!(matches!(answer.await, Answer::Done));
        assert_eq!(self.told(name), (ServiceState::Running, None, None));
        guest
    }

    fn told(&self, name: &str) -> (ServiceState, Option<i32>, Option<ServiceStop>) {
        let service = self.fixture.service(self.id, name).unwrap();
        (service.state, service.exit_code, service.stop_reason)
    }

    fn printed(&self, name: &str) -> Vec<u8> {
        let token = self.fixture.service(self.id, name).unwrap().token;
        let dir = self.services.shared.places.service_log(self.id, token);
        service_logs::read(&dir, Stream::Stdout, 0, 1 << 20).unwrap().bytes
    }
}

#[tokio::test]
async fn a_service_is_started_when_it_is_ready_and_stopped_with_its_tree() {
    let mut lab = Lab::new();
    let answer = lab.start("web", spec(tcp(), RestartPolicy::No)).unwrap();
    let mut guest = lab.stream().await;
    guest.execute(7).await;
    let mut probe = lab.stream().await;
    let asked = probe.asked().await;
    assert_eq!(asked["await_ready"]["probe"], json!({ "tcp": { "host": "127.0.0.1", "port": 80 } }));
    assert_eq!(lab.told("web"), (ServiceState::Starting, None, None));
    let twice = lab.start("web", spec(None, RestartPolicy::No)).err().unwrap();
    assert_eq!(twice.code, "service_running");
    guest.say(FrameKind::Stdout, b"out").await;
    let readied = json!({ "ready": true, "attempts": 1, "problem": null });
    probe.say(FrameKind::Reply, readied.to_string().as_bytes()).await;
    assert!(matches!(answer.await, Answer::Done));
    assert_eq!(lab.told("web"), (ServiceState::Running, None, None));
    assert!(matches!(lab.services.wait("web", ServiceAwaited::Ready).await, Answer::Done));
    assert!(matches!(lab.services.wait_log("web", Printed::default()).await, Answer::Done));
    assert_eq!(lab.printed("web"), b"out");

    let stopped = lab.services.stop("web");
    assert_eq!(guest.hear().await, (FrameKind::SignalTree, json!(15)));
    guest.say(FrameKind::Stdout, b"bye").await;
    guest.exit(0).await;
    assert!(matches!(stopped.await, Answer::Done));
    assert_eq!(lab.told("web"), (ServiceState::Stopped, Some(0), Some(ServiceStop::SigTerm)));
    assert_eq!(lab.printed("web"), b"outbye");
    // Nothing waits for one that has ended, and its name is free.
    assert!(matches!(lab.services.wait("web", ServiceAwaited::Ended).await, Answer::Done));
    lab.running("web", RestartPolicy::No).await;
    assert_eq!(lab.printed("web"), b"");
    let logs = std::fs::read_dir(lab.services.shared.places.services(lab.id)).unwrap();
    assert_eq!(logs.count(), 1, "the log of the one before is there still");
}

#[tokio::test]
async fn what_the_guest_refuses_leaves_what_was_there() {
    let mut lab = Lab::new();
    lab.running("web", RestartPolicy::No).await.exit(4).await;
    assert!(matches!(lab.services.wait("web", ServiceAwaited::Ended).await, Answer::Done));
    let answer = lab.start("web", spec(None, RestartPolicy::No)).unwrap();
    let mut guest = lab.stream().await;
    guest.asked().await;
    guest.say(FrameKind::Error, br#"{"code":"not_found","message":"no such program"}"#).await;
    let Answer::Failed(problem) = answer.await else { panic!("it was started") };
    assert_eq!((problem.code, problem.message.as_str()), ("not_found".into(), "no such program"));
    assert_eq!(lab.told("web"), (ServiceState::Exited, Some(4), None));
}

#[tokio::test(start_paused = true)]
async fn one_that_was_never_ready_is_not_started_again() {
    let mut lab = Lab::new();
    let answer = lab.start("web", spec(tcp(), on_failure())).unwrap();
    let mut guest = lab.stream().await;
    guest.execute(7).await;
    let mut asked = lab.stream().await;
    asked.asked().await;
    guest.exit(9).await;
    assert!(matches!(answer.await, Answer::Done));
    let reason = Some(ServiceStop::ExitedBeforeReady);
    assert_eq!(lab.told("web"), (ServiceState::Failed, Some(9), reason));

    let answer = lab.start("web", spec(tcp(), on_failure())).unwrap();
    let mut guest = lab.stream().await;
    guest.execute(7).await;
    let mut probe = lab.stream().await;
    probe.asked().await;
    let late = json!({ "ready": false, "attempts": 3, "problem": "refused\u{1b}" });
    probe.say(FrameKind::Reply, late.to_string().as_bytes()).await;
    assert_eq!(guest.hear().await, (FrameKind::SignalTree, json!(15)));
    // It does not listen.
    assert_eq!(guest.hear().await, (FrameKind::SignalTree, json!(9)));
    guest.exit(1).await;
    assert!(matches!(answer.await, Answer::Done));
    assert_eq!(lab.told("web"), (ServiceState::Failed, Some(1), Some(ServiceStop::ReadinessTimeout)));
    let problem = lab.fixture.service(lab.id, "web").unwrap().problem;
    assert_eq!(problem.as_deref(), Some("refused\\u{1b}"));
}

#[tokio::test(start_paused = true)]
async fn one_that_was_ready_is_started_again_as_often_as_it_may() {
    let mut lab = Lab::new();
    let mut guest = lab.running("web", RestartPolicy::OnFailure { most: Some(2) }).await;
    for start in 1..=2 {
        guest.exit(9).await;
        guest = lab.stream().await;
        assert_eq!(lab.told("web"), (ServiceState::Backoff, Some(9), None));
        guest.execute(7 + start).await;
        assert!(matches!(lab.services.wait("web", ServiceAwaited::Ready).await, Answer::Done));
        let service = lab.fixture.service(lab.id, "web").unwrap();
        assert_eq!((service.restart_count, service.pid), (u64::try_from(start).unwrap(), Some(7 + start)));
    }
    let ended = lab.services.wait("web", ServiceAwaited::Ended);
    guest.exit(9).await;
    assert!(matches!(ended.await, Answer::Done));
    assert_eq!(lab.told("web"), (ServiceState::Failed, Some(9), Some(ServiceStop::RestartLimit)));
    // Started again by hand it begins anew, and can be stopped while it waits.
    let again = lab.services.restart("web").unwrap();
    let mut guest = lab.stream().await;
    guest.execute(20).await;
    assert!(matches!(again.await, Answer::Done));
    guest.exit(9).await;
    let _wanted = lab.services.next().await;
    let stopped = lab.services.stop("web");
    assert!(matches!(stopped.await, Answer::Done));
    assert_eq!(lab.told("web"), (ServiceState::Stopped, None, Some(ServiceStop::SigTerm)));
}

#[tokio::test]
async fn a_restart_ends_it_first() {
    let mut lab = Lab::new();
    let mut guest = lab.running("web", RestartPolicy::No).await;
    let again = lab.services.restart("web").unwrap();
    assert_eq!(guest.hear().await, (FrameKind::SignalTree, json!(15)));
    guest.exit(143).await;
    let mut guest = lab.stream().await;
    guest.execute(8).await;
    assert!(matches!(again.await, Answer::Done));
    assert_eq!(lab.told("web"), (ServiceState::Running, None, None));
    assert_eq!(lab.services.restart("other").err().unwrap().code, "no_such_service");
}

#[tokio::test]
async fn all_are_stopped_at_once_and_those_that_are_left_end_with_their_machine() {
    let mut lab = Lab::new();
    let mut one = lab.running("one", RestartPolicy::No).await;
    let mut two = lab.running("two", on_failure()).await;
    tokio::join!(lab.services.stop_all(), async {
        assert_eq!(one.hear().await, (FrameKind::SignalTree, json!(15)));
        assert_eq!(two.hear().await, (FrameKind::SignalTree, json!(15)));
        one.exit(0).await;
        two.exit(1).await;
    });
    let stopped = Some(ServiceStop::WorkspaceStopped);
    assert_eq!(lab.told("one"), (ServiceState::Stopped, Some(0), stopped));
    assert_eq!(lab.told("two"), (ServiceState::Stopped, Some(1), stopped));
    let _left = lab.running("left", RestartPolicy::No).await;
    lab.services.end();
    lab.fixture
        .set_state(lab.id, &[WorkspaceState::Started], WorkspaceState::Stopped, Some("x"), now())
        .unwrap();
    assert_eq!(lab.told("left"), (ServiceState::Stopped, None, Some(ServiceStop::MachineEnded)));
}

#[tokio::test]
async fn those_that_come_back_do_and_logs_of_others_go() {
    let mut lab = Lab::new();
    lab.running("gone", RestartPolicy::No).await.exit(0).await;
    let (name, command, cwd) = ("back".into(), "serve".into(), "/".into());
    let spec = spec(None, RestartPolicy::No);
    let answer = lab.services.start(StartService { name, command, cwd, autostart: true, spec }).unwrap();
    let mut guest = lab.stream().await;
    guest.execute(7).await;
    assert!(matches!(answer.await, Answer::Done));
    guest.say(FrameKind::Stdout, b"one").await;
    guest.exit(0).await;
    assert!(matches!(lab.services.wait("back", ServiceAwaited::Ended).await, Answer::Done));
    let places = lab.services.shared.places.clone();
    let stray = places.services(lab.id).join("99");
    std::fs::create_dir(&stray).unwrap();
    lab.services = Services::open(Arc::new(lab.fixture.again()), places.clone(), lab.id).unwrap();
    assert!(!stray.exists());
    assert_eq!(std::fs::read_dir(places.services(lab.id)).unwrap().count(), 2);
    lab.services.autostart().unwrap();
    let mut guest = lab.stream().await;
    guest.execute(9).await;
    assert!(matches!(lab.services.wait("back", ServiceAwaited::Ready).await, Answer::Done));
    guest.say(FrameKind::Stdout, b"two").await;
    guest.exit(0).await;
    assert!(matches!(lab.services.wait("back", ServiceAwaited::Ended).await, Answer::Done));
    assert_eq!(lab.printed("back"), b"onetwo");
}

#[tokio::test]
async fn a_command_tells_readiness_by_its_exit_code() {
    let mut lab = Lab::new();
    let readiness = Some(Readiness::Command { command: "check".into() });
    let answer = lab.start("web", spec(readiness, RestartPolicy::No)).unwrap();
    let mut service = lab.stream().await;
    service.execute(7).await;
    for code in [1, 0] {
        let mut check = lab.stream().await;
        let asked = check.asked().await;
        assert_eq!(asked["exec"]["argv"], json!(["/bin/sh", "-lc", "check"]));
        assert!(asked["exec"]["timeout_ms"].as_u64().unwrap() <= 10_000);
        check.say(FrameKind::Started, br#"{"pid":9}"#).await;
        check.exit(code).await;
    }
    assert!(matches!(answer.await, Answer::Done));
    assert_eq!(lab.told("web"), (ServiceState::Running, None, None));
}
