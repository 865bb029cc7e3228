//! When the guest was entered and left, by the kernel's tracepoints (`Documentation/trace/ftrace.rst` of Linux).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Result;

const TRACING: &str = "/sys/kernel/tracing";
/// Room for a boot of a hundred thousand entries.
const BUFFER_KIB: &str = "32768";

/// A trace that is being written.
pub(super) struct Trace;

impl Trace {
    pub(super) fn start() -> Result<Self> {
        let set = |file: &str, value: &str| fs::write(Path::new(TRACING).join(file), value);
        set("trace_clock", "x86-tsc")?;
        set("buffer_size_kb", BUFFER_KIB)?;
        set("trace", "")?;
        set("events/kvm/kvm_entry/enable", "1")?;
        set("events/kvm/kvm_exit/enable", "1")?;
        set("tracing_on", "1")?;
        Ok(Self)
    }

    pub(super) fn stop(self) -> Result<String> {
        let set = |file: &str, value: &str| fs::write(Path::new(TRACING).join(file), value);
        set("tracing_on", "0")?;
        set("events/kvm/kvm_entry/enable", "0")?;
        set("events/kvm/kvm_exit/enable", "0")?;
        Ok(fs::read_to_string(Path::new(TRACING).join("trace"))?)
    }
}

/// What left the guest for one reason.
#[derive(Default)]
pub(super) struct Sum {
    pub(super) count: u64,
    /// From there to the next entry, in units of the host's counter.
    pub(super) outside: u64,
}

/// A boot.
#[derive(Default)]
pub(super) struct Summary {
    /// What the guest had between its entries and exits, in units of the host's counter. Each has also what the kernel
    /// does between its tracepoints and the guest: the shortest of all stays is taken for it and taken off.
    pub(super) guest: u64,
    pub(super) entries: u64,
    pub(super) reasons: BTreeMap<String, Sum>,
}

impl Summary {
    /// Everything before `end` of the host's counter.
    pub(super) fn of(text: &str, end: u64) -> Self {
        let mut summary = Self::default();
        let (mut entered, mut left) = (None, None);
        let mut shortest = u64::MAX;
        for event in text.lines().filter_map(Event::parse).take_while(|event| event.at < end) {
            match event.reason {
                None => {
                    if let Some((at, reason)) = left.take() {
                        let sum: &mut Sum = summary.reasons.entry(reason).or_default();
                        sum.count += 1;
                        sum.outside += event.at - at;
                    }
                    entered = Some(event.at);
                }
                Some(reason) => {
                    if let Some(at) = entered.take() {
                        shortest = shortest.min(event.at - at);
                        summary.guest += event.at - at;
                        summary.entries += 1;
                    }
                    left = Some((event.at, reason));
                }
            }
        }
        // The last stay, in which init began.
        if let Some(at) = entered {
            summary.guest += end - at;
            summary.entries += 1;
        }
        summary.guest -= summary.entries * shortest.min(summary.guest / summary.entries.max(1));
        println!("# the shortest of {} stays: {shortest}", summary.entries);
        summary
    }
}

/// An entry, or an exit with its reason.
struct Event {
    at: u64,
    reason: Option<String>,
}

impl Event {
    fn parse(line: &str) -> Option<Self> {
        let (before, after, is_exit) = match line.split_once(": kvm_exit: ") {
            Some((before, after)) => (before, after, true),
            None => {
                let (before, after) = line.split_once(": kvm_entry: ")?;
                (before, after, false)
            }
        };
        let at = before.split_whitespace().next_back()?.parse().ok()?;
        let reason = match is_exit {
            false => None,
            true => Some(reason(after)),
        };
        Some(Self { at, reason })
    }
}

/// Where both have their devices.
const DEVICES: u64 = 0xc000_0000;
/// Where Linux wants its kernel, and where one of the usual size ends.
const KERNEL: u64 = 16 << 20;
const KERNEL_END: u64 = 36 << 20;

/// SVM's word for the reason, and the port or the place where it is one (AMD's manual, volume 2, 15.10.2 and 15.25.6).
fn reason(text: &str) -> String {
    let word = |name: &str| {
        let mut words = text.split_whitespace();
        words.find(|word| *word == name)?;
        words.next()
    };
    let name = word("reason").unwrap_or("?");
    let number = |name| u64::from_str_radix(word(name)?.trim_start_matches("0x"), 16).ok();
    match (name, number("info1"), number("info2")) {
        ("io", Some(information), _) => format!("io port {:#x}", information >> 16 & 0xffff),
        ("npf", _, Some(DEVICES..)) => "npf at a device".to_owned(),
        ("npf", _, Some(KERNEL..KERNEL_END)) => "npf in the kernel".to_owned(),
        ("npf", _, Some(_)) => "npf elsewhere in memory".to_owned(),
        _ => name.to_owned(),
    }
}
