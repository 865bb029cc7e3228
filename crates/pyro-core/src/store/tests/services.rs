use super::*;

fn service<'a>(name: &'a str, spec: &'a str) -> NewService<'a> {
    NewService { name, command: "serve", cwd: "/workspace", spec, autostart: false, pid: 7 }
}

fn begin(store: &StateStore, name: &str, now: Millis) -> i64 {
    store.begin_service(id(1), &service(name, "{}"), now).unwrap()
}

fn ended(state: ServiceState) -> ServiceChange<'static> {
    ServiceChange::Ended { state, exit_code: Some(0), reason: None, problem: None }
}

#[test]
fn a_service_is_followed_from_its_start_to_its_end() {
    let store = Fixture::new();
    store.workspace(1, 1000);
    let token = begin(&store, "web", 2000);
    let starting = store.service(id(1), "web").unwrap();
    assert_eq!((starting.state, starting.pid, starting.started_at), (ServiceState::Starting, Some(7), 2000));
    assert_eq!(
        text(store.begin_service(id(1), &service("web", "{}"), 2100)),
        format!("service 'web' is already running in workspace '{}'", id(1))
    );
    store.change_service(id(1), token, &ServiceChange::Ready { published: None }, 2500).unwrap();
    assert_eq!(store.service_counts(id(1)).unwrap(), ServiceCounts { all: 1, running: 1 });
    let back = ServiceChange::BackedOff { exit_code: Some(9), problem: None };
    store.change_service(id(1), token, &back, 3000).unwrap();
    let waiting = store.service(id(1), "web").unwrap();
    assert_eq!((waiting.state, waiting.pid, waiting.exit_code), (ServiceState::Backoff, None, Some(9)));
    store.change_service(id(1), token, &ServiceChange::Restarted { pid: 8 }, 4000).unwrap();
    let again = store.service(id(1), "web").unwrap();
    assert_eq!((again.state, again.pid, again.restart_count), (ServiceState::Starting, Some(8), 1));
    assert_eq!((again.ready_at, again.ended_at, again.exit_code), (None, None, None));
    let long = "ä".repeat(PROBLEM_BYTES);
    let end = ServiceChange::Ended {
        state: ServiceState::Failed,
        exit_code: Some(7),
        reason: Some(ServiceStop::RestartLimit),
        problem: Some(&long),
    };
    store.change_service(id(1), token, &end, 5000).unwrap();
    let failed = store.service(id(1), "web").unwrap();
    assert_eq!((failed.state, failed.stop_reason), (ServiceState::Failed, Some(ServiceStop::RestartLimit)));
    assert_eq!((failed.ended_at, failed.problem.unwrap().len()), (Some(5000), PROBLEM_BYTES));
    assert_ne!(begin(&store, "web", 6000), token, "a token names one service for ever");
    assert!(store.change_service(id(1), token, &ServiceChange::Ready { published: None }, 6100).is_err());
    assert_eq!(store.services(id(1)).unwrap().len(), 1);
    assert_eq!(
        text(store.service(id(1), "x")),
        format!("service 'x' does not exist in workspace '{}'", id(1))
    );
}

#[test]
fn no_service_goes_on_over_a_change_of_its_workspace() {
    let store = Fixture::new();
    store.workspace(1, 1000);
    let told = |name: &str| {
        let service = store.service(id(1), name).unwrap();
        (service.state, service.stop_reason)
    };
    let done = begin(&store, "done", 2000);
    store.change_service(id(1), done, &ended(ServiceState::Exited), 2100).unwrap();
    begin(&store, "web", 2000);
    let stopped = WorkspaceState::Stopped;
    store.set_state(id(1), &[WorkspaceState::Started], stopped, None, 3000).unwrap();
    assert_eq!(told("web"), (ServiceState::Stopped, Some(ServiceStop::WorkspaceStopped)));
    assert_eq!(told("done"), (ServiceState::Exited, None));
    assert!(store.begin_service(id(1), &service("web", "{}"), 3100).is_err(), "nothing runs there");
    store.set_state(id(1), &[stopped], WorkspaceState::Started, None, 4000).unwrap();
    begin(&store, "web", 4100);
    store.set_state(id(1), &[WorkspaceState::Started], stopped, Some("it died"), 5000).unwrap();
    assert_eq!(told("web"), (ServiceState::Stopped, Some(ServiceStop::MachineEnded)));
    assert_eq!(store.rules(), []);
    store.sql("UPDATE services SET state = 'running' WHERE name = 'web'");
    assert!(
        matches!(&store.rules()[..], [Finding::Rule(rule)] if rule.contains("is stopped and runs service web"))
    );
}

#[test]
fn as_many_live_as_may_and_those_that_ended_first_make_room() {
    let store = Fixture::new();
    store.workspace(1, 1000);
    for number in 0..SERVICES {
        let token = begin(&store, &format!("s{number:02}"), 2000);
        if number % 2 == 0 {
            let at = 10_000 - i64::try_from(number).unwrap();
            store.change_service(id(1), token, &ended(ServiceState::Stopped), at).unwrap();
        }
    }
    // The last of the even ones has ended first.
    begin(&store, "new", 20_000);
    let names: Vec<String> = store.services(id(1)).unwrap().into_iter().map(|one| one.name).collect();
    assert!(names.len() as u64 == SERVICES && !names.contains(&"s62".to_owned()), "{names:?}");
    for number in 1..SERVICES / 2 {
        begin(&store, &format!("more{number}"), 30_000);
    }
    assert_eq!(
        store.services(id(1)).unwrap().iter().filter(|one| one.state.is_live()).count() as u64,
        SERVICES
    );
    assert!(text(store.check_new_service(id(1), "other")).starts_with("64 services run in workspace"));
}

#[test]
fn a_reset_and_a_deletion_take_services_along() {
    let store = Fixture::new();
    store.workspace(1, 1000);
    begin(&store, "web", 2000);
    let baseline = store.snapshot(id(1), "baseline").unwrap();
    store.reset(&baseline, layer(90), 3000).unwrap();
    assert_eq!(store.services(id(1)).unwrap(), []);
    begin(&store, "web", 4000);
    store.delete(id(1), Departure::Deleted, 5000).unwrap();
    assert_eq!(store.rules(), []);
}
