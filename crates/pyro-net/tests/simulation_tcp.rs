//! TCP between a guest and servers, over good and bad cables.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;

use lab::{Faults, Lab, Script, at, pattern, seconds};
use pyro_net::policy::Limits;
use pyro_net::{End, FlowState, Mode, Policy};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

const V4: &str = "1.2.3.4:5000";
const V6: &str = "[2606:4700::7]:5000";

fn lab(seed: u64) -> Lab {
    Lab::new(Policy::of(Mode::Egress), seed)
}

/// Sends `bytes`, reads to the server's end, closes.
struct Exchange {
    handle: SocketHandle,
    to_send: Vec<u8>,
    sent: usize,
    got: Vec<u8>,
    is_closed: bool,
}

impl Exchange {
    fn new(lab: &mut Lab, to: &str, to_send: Vec<u8>) -> Self {
        Self { handle: lab.guest.connect(at(to)), to_send, sent: 0, got: Vec::new(), is_closed: false }
    }

    /// Whether the server's end was read and ours is told.
    fn step(&mut self, lab: &mut Lab) -> bool {
        self.sent += lab.guest.write(self.handle, &self.to_send[self.sent..]);
        self.got.extend(lab.guest.read(self.handle));
        let state = lab.guest.state(self.handle);
        // Its end goes out by itself: smoltcp forgets one that is lost together with the last bytes.
        let is_sent = self.sent == self.to_send.len() && lab.guest.socket(self.handle).send_queue() == 0;
        if is_sent && !self.is_closed && matches!(state, State::Established | State::CloseWait) {
            lab.guest.socket(self.handle).close();
            self.is_closed = true;
        }
        self.is_closed && matches!(state, State::TimeWait | State::Closed)
    }
}

#[test]
fn bytes_arrive_whole_over_a_cable_that_loses_doubles_and_reorders() {
    for seed in 1..=12 {
        let mut lab = lab(seed);
        lab.faults = Faults { lost: seed % 4, doubled: seed % 5, late: seed % 30 };
        lab.host.serve("1.2.3.4:6000", Script::Answer(pattern(300_000, seed)));
        lab.host.serve(V6, Script::Answer(pattern(300_000, seed + 1)));
        let mut flows = [
            Exchange::new(&mut lab, V4, pattern(200_000, seed)),
            Exchange::new(&mut lab, "1.2.3.4:6000", pattern(100_000, seed + 2)),
            Exchange::new(&mut lab, V6, pattern(100_000, seed + 3)),
        ];
        println!("seed {seed} {:?}", lab.faults);
        lab.run(seconds(600), |lab| {
            flows.iter_mut().map(|flow| flow.step(lab)).fold(true, |all, one| all & one)
        });
        let expected = [flows[0].to_send.clone(), pattern(300_000, seed), pattern(300_000, seed + 1)];
        for (flow, expected) in flows.iter().zip(expected) {
            assert!(flow.got == expected, "seed {seed}: {} of {}", flow.got.len(), expected.len());
        }
        for index in 0..3 {
            let dialled = lab.host.dialled()[index];
            let sent =
                flows.iter().zip([V4, "1.2.3.4:6000", V6]).find(|(_, to)| at(to) == dialled).unwrap().0;
            assert!(lab.host.got(index) == sent.to_send, "seed {seed}");
        }
        lab.run(seconds(300), |lab| lab.events().len() == 3);
        for event in lab.events() {
            assert!(event.sent_bytes >= 100_000 && event.received_bytes >= 200_000, "{event:?}");
        }
        assert_eq!(lab.stack.counters().flows, 0);
    }
}

#[test]
fn a_clean_end_is_told_as_one() {
    let mut lab = lab(1);
    let mut flow = Exchange::new(&mut lab, V4, b"hello".to_vec());
    lab.run(seconds(20), |lab| flow.step(lab));
    lab.run(seconds(20), |lab| lab.events().len() == 1);
    let event = lab.event();
    assert_eq!((event.end, event.sent_bytes, event.received_bytes), (End::Finished, 5, 5));
    assert_eq!((event.destination, event.dialled), (at(V4), Some(at(V4))));
    assert_eq!(event.text, "tcp to 1.2.3.4:5000: finished");
    let line = event.to_json_line();
    assert_eq!(serde_json::from_str::<pyro_net::FlowEvent>(&line).unwrap(), event);
}

#[test]
fn a_side_that_said_its_last_still_hears_the_other() {
    let mut lab = lab(2);
    lab.host.serve(V4, Script::Nothing);
    let mut flow = Exchange::new(&mut lab, V4, b"question".to_vec());
    lab.run(seconds(5), |lab| {
        flow.step(lab);
        lab.guest.state(flow.handle) == State::FinWait2
    });
    lab.pass(seconds(7));
    lab.host.set_script(0, Script::Answer(pattern(1_000_000, 3)));
    lab.run(seconds(60), |lab| flow.step(lab));
    assert_eq!((flow.got.len(), flow.got == pattern(1_000_000, 3)), (1_000_000, true));
}

#[test]
fn a_refusal_is_passed_on_before_the_guest_sees_a_connection() {
    let mut lab = lab(3);
    lab.host.serve(V4, Script::Refuse);
    let handle = lab.guest.connect(at(V4));
    let mut was_open = false;
    lab.run(seconds(5), |lab| {
        was_open |= lab.guest.socket(handle).may_send();
        lab.guest.state(handle) == State::Closed
    });
    assert!(!was_open);
    assert_eq!(lab.event().end, End::Refused);
}

#[test]
fn the_guests_syn_is_answered_only_once_the_server_has_answered() {
    let mut lab = lab(4);
    lab.host.serve(V4, Script::Hesitate);
    let handle = lab.guest.connect(at(V4));
    lab.pass(seconds(5));
    assert_eq!(lab.guest.state(handle), State::SynSent);
    lab.host.set_script(0, Script::Swallow);
    lab.run(seconds(20), |lab| lab.guest.state(handle) == State::Established);
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let mut lab = lab(5);
    lab.host.serve(V4, Script::Hesitate);
    let handle = lab.guest.connect(at(V4));
    lab.run(seconds(60), |lab| lab.guest.state(handle) == State::Closed);
    assert_eq!(lab.event().end, End::TimedOut);
}

#[test]
fn a_server_that_breaks_off_breaks_off_the_guest() {
    let mut lab = lab(6);
    let mut flow = Exchange::new(&mut lab, V4, pattern(1000, 1));
    flow.is_closed = true;
    lab.run(seconds(5), |lab| {
        flow.step(lab);
        flow.got.len() == 1000
    });
    lab.host.close(0);
    // The guest writes on; the server is not there any more.
    lab.run(seconds(20), |lab| {
        lab.guest.write(flow.handle, b"more");
        lab.guest.state(flow.handle) == State::Closed
    });
    assert_eq!(lab.event().end, End::ResetByServer);
}

#[test]
fn a_guest_that_breaks_off_leaves_nothing() {
    let mut lab = lab(7);
    let mut flow = Exchange::new(&mut lab, V4, pattern(1000, 1));
    flow.is_closed = true;
    lab.run(seconds(5), |lab| {
        flow.step(lab);
        flow.got.len() == 1000
    });
    lab.guest.socket(flow.handle).abort();
    lab.run(seconds(5), |lab| !lab.events().is_empty());
    assert_eq!(lab.event().end, End::ResetByGuest);
    assert_eq!(lab.stack.counters().flows, 0);
    lab.run(seconds(5), |lab| {
        lab.host.step();
        lab.host.is_ended(0)
    });
}

#[test]
fn a_silent_connection_stays_and_a_guest_that_is_gone_does_not() {
    let mut lab = lab(15);
    lab.host.serve(V4, Script::Nothing);
    let handle = lab.guest.connect(at(V4));
    lab.run(seconds(5), |lab| lab.guest.state(handle) == State::Established);
    lab.pass(seconds(1000));
    assert_eq!(lab.guest.state(handle), State::Established);
    lab.faults.lost = 100;
    lab.host.set_script(0, Script::Send(pattern(1000, 1)));
    lab.run(seconds(200), |lab| !lab.events().is_empty());
    assert_eq!(lab.event().end, End::TimedOut);
}

#[test]
fn a_server_that_never_reads_stops_the_guest() {
    let mut lab = lab(8);
    lab.host.serve(V4, Script::Nothing);
    let handle = lab.guest.connect(at(V4));
    let bytes = pattern(64 << 10, 1);
    let mut sent = 0;
    lab.run(seconds(5), |lab| lab.guest.state(handle) == State::Established);
    for _ in 0..2000 {
        sent += lab.guest.write(handle, &bytes);
        lab.step();
    }
    // Our ring, the guest's own, and the socket's buffer.
    assert!((500_000..1_500_000).contains(&sent), "{sent}");
    lab.host.set_script(0, Script::Swallow);
    lab.run(seconds(60), |lab| lab.host.got(0).len() == sent);
}

#[test]
fn a_guest_that_never_reads_stops_the_server() {
    let mut lab = lab(9);
    let whole = pattern(3_000_000, 5);
    lab.host.serve(V4, Script::Send(whole.clone()));
    let handle = lab.guest.connect(at(V4));
    lab.pass(seconds(10));
    let event_count = lab.events().len();
    assert_eq!(event_count, 0, "the flow waits");
    let mut got = Vec::new();
    lab.run(seconds(600), |lab| {
        got.extend(lab.guest.read(handle));
        got.len() == whole.len()
    });
    assert!(got == whole);
}

#[test]
fn the_last_bytes_of_a_guest_that_closed_reach_a_slow_server() {
    let mut lab = lab(10);
    lab.host.serve(V4, Script::Nothing);
    let mut flow = Exchange::new(&mut lab, V4, pattern(700_000, 4));
    // The server ends first; then the guest's last acknowledgement closes its end with bytes still in the ring.
    lab.run(seconds(30), |lab| {
        flow.step(lab);
        flow.is_closed
    });
    lab.pass(seconds(15));
    lab.host.set_script(0, Script::Answer(Vec::new()));
    lab.run(seconds(100), |lab| lab.host.is_ended(0));
    assert!(lab.host.got(0) == flow.to_send);
}

#[test]
fn unknown_segments_are_answered_by_a_reset() {
    let mut lab = lab(11);
    lab.guest.send_raw(lab::guest::tcp(4000, V4, 77, 16));
    lab.run(seconds(1), |lab| !lab.seen.is_empty());
    let reset = &lab.seen[0][26..];
    assert_eq!(reset[20 + 13] & 4, 4);
    assert!(lab.host.dialled().is_empty());
}

#[test]
fn limits_are_kept_and_told() {
    let limits = Limits { flows: 3, half_open: 2, ..Limits::default() };
    let mut lab = Lab::new(Policy { limits, ..Policy::of(Mode::Egress) }, 12);
    lab.host.serve(V4, Script::Hesitate);
    for _ in 0..3 {
        lab.guest.connect(at(V4));
    }
    lab.run(seconds(5), |lab| !lab.events().is_empty());
    assert_eq!((lab.event().end, lab.host.dialled().len()), (End::TooManyHalfOpen, 2));
    lab.host.set_script(0, Script::Swallow);
    lab.host.set_script(1, Script::Swallow);
    lab.pass(seconds(2));
    lab.guest.connect(at("1.2.3.4:1"));
    lab.pass(seconds(2));
    lab.guest.connect(at("1.2.3.4:1"));
    lab.run(seconds(5), |lab| lab.events().len() == 2);
    assert_eq!(lab.events()[1].end, End::TooManyFlows);
}

#[test]
fn used_up_bytes_end_everything() {
    let limits = Limits { total_bytes: Some(50_000), ..Limits::default() };
    let mut lab = Lab::new(Policy { limits, ..Policy::of(Mode::Egress) }, 13);
    let mut flow = Exchange::new(&mut lab, V4, pattern(200_000, 1));
    lab.run(seconds(60), |lab| {
        flow.step(lab);
        lab.guest.state(flow.handle) == State::Closed
    });
    let event = lab.event();
    assert_eq!((event.end, event.sent_bytes + event.received_bytes), (End::BytesUsedUp, 50_000));
    assert!(
        event.text.ends_with("denied: the egress limit is used up; a higher egress limit would allow it"),
        "{}",
        event.text
    );
    let again = lab.guest.connect(at(V4));
    lab.run(seconds(5), |lab| lab.guest.state(again) == State::Closed);
    assert_eq!((lab.host.dialled().len(), lab.stack.counters().passed_bytes), (1, 50_000));
}

#[test]
fn a_limit_is_raised_and_lowered_while_flows_are_open() {
    let limited = |total| {
        let limits = Limits { total_bytes: Some(total), ..Limits::default() };
        Policy { limits, ..Policy::of(Mode::Egress) }
    };
    let mut lab = Lab::new(limited(50_000), 19);
    let mut flow = Exchange::new(&mut lab, V4, pattern(200_000, 1));
    lab.run(seconds(60), |lab| {
        flow.step(lab);
        lab.guest.state(flow.handle) == State::Closed
    });
    lab.stack.set_policy(limited(100_000));
    let open = lab.guest.connect(at(V4));
    lab.run(seconds(5), |lab| lab.guest.state(open) == State::Established);
    lab.guest.write(open, &pattern(1000, 2));
    lab.run(seconds(5), |lab| lab.guest.read(open).len() == 1000);
    assert_eq!(lab.stack.counters().passed_bytes, 52_000);
    // Nothing is under way that would make the stack look at the flow by itself.
    lab.pass(seconds(5));
    lab.stack.set_policy(limited(52_000));
    lab.run(seconds(5), |lab| lab.guest.state(open) == State::Closed);
    assert_eq!(lab.events().last().unwrap().end, End::BytesUsedUp);
}

#[test]
fn open_flows_are_told_with_what_passed_so_far() {
    let mut lab = lab(20);
    lab.host.serve("5.6.7.8:1", Script::Hesitate);
    let handle = lab.guest.connect(at(V4));
    lab.run(seconds(5), |lab| lab.guest.state(handle) == State::Established);
    lab.guest.write(handle, &pattern(1000, 2));
    lab.run(seconds(5), |lab| lab.guest.read(handle).len() == 1000);
    lab.guest.connect(at("5.6.7.8:1"));
    lab.pass(seconds(1));
    let open = lab.stack.open_flows(9);
    let seen: Vec<_> =
        open.flows.iter().map(|flow| (flow.state, flow.sent_bytes, flow.received_bytes)).collect();
    assert_eq!(seen, [(FlowState::Open, 1000, 1000), (FlowState::Connecting, 0, 0)]);
    assert_eq!(open.flows[0].text, format!("tcp to {V4}: open"));
    assert!(!open.truncated);
    let last = lab.stack.open_flows(1);
    assert_eq!((last.flows[0].destination, last.truncated), (at("5.6.7.8:1"), true));
    lab.guest.socket(handle).abort();
    lab.run(seconds(5), |lab| lab.events().len() == 1);
    assert_eq!(lab.stack.open_flows(9).flows.len(), 1);
}

#[test]
fn a_narrower_policy_ends_what_it_denies_and_nothing_else() {
    let mut lab = lab(14);
    let denied = lab.guest.connect(at(V4));
    let kept = lab.guest.connect(at(V6));
    lab.run(seconds(5), |lab| {
        [denied, kept].iter().all(|handle| lab.guest.state(*handle) == State::Established)
    });
    let deny = vec!["1.2.3.0/24".parse().unwrap()];
    lab.stack.set_policy(Policy { deny, ..Policy::of(Mode::Egress) });
    lab.run(seconds(5), |lab| lab.guest.state(denied) == State::Closed);
    assert_eq!((lab.event().end, lab.guest.state(kept)), (End::PolicyChanged, State::Established));
}

#[test]
fn downloads_of_both_families_come_in_super_packets() {
    for (to, kind) in [(V4, 1), (V6, 4)] {
        let mut lab = lab(16);
        lab.host.serve(to, Script::Send(pattern(400_000, 1)));
        let mut flow = Exchange::new(&mut lab, to, Vec::new());
        lab.run(seconds(60), |lab| flow.step(lab));
        assert!(flow.got == pattern(400_000, 1));
        let largest = lab.seen.iter().filter(|message| message[1] == kind).map(Vec::len).max().unwrap();
        assert!(largest > 20_000, "{to}: {largest}");
    }
}
