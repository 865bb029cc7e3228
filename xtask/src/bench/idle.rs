//! What a running machine takes while nothing happens in it: memory beside the guest's own, and processor time.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::table::{Bound, Table};
use super::workspaces::client::Client;
use crate::steps;

/// After a boot the guest still finishes things, and tells which of its memory is free.
const SETTLING: Duration = Duration::from_secs(10);
/// How long it is looked at.
const IDLE: Duration = Duration::from_secs(20);
/// Beside the guest's memory, without an emulator: pyro's own processes.
const MOST_MIB: f64 = 8.0;
/// Of that machine's processor time: no halted processor may run.
const MOST_MS_PER_S: f64 = 1.0;
/// Ticks of proc(5) `stat` in a second, on every Linux for x86-64.
const TICKS_PER_SECOND: f64 = 100.0;
/// The guest's memory where the emulator makes it, and how large it is where it has no name.
const MEMORY_NAME: &str = "memory-backend-memfd";
const MEMORY_MIB: u64 = 1024;

/// Measures the supervisor of one idle workspace with all its processes.
pub(super) fn measure(pyro: &Path, place: &Path, table: &mut Table) -> Result<()> {
    let client = Client::open(pyro, &place.join("idle"))?;
    let measured = steps::call("idle machine", || client.in_workspace(|_| measure_in(&client, table)));
    let closed = steps::call("delete the workspaces", || client.close());
    match (measured, closed) {
        (Err(error), Err(left)) => Err(error.context(format!("{left:#}"))),
        (measured, closed) => measured.and(closed),
    }
}

fn measure_in(client: &Client, table: &mut Table) -> Result<()> {
    std::thread::sleep(SETTLING);
    let processes = family(client.supervisor().context("the workspace has no supervisor")?)?;
    let is_emulated = processes.iter().any(|process| process.name.starts_with("qemu"));
    let bound = |most| if is_emulated { Bound::None } else { Bound::AtMost(most) };
    let before = processes.iter().map(Process::activity).collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    std::thread::sleep(IDLE);
    let seconds = started.elapsed().as_secs_f64();
    let after = processes.iter().map(Process::activity).collect::<Result<Vec<_>>>()?;
    let change = |of: fn(&Activity) -> u64| {
        let changes = after.iter().zip(&before).map(|(after, before)| of(after).saturating_sub(of(before)));
        changes.sum::<u64>() as f64 / seconds
    };
    let mut total = 0.0;
    for process in &processes {
        let mib = process.memory_kibibytes()? as f64 / 1024.0;
        table.add(&format!("idle machine, memory of {}", process.name), mib, "MiB", Bound::None);
        total += mib;
    }
    table.add("idle machine, memory beside the guest's", total, "MiB", bound(MOST_MIB));
    let busy = change(|activity| activity.ticks) * 1000.0 / TICKS_PER_SECOND;
    table.add("idle machine, processor time", busy, "ms/s", bound(MOST_MS_PER_S));
    table.add("idle machine, wake-ups", change(|activity| activity.wakeups), "1/s", Bound::None);
    Ok(())
}

struct Process {
    pid: u32,
    name: String,
}

/// What a process has done so far.
struct Activity {
    ticks: u64,
    wakeups: u64,
}

/// A process and all that come from it.
fn family(pid: u32) -> Result<Vec<Process>> {
    let name = read(pid, "comm")?.trim_end().to_owned();
    let mut members = vec![Process { pid, name }];
    for task in tasks(pid)? {
        let children = read_of_task(pid, task, "children")?.unwrap_or_default();
        for child in children.split_whitespace() {
            members.extend(family(child.parse().context("a process id")?)?);
        }
    }
    Ok(members)
}

fn tasks(pid: u32) -> Result<Vec<u32>> {
    let place = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&place).with_context(|| format!("cannot read {place}"))?;
    entries.map(|entry| entry?.file_name().to_string_lossy().parse().context("a thread id")).collect()
}

fn read(pid: u32, what: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{what}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}; root can"))
}

/// `None` when the thread has ended.
fn read_of_task(pid: u32, task: u32, what: &str) -> Result<Option<String>> {
    match read(pid, &format!("task/{task}/{what}")) {
        Err(_) if !tasks(pid)?.contains(&task) => Ok(None),
        read => read.map(Some),
    }
}

impl Process {
    fn memory_kibibytes(&self) -> Result<u64> {
        beside_guest_memory(&read(self.pid, "smaps")?)
    }

    fn activity(&self) -> Result<Activity> {
        let ticks = ticks(&read(self.pid, "stat")?).context("stat of an unknown form")?;
        let mut wakeups = 0;
        for task in tasks(self.pid)? {
            let Some(status) = read_of_task(self.pid, task, "status")? else { continue };
            wakeups += number(&status, "voluntary_ctxt_switches:").context("status of an unknown form")?;
        }
        Ok(Activity { ticks, wakeups })
    }
}

/// `Pss` of all mappings of proc(5) `smaps` but the guest's memory: what is shared counts for each in part.
fn beside_guest_memory(smaps: &str) -> Result<u64> {
    let (mut sum, mut is_guests) = (0, false);
    for line in smaps.lines() {
        if let Some(kibibytes) = number(line, "Pss:") {
            sum += if is_guests { 0 } else { kibibytes };
        } else if let Some(kibibytes) = number(line, "Size:") {
            is_guests |= kibibytes >= MEMORY_MIB << 10;
        } else if line.split(' ').next().is_some_and(|word| word.contains('-')) {
            is_guests = line.contains(MEMORY_NAME);
        }
    }
    match sum {
        0 => bail!("smaps tells of no memory"),
        sum => Ok(sum),
    }
}

/// User and system time: the 14th and 15th word of proc(5) `stat`, counted after the name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let words: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(words.get(11)?.parse::<u64>().ok()? + words.get(12)?.parse::<u64>().ok()?)
}

/// The number of the line that begins with `name`.
fn number(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_does_not_count() {
        let smaps = "\
55d0c0000000-55d0c0010000 r-xp 00000000 fe:00 1  /usr/bin/x-y\nSize:  64 kB\nRss:  64 kB\nPss:  32 kB\n\
7f0000000000-7f0010000000 rw-s 00000000 00:01 2  /memfd:memory-backend-memfd (deleted)\nSize:  262144 kB\nPss:  5000 kB\n\
7f1000000000-7f1040000000 rw-p 00000000 00:00 0 \nSize:  1048576 kB\nPss:  7000 kB\n\
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0  [stack]\nSize:  132 kB\nPss:  12 kB\nPss_Dirty:  12 kB\n";
        assert_eq!(beside_guest_memory(smaps).unwrap(), 44);
        assert!(beside_guest_memory("").is_err());
    }

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 40 2 0 0 20 0 1 0 5";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn a_process_comes_with_its_children() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let own = family(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        let own = own.unwrap();
        assert!(own.iter().any(|process| process.pid == child.id()));
        assert!(own[0].memory_kibibytes().unwrap() > 0);
        assert!(own[0].activity().unwrap().wakeups > 0);
    }
}
