//! A look at the guest.

use std::io;

use pyro_agent::wire::Metrics;

/// Reads the kernel's figures.
pub(crate) fn read() -> io::Result<Metrics> {
    let system = rustix::system::sysinfo();
    let unit = u64::from(system.mem_unit);
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    Ok(Metrics {
        mem_total_bytes: system.totalram * unit,
        mem_available_bytes: available(&meminfo).unwrap_or(system.freeram * unit),
        // Fixed point with 16 bits after the point.
        load_1m: system.loads[0] as f64 / 65536.0,
        uptime_s: {
            let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            uptime.tv_sec as f64 + uptime.tv_nsec as f64 / 1e9
        },
    })
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
