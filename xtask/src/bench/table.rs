//! Figures beside their targets.

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    None,
}

/// Rows in the order they were measured.
pub(super) struct Table {
    machine: String,
    rows: Vec<[String; 4]>,
}

impl Table {
    pub(super) fn new(machine: String) -> Self {
        Self { machine, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, name: &str, figure: f64, unit: &str, bound: Bound) {
        let (target, met) = match bound {
            Bound::AtMost(most) => (format!("<= {most} {unit}"), figure <= most),
            Bound::AtLeast(least) => (format!(">= {least} {unit}"), figure >= least),
            Bound::None => (String::new(), true),
        };
        let verdict = match bound {
            Bound::None => "",
            _ if met => "met",
            _ => "MISSED",
        };
        let figure =
            if figure < 100.0 { format!("{figure:.2} {unit}") } else { format!("{figure:.0} {unit}") };
        self.rows.push([
            name.to_owned(),
            figure.trim().to_owned(),
            target.trim().to_owned(),
            verdict.to_owned(),
        ]);
    }

    /// A row for what could not be measured.
    pub(super) fn missing(&mut self, name: &str, reason: &str) {
        self.rows.push([name.to_owned(), "-".to_owned(), reason.to_owned(), String::new()]);
    }

    /// The machine and an aligned Markdown table.
    pub(super) fn lines(&self) -> Vec<String> {
        let head = ["figure", "measured", "target", ""].map(str::to_owned);
        let all = || std::iter::once(&head).chain(&self.rows);
        let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths = [width(0), width(1), width(2), width(3)];
        let row = |row: &[String; 4]| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
        };
        let rule = format!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
        let mut lines = vec![self.machine.clone(), String::new(), row(&head), rule];
        lines.extend(self.rows.iter().map(row));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_judged_and_aligned() {
        let mut table = Table::new("a machine".into());
        table.add("start", 5.0, "ms", Bound::AtMost(10.0));
        table.add("stream", 64.0, "MiB/s", Bound::AtLeast(80.0));
        table.add("bare", 750.4, "ms", Bound::None);
        table.missing("disk", "later");
        assert_eq!(
            table.lines(),
            [
                "a machine",
                "",
                "| figure | measured    | target      |        |",
                "|--------|-------------|-------------|--------|",
                "| start  | 5.00 ms     | <= 10 ms    | met    |",
                "| stream | 64.00 MiB/s | >= 80 MiB/s | MISSED |",
                "| bare   | 750 ms      |             |        |",
                "| disk   | -           | later       |        |",
            ]
        );
    }
}
