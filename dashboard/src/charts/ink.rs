//! Colours of charts. In PNG they are real ones; in SVG each is a marker that
//! is replaced by a CSS class, so that a page's theme decides.

use plotters::style::RGBColor;

/// What a mark on a chart is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ink {
    /// First series, the one that matters.
    First,
    /// Second series.
    Second,
    /// Third series.
    Third,
    /// A limit.
    Limit,
    /// Axis and text.
    Axis,
    /// Grid lines.
    Grid,
    /// The ground.
    Ground,
    /// Where now is.
    Now,
    /// Shades of the carbon band, 0 to 6.
    Shade(u8),
}

impl Ink {
    const ALL: [Self; 15] = [
        Self::First,
        Self::Second,
        Self::Third,
        Self::Limit,
        Self::Axis,
        Self::Grid,
        Self::Ground,
        Self::Now,
        Self::Shade(0),
        Self::Shade(1),
        Self::Shade(2),
        Self::Shade(3),
        Self::Shade(4),
        Self::Shade(5),
        Self::Shade(6),
    ];

    /// The name in style sheets: `f-…` fills, `s-…` strokes.
    fn class(self) -> &'static str {
        match self {
            Self::First => "c1",
            Self::Second => "c2",
            Self::Third => "c3",
            Self::Limit => "lim",
            Self::Axis => "ax",
            Self::Grid => "gr",
            Self::Ground => "bg",
            Self::Now => "now",
            Self::Shade(n) => ["k0", "k1", "k2", "k3", "k4", "k5", "k6"][usize::from(n.min(6))],
        }
    }

    /// The colour on paper (light ground). Series differ in lightness too, so
    /// that they can be told apart without colour.
    fn paper(self) -> RGBColor {
        match self {
            Self::First => RGBColor(0x1b, 0x4f, 0x8a),
            Self::Second => RGBColor(0x5b, 0x94, 0xc9),
            Self::Third => RGBColor(0x8a, 0x93, 0x9c),
            Self::Limit => RGBColor(0xb4, 0x53, 0x09),
            Self::Axis => RGBColor(0x4a, 0x53, 0x5c),
            Self::Grid => RGBColor(0xdd, 0xe1, 0xe5),
            Self::Ground => RGBColor(0xff, 0xff, 0xff),
            Self::Now => RGBColor(0x1f, 0x23, 0x28),
            Self::Shade(n) => {
                let light = 0xf4 - 0x10 * n.min(6);
                RGBColor(light, light - 2, light - 6)
            }
        }
    }

    fn marker(self) -> RGBColor {
        let place = Self::ALL.iter().position(|i| *i == self).unwrap_or(0) as u8;
        RGBColor(1, 2, 10 + place)
    }
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Palette {
    /// Real colours.
    Paper,
    /// Markers for [`themable`].
    Markers,
}

impl Palette {
    pub(super) fn get(self, ink: Ink) -> RGBColor {
        match self {
            Self::Paper => ink.paper(),
            Self::Markers => ink.marker(),
        }
    }
}

/// Style of a chart that is opened by itself; a page has its own.
const STYLE: &str = "<style>svg{--c1:#1b4f8a;--c2:#5b94c9;--c3:#8a939c;--lim:#b45309;--ax:#4a535c;--gr:#dde1e5;\
    --bg:#fff;--now:#1f2328;--k0:#f4f2ee;--k1:#e6e3de;--k2:#d8d5cf;--k3:#cac6c0;--k4:#bcb8b2;--k5:#aeaaa4;--k6:#a09c96}\
    @media (prefers-color-scheme:dark){svg{--c1:#7db4ee;--c2:#4a86c0;--c3:#8b949d;--lim:#f0a35e;--ax:#b6bec6;--gr:#30363c;\
    --bg:#1b1f23;--now:#e6e9ec;--k0:#1e2226;--k1:#252a2e;--k2:#2d3236;--k3:#353a3f;--k4:#3d4348;--k5:#464c51;--k6:#4f555b}}\
    .f-c1{fill:var(--c1)}.f-c2{fill:var(--c2)}.f-c3{fill:var(--c3)}.f-lim{fill:var(--lim)}.f-ax{fill:var(--ax)}\
    .f-gr{fill:var(--gr)}.f-bg{fill:var(--bg)}.f-now{fill:var(--now)}.s-c1{stroke:var(--c1)}.s-c2{stroke:var(--c2)}\
    .s-c3{stroke:var(--c3)}.s-lim{stroke:var(--lim)}.s-ax{stroke:var(--ax)}.s-gr{stroke:var(--gr)}.s-now{stroke:var(--now)}\
    .s-bg{stroke:var(--bg)}.f-k0{fill:var(--k0)}.f-k1{fill:var(--k1)}.f-k2{fill:var(--k2)}.f-k3{fill:var(--k3)}\
    .f-k4{fill:var(--k4)}.f-k5{fill:var(--k5)}.f-k6{fill:var(--k6)}</style>";

/// Replaces markers by classes and adds what screen readers say.
pub(super) fn themable(svg: &str, title: &str, description: &str, is_alone: bool) -> String {
    let mut out = svg.to_owned();
    for ink in Ink::ALL {
        let RGBColor(r, g, b) = ink.marker();
        let marker = format!("#{r:02X}{g:02X}{b:02X}");
        let class = ink.class();
        out = out
            .replace(
                &format!("fill=\"{marker}\""),
                &format!("class=\"f-{class}\""),
            )
            .replace(
                &format!("stroke=\"{marker}\""),
                &format!("class=\"s-{class}\""),
            );
    }
    let mut head = String::new();
    crate::html::html!(head, "<title>{}</title><desc>{}</desc>", title, description);
    if is_alone {
        head.push_str(STYLE);
    }
    match out.find('>') {
        Some(end) => {
            let mut opening = String::new();
            crate::html::html!(
                opening,
                " class=\"chart\" role=\"img\" aria-label=\"{}\"",
                title
            );
            out.insert_str(end + 1, &head);
            out.insert_str(end, &opening);
            out
        }
        None => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_distinct_and_become_classes() {
        let mut seen = std::collections::HashSet::new();
        for ink in Ink::ALL {
            let RGBColor(r, g, b) = Palette::Markers.get(ink);
            assert!(seen.insert((r, g, b)));
        }
        let svg = "<svg width=\"1\"><line stroke=\"#01020A\"/></svg>";
        let out = themable(svg, "a<b", "", false);
        assert!(out.contains("class=\"s-c1\""), "{out}");
        assert!(out.contains("<title>a&lt;b</title>"), "{out}");
    }
}
