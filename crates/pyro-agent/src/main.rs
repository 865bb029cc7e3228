//! PID 1 of every guest: mounts the root disk, moves into it, and serves the host.

mod accounts;
mod boot;
mod connection;
mod console;
mod exec;
mod limits;
mod metrics;
mod reaper;
mod serve;
mod sys;
mod tree;

fn main() {
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        console::say("error: this is PID 1 of a guest; it has no use elsewhere");
        std::process::exit(2);
    }
    boot::run();
}
