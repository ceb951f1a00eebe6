//! A chart as a picture, for places that show no SVG. Pure.
//!
//! Light, at twice its size, with fonts of our own, so that it looks alike on every machine and reads nothing from it.

use std::sync::{Arc, OnceLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use super::chart::{self, Size};
use super::text;
use crate::domain::report::Chart;

/// Pixels per unit.
const SCALE: f32 = 2.0;
/// A phone shows one column of panels readably; on a desk two stand beside each other.
const ONE: Size = Size { width: 420.0, height: 190.0 };
const TWO: Size = Size { width: 760.0, height: 190.0 };
/// The picture in words, in characters.
const WORDS: usize = 900;

/// The chart's style without variables, which the renderer does not know.
const STYLE: &str = include_str!("chart_print.css");
const FONTS: [&[u8]; 3] = [
    include_bytes!("fonts/Inter-Regular.otf"),
    include_bytes!("fonts/Inter-SemiBold.otf"),
    include_bytes!("fonts/DejaVuSans-Marks.ttf"),
];

/// A picture, and what it shows in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Png {
    pub bytes: Vec<u8>,
    pub words: String,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ChartError(String);

/// Draws the chart.
pub fn render(chart: &Chart) -> Result<Png, ChartError> {
    let size = if chart.series.len() > 2 { TWO } else { ONE };
    let svg = chart::svg_in(chart, size, STYLE);
    let options = Options { font_family: "Inter".into(), fontdb: fonts(), ..Options::default() };
    let wrong = |what: &str, why: String| ChartError(format!("{what}: {why}"));
    let tree = Tree::from_str(&svg, &options).map_err(|error| wrong("the drawing", error.to_string()))?;
    let scaled = tree.size().to_int_size().scale_by(SCALE).ok_or_else(|| ChartError("it has no size".into()))?;
    let pixmap = Pixmap::new(scaled.width(), scaled.height());
    let mut pixmap = pixmap.ok_or_else(|| ChartError("it is too large".into()))?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixmap.as_mut());
    let bytes = pixmap.encode_png().map_err(|error| wrong("the picture", error.to_string()))?;
    Ok(Png { bytes, words: text::fit(&chart::words(chart), WORDS) })
}

fn fonts() -> Arc<fontdb::Database> {
    static KNOWN: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    let load = || {
        let mut fonts = fontdb::Database::new();
        FONTS.iter().for_each(|font| fonts.load_font_data(font.to_vec()));
        fonts.set_sans_serif_family("Inter");
        Arc::new(fonts)
    };
    KNOWN.get_or_init(load).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::env::process_variable;
    use crate::sinks::sample;

    fn drawn(body: &str) -> Vec<u8> {
        let svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><style>{STYLE}</style>{body}</svg>"#
        );
        let options = Options { font_family: "Inter".into(), fontdb: fonts(), ..Options::default() };
        let tree = Tree::from_str(&svg, &options).unwrap();
        let mut pixmap = Pixmap::new(40, 40).unwrap();
        resvg::render(&tree, Transform::identity(), &mut pixmap.as_mut());
        pixmap.data().to_vec()
    }

    #[test]
    fn the_fonts_have_every_sign_that_a_chart_may_need() {
        let text = |c: char| drawn(&format!(r#"<text x="4" y="30" font-size="24">{c}</text>"#));
        let (nothing, missing) = (text(' '), text('一'));
        for c in "0123456789±−+%$€…–äöüßÄÖÜéñçłšžÅøαβγДж⚑≤≥≈→×".chars() {
            let picture = text(c);
            assert!(picture != nothing && picture != missing, "{c}");
        }
    }

    #[test]
    fn the_style_of_the_picture_knows_every_class_of_the_pages() {
        let classes = |css: &str| {
            let found = css.split(['.', ' ', '{', ',', '}']).filter(|word| word.starts_with("nc-"));
            found.map(str::to_owned).collect::<std::collections::BTreeSet<String>>()
        };
        let shapes = ["nc-chart", "nc-panel", "nc-flagged"].map(str::to_owned);
        let (page, own) = (classes(chart::STYLE), classes(STYLE));
        let missing: Vec<&String> = page.difference(&own).filter(|class| !shapes.contains(class)).collect();
        assert!(missing.is_empty() && !STYLE.contains("var("), "{missing:?}");
    }

    #[test]
    fn a_chart_is_a_picture_at_twice_its_size_and_the_same_one_each_time() {
        for (name, days, series) in [("four-weeks", 28, 4), ("week", 7, 4), ("one", 28, 1), ("two", 28, 2)] {
            let mut chart = sample::chart(days);
            chart.series.truncate(series);
            let png = render(&chart).unwrap();
            assert_eq!(&png.bytes[1..4], b"PNG");
            let width = u32::from_be_bytes(png.bytes[16..20].try_into().unwrap());
            assert_eq!(width, if series > 2 { 1520 } else { 840 });
            assert_eq!(render(&chart).unwrap(), png);
            assert!(png.words.starts_with("signups.signups: from 2026-"), "{}", png.words);
            if let Some(folder) = process_variable("NIGHTCREW_DUMP_SLACK") {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(format!("{folder}/chart-{name}.png"), &png.bytes).unwrap();
            }
        }
        assert!(render(&Chart::default()).is_ok());
    }
}
