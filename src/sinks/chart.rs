//! Series over days as SVG: one panel per metric, each with its own scale. Pure.
//!
//! What the eye should find first is the last value; then how far it is from the usual one. Weekends are shaded because most
//! metrics have weeks. Gaps stay gaps. Texts are escaped and fitted; nothing is loaded from anywhere. Inside the report page the
//! colours come from the page's style ([`STYLE`]); [`svg`] makes a file that stands alone, with the style inside.

use std::fmt::Write as _;

use jiff::civil::Date;

use super::text;
use crate::domain::report::{Chart, Series};

/// Panels beyond this many are left out, and that is said.
pub const MOST_PANELS: usize = 12;

/// The size of one panel in CSS pixels; drawn as a `viewBox`, so it scales.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    pub width: f64,
    pub height: f64,
}

impl Size {
    /// Readable on a phone at its natural size, two beside each other on a desk.
    pub const PANEL: Self = Self { width: 380.0, height: 190.0 };
}

/// Colours and strokes of a panel, light and dark. Part of the page's one style sheet.
pub const STYLE: &str = include_str!("chart.css");

/// One metric drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    pub metric: String,
    pub flagged: bool,
    pub svg: String,
}

/// The panels of a chart, flagged ones first, and how many were left out.
pub fn panels(chart: &Chart, size: Size) -> (Vec<Panel>, usize) {
    let mut series: Vec<&Series> = chart.series.iter().collect();
    series.sort_by_key(|series| !series.flagged);
    let left_out = series.len().saturating_sub(MOST_PANELS);
    series.truncate(MOST_PANELS);
    let panel = |series: &Series| Panel {
        metric: text::line(&series.metric),
        flagged: series.flagged,
        svg: panel(&chart.days, series, size, ""),
    };
    (series.into_iter().map(panel).collect(), left_out)
}

/// The whole chart as one file: panels in two columns (one, if `size` is narrow), with its style inside.
pub fn svg(chart: &Chart, size: Size) -> String {
    svg_in(chart, size, STYLE)
}

/// The whole chart in another style than the page's.
pub fn svg_in(chart: &Chart, size: Size, style: &str) -> String {
    let (margin, gap) = (16.0, 22.0);
    let inner = size.width - 2.0 * margin;
    let columns = if inner >= 2.0 * 320.0 + gap && chart.series.len() > 1 { 2 } else { 1 };
    let one = Size {
        width: (inner - gap * (columns as f64 - 1.0)) / columns as f64,
        height: size.height.clamp(120.0, Size::PANEL.height),
    };
    let mut series: Vec<&Series> = chart.series.iter().collect();
    series.sort_by_key(|series| !series.flagged);
    let left_out = series.len().saturating_sub(MOST_PANELS);
    series.truncate(MOST_PANELS);
    let rows = series.len().div_ceil(columns).max(1);
    let note = if left_out > 0 { 20.0 } else { 0.0 };
    let height = margin + 34.0 + rows as f64 * (one.height + gap) - gap + margin + note;
    let mut out = String::new();
    let title = if chart.title.is_empty() { "Series" } else { &chart.title };
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" class="nc-chart" role="img"><title>{t}</title><style>{style}</style><rect class="nc-paper" width="{w}" height="{h}"/><text class="nc-title" x="{margin}" y="{y}">{t}</text>"#,
        w = short(size.width),
        h = short(height),
        t = escape(title),
        y = margin + 14.0,
    );
    for (index, series) in series.into_iter().enumerate() {
        let x = margin + (index % columns) as f64 * (one.width + gap);
        let y = margin + 34.0 + (index / columns) as f64 * (one.height + gap);
        out.push_str(&panel(&chart.days, series, one, &format!(r#" x="{}" y="{}""#, short(x), short(y))));
    }
    if left_out > 0 {
        let note = format!("{} not shown", text::counted(left_out as u64, "more metric"));
        let _ = write!(out, r#"<text class="nc-axis" x="{margin}" y="{}">{note}</text>"#, short(height - margin + 4.0));
    }
    out.push_str("</svg>");
    out
}

/// A scale that covers the values with a little air and ends at round numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    fn over(values: impl Iterator<Item = f64>, from_zero: bool) -> Self {
        let (mut low, mut high) =
            values.filter(|v| v.is_finite()).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // Zero belongs to the picture when it is near: a fall to half must not look like a fall to nothing.
        if from_zero || (low > 0.0 && low < high * 0.6) {
            low = low.min(0.0);
        }
        if from_zero || (high < 0.0 && high > low * 0.6) {
            high = high.max(0.0);
        }
        if high - low <= f64::EPSILON * high.abs().max(low.abs()) {
            let air = if high == 0.0 { 1.0 } else { high.abs() * 0.1 };
            let sign = low >= 0.0;
            (low, high) = (low - air, high + air);
            if sign {
                low = low.max(0.0);
            }
        }
        let rough = (high - low) / 3.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
        let step = if step.is_normal() { step } else { 1.0 };
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, step }
    }

    fn ticks(&self) -> Vec<f64> {
        let n = ((self.high - self.low) / self.step).round().clamp(1.0, 6.0) as usize;
        (0..=n).map(|i| self.low + i as f64 * self.step).collect()
    }

    fn at(&self, value: f64, top: f64, bottom: f64) -> f64 {
        bottom - (value - self.low) / (self.high - self.low) * (bottom - top)
    }
}

fn panel(days: &[String], series: &Series, size: Size, place: &str) -> String {
    let count = days.len().min(series.values.len());
    let values: Vec<Option<f64>> = series.values[..count].iter().map(|v| v.filter(|v| v.is_finite())).collect();
    let bars = count <= 8 && count > 1;
    let known = values.iter().flatten().copied();
    let scale = Scale::over(known.chain(series.usual), bars);
    let (left, right, top, bottom) = (2.0, size.width - 46.0, 46.0, size.height - 24.0);
    let x = |index: usize| match (count, bars) {
        (0 | 1, _) => (left + right) / 2.0,
        (n, true) => left + (index as f64 + 0.5) / n as f64 * (right - left),
        (n, false) => left + 4.0 + index as f64 / (n - 1) as f64 * (right - left - 10.0),
    };
    let y = |value: f64| scale.at(value, top, bottom);
    let last = values.iter().rposition(Option::is_some);
    let tone = if series.flagged { " nc-flagged" } else { "" };
    let mut out = String::new();
    let _ = write!(
        out,
        r#"<svg{place} class="nc-panel{tone}" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img"><title>{}</title><desc>{}</desc>"#,
        escape(&series.metric),
        escape(&describe(days, &values, series)),
        w = short(size.width),
        h = short(size.height),
    );
    weekends(&mut out, &days[..count], &x, (top, bottom), (left, right));
    for tick in scale.ticks() {
        let at = y(tick);
        let class = if tick.abs() < scale.step / 1e6 { "nc-zero" } else { "nc-grid" };
        let _ = write!(out, r#"<path class="{class}" d="M{} {at1}H{}"/>"#, short(left), short(right), at1 = short(at));
        let label = if tick.abs() < scale.step / 1e6 { "0".to_owned() } else { text::compact(tick) };
        let _ =
            write!(out, r#"<text class="nc-axis" x="{}" y="{}">{label}</text>"#, short(right + 6.0), short(at + 3.5));
    }
    if bars {
        let width = ((right - left) / count as f64 * 0.62).min(40.0);
        for (index, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let (a, b) = (y(0.0f64.clamp(scale.low, scale.high)), y(*value));
            let class = if Some(index) == last { "nc-bar nc-last" } else { "nc-bar" };
            let _ = write!(
                out,
                r#"<rect class="{class}" x="{}" y="{}" width="{}" height="{}" rx="2"/>"#,
                short(x(index) - width / 2.0),
                short(a.min(b)),
                short(width),
                short((a - b).abs().max(1.0))
            );
        }
    } else {
        line(&mut out, &values, &x, &y, y(0.0f64.clamp(scale.low, scale.high)));
    }
    if let Some(usual) = series.usual.filter(|v| v.is_finite()) {
        let at = y(usual);
        let _ = write!(out, r#"<path class="nc-usual" d="M{} {}H{}"/>"#, short(left), short(at), short(right));
    }
    if let Some(index) = last
        && let Some(value) = values[index]
    {
        if let Some(usual) = series.usual.filter(|v| v.is_finite() && !bars) {
            let _ = write!(
                out,
                r#"<path class="nc-gap" d="M{} {}V{}"/>"#,
                short(x(index)),
                short(y(usual)),
                short(y(value))
            );
        }
        if !bars {
            let _ = write!(
                out,
                r#"<circle class="nc-halo" cx="{cx}" cy="{cy}" r="7"/><circle class="nc-dot" cx="{cx}" cy="{cy}" r="3.5"/>"#,
                cx = short(x(index)),
                cy = short(y(value))
            );
        }
    }
    head(&mut out, series, last.and_then(|index| values[index]), size);
    dates(&mut out, &days[..count], &x, size.height - 6.0, bars);
    out.push_str("</svg>");
    out
}

/// Metric, last value, and how far from the usual.
fn head(out: &mut String, series: &Series, last: Option<f64>, size: Size) {
    let value = last.map_or_else(|| "no value".to_owned(), text::number);
    // A character of the value is about 11 wide, one of the name about 7.
    let room = (size.width - 46.0 - 11.0 * text::width(&value) as f64 - 12.0) / 6.6;
    let metric = text::fit(&text::line(&series.metric), room.max(6.0) as usize);
    let flag = if series.flagged { r#"<tspan class="nc-flag">⚑ </tspan>"# } else { "" };
    let _ = write!(out, r#"<text class="nc-name" x="2" y="15">{flag}{}</text>"#, escape(&metric));
    let _ = write!(out, r#"<text class="nc-value" x="{}" y="18">{}</text>"#, short(size.width - 46.0), escape(&value));
    if let (Some(usual), Some(last)) = (series.usual.filter(|v| v.is_finite()), last) {
        let change = match usual {
            u if u.abs() > f64::EPSILON => text::percent((last - u) / u.abs() * 100.0),
            _ => text::signed(last - usual),
        };
        let _ = write!(
            out,
            r#"<text class="nc-note" x="{}" y="34"><tspan class="nc-change">{}</tspan> on the usual {}</text>"#,
            short(size.width - 46.0),
            escape(&change),
            escape(&text::number(usual))
        );
    }
}

/// The line with its area down to (or up to) zero, broken at gaps; a lone point between gaps is a small dot.
fn line(out: &mut String, values: &[Option<f64>], x: &dyn Fn(usize) -> f64, y: &dyn Fn(f64) -> f64, base: f64) {
    let mut from = 0;
    while from < values.len() {
        if values[from].is_none() {
            from += 1;
            continue;
        }
        let run = values[from..].iter().take_while(|v| v.is_some()).count();
        let points: Vec<(f64, f64)> =
            (from..from + run).filter_map(|index| Some((x(index), y(values[index]?)))).collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{} {}", short(*x), short(*y))).collect();
        if let (Some(first), Some(end)) = (points.first(), points.last()) {
            if run == 1 {
                let _ =
                    write!(out, r#"<circle class="nc-lone" cx="{}" cy="{}" r="2"/>"#, short(first.0), short(first.1));
            } else {
                let path = path.join("L");
                let _ = write!(
                    out,
                    r#"<path class="nc-area" d="M{path}L{} {b}L{} {b}Z"/><path class="nc-line" d="M{path}"/>"#,
                    short(end.0),
                    short(first.0),
                    b = short(base)
                );
            }
        }
        from += run;
    }
}

fn weekends(
    out: &mut String,
    days: &[String],
    x: &dyn Fn(usize) -> f64,
    (top, bottom): (f64, f64),
    (left, right): (f64, f64),
) {
    if days.len() < 9 {
        return;
    }
    let half = (x(1) - x(0)) / 2.0;
    for (index, day) in days.iter().enumerate() {
        if day.parse::<Date>().is_ok_and(|date| date.weekday().to_monday_zero_offset() > 4) {
            let from = (x(index) - half).max(left);
            let to = (x(index) + half).min(right);
            let _ = write!(
                out,
                r#"<rect class="nc-weekend" x="{}" y="{}" width="{}" height="{}"/>"#,
                short(from),
                short(top - 4.0),
                short(to - from),
                short(bottom - top + 4.0)
            );
        }
    }
}

/// First day, last day, and some between where there is room.
fn dates(out: &mut String, days: &[String], x: &dyn Fn(usize) -> f64, y: f64, bars: bool) {
    let label = |day: &str| {
        day.parse::<Date>().map_or_else(|_| text::fit(&text::line(day), 8), |d| d.strftime("%-d %b").to_string())
    };
    let shown: Vec<usize> = match days.len() {
        0 => Vec::new(),
        1 => vec![0],
        n if bars => (0..n).collect(),
        n => (0..4).map(|i| i * (n - 1) / 3).collect(),
    };
    for (place, index) in shown.iter().enumerate() {
        let anchor = match place {
            _ if bars || shown.len() == 1 => "nc-middle",
            0 => "nc-start",
            place if place + 1 == shown.len() => "nc-end",
            _ => "nc-middle",
        };
        let _ = write!(
            out,
            r#"<text class="nc-day {anchor}" x="{}" y="{}">{}</text>"#,
            short(x(*index)),
            short(y),
            escape(&label(&days[*index]))
        );
    }
}

/// The whole chart in words, the flagged metrics first.
pub fn words(chart: &Chart) -> String {
    let mut series: Vec<&Series> = chart.series.iter().collect();
    series.sort_by_key(|series| !series.flagged);
    let told = series.iter().take(MOST_PANELS).map(|series| {
        let count = chart.days.len().min(series.values.len());
        format!("{}: {}", text::line(&series.metric), describe(&chart.days, &series.values[..count], series))
    });
    told.collect::<Vec<_>>().join(". ")
}

/// The picture in words, for those who do not see it.
fn describe(days: &[String], values: &[Option<f64>], series: &Series) -> String {
    let known: Vec<f64> = values.iter().flatten().copied().collect();
    let (Some(first), Some(end)) = (days.first(), days.last()) else { return "no days".into() };
    let Some(last) = known.last() else { return format!("no values from {first} to {end}") };
    let (low, high) = known.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let usual = series.usual.map(|usual| format!(", usual {}", text::number(usual))).unwrap_or_default();
    let flagged = if series.flagged { ", flagged" } else { "" };
    let gaps = values.len() - known.len();
    let gaps =
        if gaps > 0 { format!(", {} without a value", text::counted(gaps as u64, "day")) } else { String::new() };
    format!(
        "from {first} to {end}: last {}{usual}{flagged}; between {} and {}{gaps}",
        text::number(*last),
        text::number(low),
        text::number(high)
    )
}

/// A coordinate with one decimal at most.
fn short(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    if rounded == 0.0 { "0".into() } else { format!("{rounded}") }
}

/// Text for XML.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text::line(text).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::sample;

    fn one(values: &[Option<f64>], usual: Option<f64>) -> String {
        let days = (1..=values.len()).map(|d| format!("2026-11-{d:02}")).collect();
        let series = vec![Series { metric: "m<x>&\"".into(), values: values.to_vec(), usual, flagged: true }];
        svg(&Chart { title: "t".into(), days, series }, Size::PANEL)
    }

    #[test]
    fn any_series_can_be_drawn_and_no_coordinate_is_lost() {
        let big = vec![Some(1e300), Some(-1e300), Some(0.0)];
        let cases: [Vec<Option<f64>>; 9] = [
            vec![],
            vec![None],
            vec![Some(5.0)],
            vec![Some(0.0); 30],
            vec![Some(7.25); 30],
            vec![Some(-3.0), None, Some(-9.0), Some(4.0)],
            [vec![None; 5], vec![Some(1.0)], vec![None; 5], vec![Some(f64::NAN), Some(2.0), Some(f64::INFINITY)]]
                .concat(),
            big,
            (0..20).map(|i| Some(f64::from(i) * 1e-9)).collect(),
        ];
        for values in &cases {
            for usual in [None, Some(0.0), Some(-12.5), Some(f64::NAN)] {
                let drawn = one(values, usual);
                for bad in ["NaN", "inf", "m<x>"] {
                    assert!(!drawn.contains(bad), "{bad} in {drawn}");
                }
                assert_eq!(drawn.matches("<svg").count(), drawn.matches("</svg>").count());
            }
        }
    }

    #[test]
    fn gaps_break_the_line_and_flagged_metrics_come_first() {
        let values: Vec<Option<f64>> = (0..20).map(|i| (i != 9 && i != 11).then(|| f64::from(i))).collect();
        let drawn = one(&values, Some(3.0));
        assert_eq!((drawn.matches("nc-line\"").count(), drawn.matches("nc-lone\"").count()), (2, 1));
        let (panels, left_out) = panels(&sample::chart(28), Size::PANEL);
        let names: Vec<&str> = panels.iter().map(|p| p.metric.as_str()).collect();
        assert_eq!(names, ["signups.signups", "checkout.errors", "signups.activated", "checkout.refund_balance_eur"]);
        assert_eq!(left_out, 0);
        let many = Chart { series: vec![Series::default(); 15], days: vec![], title: String::new() };
        assert!(svg(&many, Size { width: 800.0, height: 180.0 }).contains("3 more metrics not shown"));
    }

    #[test]
    fn scales_end_at_round_numbers() {
        let over = |values: &[f64], bars| Scale::over(values.iter().copied(), bars);
        assert_eq!(over(&[980.0, 1204.0], false).ticks(), [900.0, 1000.0, 1100.0, 1200.0, 1300.0]);
        assert_eq!(over(&[10.0, 130.0], false).ticks(), [0.0, 50.0, 100.0, 150.0]);
        assert_eq!(over(&[5.0, 9.0], true).ticks(), [0.0, 5.0, 10.0]);
        assert_eq!(over(&[0.0, 0.0], false).ticks(), [0.0, 0.5, 1.0]);
    }
}
