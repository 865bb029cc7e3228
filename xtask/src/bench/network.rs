//! The network stack beside pasta: the same client, the same servers, one run.

use anyhow::{Context, Result};

use super::table::{Bound, Table};
use crate::{output, setup, steps};

const STACK: &str = "stack";
const PASTA: &str = "pasta";

/// One figure that the measuring program printed.
#[derive(Debug, PartialEq)]
struct Figure<'a> {
    stack: &'a str,
    name: &'a str,
    unit: &'a str,
    value: f64,
}

/// Measures both and adds each figure with its target, where it has one.
pub(super) fn measure(table: &mut Table) -> Result<()> {
    if !setup::is_root() {
        table.missing("network", "needs root for a network namespace with a TAP device");
        return Ok(());
    }
    let cargo = ["run", "--release", "--quiet", "--package", "pyro-net", "--example", "network_speed"];
    output::step("network beside pasta");
    let text = steps::read(&mut steps::cargo(&cargo))?;
    let figures: Vec<Figure<'_>> = text
        .lines()
        .map(|line| parse(line).with_context(|| format!("no figure: {line}")))
        .collect::<Result<_>>()?;
    let value = |stack: &str, name: &str| {
        figures.iter().find(|figure| figure.stack == stack && figure.name == name).map(|figure| figure.value)
    };
    for figure in figures.iter().filter(|figure| figure.stack == STACK) {
        let without_idle = figure.name.split(", 2000 idle").next().and_then(|name| value(STACK, name));
        let bound = bound(figure, value(PASTA, figure.name), without_idle);
        table.add(&format!("network, {}", figure.name), figure.value, figure.unit, bound);
        if let Some(theirs) = value(PASTA, figure.name) {
            table.add("  the same through pasta", theirs, figure.unit, Bound::None);
        }
    }
    if figures.iter().all(|figure| figure.stack != PASTA) {
        table.missing("network, pasta", "did not run");
    }
    Ok(())
}

/// `STACK: NAME`, unit and figure, tabs between them.
fn parse(line: &str) -> Option<Figure<'_>> {
    let mut fields = line.split('\t');
    let (stack, name) = fields.next()?.split_once(": ")?;
    Some(Figure { stack, name, unit: fields.next()?, value: fields.next()?.parse().ok()? })
}

/// The targets are absolute where a guest would feel it, else in parts of pasta's figure or of the one without idle
/// flows, for machines differ.
fn bound(figure: &Figure<'_>, pasta: Option<f64>, without_idle: Option<f64>) -> Bound {
    match (figure.name, figure.name.ends_with("idle"), without_idle, pasta) {
        ("guest to host, 1 flows", ..) => Bound::AtLeast(5.0),
        ("host to guest, 1 flows", _, _, Some(pasta)) => Bound::AtLeast(rounded(0.8 * pasta)),
        ("connect, ask, close", ..) => Bound::AtLeast(2500.0),
        ("round trip, median", _, _, Some(pasta)) => Bound::AtMost(rounded(1.1 * pasta)),
        (name, true, Some(without), _) if name.contains(" flows") => Bound::AtLeast(rounded(0.9 * without)),
        _ => Bound::None,
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read() {
        let figure = parse("stack: guest to host, 1 flows, 2000 idle\tGbit/s\t4.5").unwrap();
        assert_eq!((figure.stack, figure.unit, figure.value), (STACK, "Gbit/s", 4.5));
        assert_eq!(figure.name, "guest to host, 1 flows, 2000 idle");
        assert_eq!(parse("anything else"), None);
    }

    #[test]
    fn idle_flows_are_held_against_none() {
        let figure =
            Figure { stack: STACK, name: "guest to host, 1 flows, 2000 idle", unit: "Gbit/s", value: 4.0 };
        assert!(matches!(bound(&figure, None, Some(10.0)), Bound::AtLeast(least) if least == 9.0));
    }
}
