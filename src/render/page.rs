//! The frame of every page: one document that stands alone. Pure.
//!
//! No script, no font, no picture, nothing loaded from anywhere, and a content policy that forbids all of it (the style is
//! allowed by its hash, so not even an injected style would count). It reads offline, prints, is dark where the reader's system is.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::text;
use crate::base::base64::base64;
use crate::base::hash::Hash;

const STYLE: &str = include_str!("page.css");

/// A whole document. `style` stands behind the shared one; both are ours and never a text from outside.
pub fn document(title: &str, style: &str, body: &Markup) -> String {
    let style = format!("{STYLE}{style}");
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        base64(&digest(&style))
    );
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                meta name="robots" content="noindex";
                title { (text::line(title)) }
                style { (PreEscaped(&style)) }
            }
            body { (body) }
        }
    }
    .into_string()
}

fn digest(text: &str) -> Vec<u8> {
    let hex = Hash::of(text).to_string();
    hex.as_bytes().chunks(2).filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

pub fn wordmark() -> Markup {
    html! {
        div.mark {
            svg viewBox="0 0 20 20" width="20" height="20" aria-hidden="true" { path d="M13.4 2.2A8 8 0 1 0 18 13.6 6.6 6.6 0 0 1 13.4 2.2Z" {} }
            "nightcrew"
        }
    }
}

/// A few stars. Drawn, so that nothing is loaded.
pub fn sky() -> Markup {
    const STARS: &[(u32, u32, &str)] = &[
        (612, 30, "1.1"),
        (668, 84, "0.8"),
        (705, 22, "0.7"),
        (742, 118, "1"),
        (790, 52, "1.3"),
        (838, 96, "0.8"),
        (871, 26, "0.9"),
        (902, 140, "0.7"),
        (934, 66, "1.1"),
        (968, 34, "0.7"),
        (985, 112, "1"),
        (560, 110, "0.7"),
    ];
    html! {
        svg.sky viewBox="0 0 1000 180" preserveAspectRatio="xMaxYMin slice" aria-hidden="true" {
            @for (x, y, r) in STARS { circle cx=(x) cy=(y) r=(r) {} }
        }
    }
}

/// Cleaned text with what stands in backticks as code.
pub fn rich(text: &str) -> Markup {
    html! { @for (is_code, part) in text::spans(text) { @if is_code { code { (part) } } @else { (part) } } }
}
