//! PID 1 of every guest: mounts the root disk, moves into it, and serves the host.

mod accounts;
mod apply;
mod authorities;
mod boot;
mod connection;
mod console;
mod exec;
mod fetch;
mod files;
mod forward;
mod freeze;
#[cfg(test)]
mod harness;
mod limits;
mod metrics;
mod network;
mod paths;
mod ready;
mod reaper;
mod records;
mod secrets;
mod serve;
mod staging;
mod sync;
mod sys;
mod transaction;
mod tree;
mod walk;

fn main() {
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        console::say("error: this is PID 1 of a guest; it has no use elsewhere");
        std::process::exit(2);
    }
    boot::run();
}
