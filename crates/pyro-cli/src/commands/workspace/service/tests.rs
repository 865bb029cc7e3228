use super::*;
use crate::commands::workspace::arguments::ArgumentError;
use clap::Parser;
use pyro_core::services::{PortLimits, Readiness, RestartPolicy};
use pyro_core::workspace::ServiceRequest;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    service: Service,
}

fn request(arguments: &[&str]) -> Result<ServiceRequest, ArgumentError> {
    let line = Line::try_parse_from([&["service", "start"], arguments].concat()).unwrap();
    match line.service.command {
        ServiceCommand::Start(start) => start.request(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_transcripts_lines_are_understood_with_options_anywhere() {
    let text = "touch .web-ready && while true; do sleep 60; done";
    let ready = ["--ready-file", ".web-ready"];
    for arguments in [
        [&["fix", "web", "--secret-env", "API_TOKEN"][..], &ready, &["--", "sh", "-lc", text]].concat(),
        [&ready[..], &["--secret-env", "API_TOKEN", "fix", "web", "--", "sh", "-lc", text]].concat(),
    ] {
        let request = request(&arguments).unwrap();
        assert_eq!((request.name.as_str(), request.restart), ("web", RestartPolicy::No));
        assert_eq!(request.readiness, Some(Readiness::File { path: ".web-ready".to_owned() }));
        assert_eq!((request.ready_timeout_seconds, request.ready_interval_ms), (30, 500));
        assert_eq!(request.command.shown_command, format!("sh -lc '{text}'"));
        assert_eq!(request.command.exec.argv, ["sh", "-lc", text]);
        assert_eq!(request.command.exec.secret_env, [("API_TOKEN".to_owned(), "API_TOKEN".to_owned())]);
    }
    let published =
        ["fix", "app", "--ready-http", "http://127.0.0.1:8080/", "--publish", "18080:8080", "--", "x"];
    let published = request(&published).unwrap();
    assert_eq!(published.publish[0].to_string(), "18080:8080");
    assert_eq!(published.publish_limits, PortLimits { max_connections: 1024, idle_seconds: 3600 });
    let bounds = ["--publish-idle-seconds", "0", "--publish-max-connections", "7"];
    let bounded =
        request(&[&["fix", "app", "--publish", "8080"], &bounds[..], &["--", "x"]].concat()).unwrap();
    assert_eq!(bounded.publish_limits, PortLimits { max_connections: 7, idle_seconds: 0 });
}

#[test]
fn what_does_not_fit_together_is_told() {
    let told = |arguments: &[&str]| request(arguments).unwrap_err().to_string();
    assert_eq!(
        told(&["fix", "web", "--ready-file", "a", "--ready-tcp", "x:1", "--", "x"]),
        "choose at most one of --ready-file, --ready-tcp, --ready-http, or --ready-command"
    );
    assert_eq!(told(&["fix", "web"]), "command is required after `--`");
    assert_eq!(
        told(&["fix", "web", "--restart", "always", "--", "x"]),
        "restart must be one of: no, on-failure, on-failure:COUNT, not 'always'"
    );
    assert_eq!(
        told(&["fix", "web", "--publish", "80:80:80", "--", "x"]),
        "published ports must use GUEST_PORT or HOST_PORT:GUEST_PORT, not '80:80:80'"
    );
    for arguments in [
        &[][..],
        &["start", "fix"],
        &["start", "fix", "web", "--shell", "x", "--", "x"],
        &["logs", "fix", "web", "--all", "--tail-lines", "3"],
        &["logs", "fix", "web", "--follow", "--json"],
        &["wait", "fix", "web", "--until", "gone"],
        &["stop", "fix"],
        &["start", "fix", "web", "--publish-idle-seconds", "1", "--", "x"],
        &["start", "fix", "web", "--publish-max-connections", "1", "--", "x"],
    ] {
        assert!(Line::try_parse_from([&["service"], arguments].concat()).is_err(), "{arguments:?}");
    }
}
