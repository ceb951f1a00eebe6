//! One table for all figures.

use std::time::Duration;

/// A line: what was measured, what is to be reached, and the floor measured in the same run.
pub struct Line {
    pub name: &'static str,
    pub figure: f64,
    pub unit: &'static str,
    pub bar: Bar,
    /// The same work at its least: what it is, and its figure in the same unit.
    pub floor: Option<(&'static str, f64)>,
}

#[derive(Clone, Copy)]
pub enum Bar {
    AtMost(f64),
    AtLeast(f64),
    /// A part of another figure, shown to understand it.
    None,
}

pub fn print(lines: &[Line]) {
    let mut rows = vec![[
        "figure".to_owned(),
        "measured".into(),
        "to reach".into(),
        "floor".into(),
        "× floor".into(),
        String::new(),
    ]];
    for line in lines {
        let unit = line.unit;
        let bar = match line.bar {
            Bar::AtMost(most) => format!("≤ {} {unit}", short(most)),
            Bar::AtLeast(least) => format!("≥ {} {unit}", short(least)),
            Bar::None => String::new(),
        };
        let (floor, ratio, what) = match line.floor {
            Some((what, floor)) => (format!("{} {unit}", short(floor)), format!("{:.2}", line.figure / floor), what),
            None => (String::new(), String::new(), ""),
        };
        rows.push([line.name.into(), format!("{} {unit}", short(line.figure)), bar, floor, ratio, what.into()]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &rows {
        let pad = |column: usize| " ".repeat(widths[column] - row[column].chars().count());
        println!(
            "{}{}  {}{}  {}{}  {}{}  {}{}  {}",
            row[0],
            pad(0),
            pad(1),
            row[1],
            pad(2),
            row[2],
            pad(3),
            row[3],
            pad(4),
            row[4],
            row[5]
        );
    }
}

/// Three significant digits, or all of those before the point.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => {
            let digits = format!("{value:.0}");
            let mut out = String::new();
            for (i, c) in digits.chars().enumerate() {
                if i > 0 && (digits.len() - i) % 3 == 0 && c != '-' {
                    out.push(',');
                }
                out.push(c);
            }
            out
        }
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
