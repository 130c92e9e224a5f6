//! Bars of how many times as much: one row for each server, one panel for each figure, from the line
//! of equality to the left for less and to the right for more, with whiskers over all rounds.

use std::fmt::Write as _;

use super::axis::plain;
use super::page::escaped;
use super::plot::{WIDTH, text_width};

/// Least, median and most of several rounds.
#[derive(Clone, Copy)]
pub(super) struct Ratio {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

/// One figure of all servers; none where it was not measured.
pub(super) struct Panel {
    pub name: String,
    pub more_is_better: bool,
    pub ratios: Vec<Option<Ratio>>,
}

const ROW: f64 = 24.0;
const TOP: f64 = 40.0;
const FOOT: f64 = 26.0;
const GAP: f64 = 18.0;
/// Room for the words beside a bar.
const WORDS: f64 = 34.0;

/// `base` is the name of the server that is 1.
pub(super) fn svg(
    title: &str,
    base: &str,
    servers: &[&str],
    own: &str,
    panels: &[Panel],
) -> String {
    let names = servers.iter().map(|name| text_width(name) + 12.0);
    let left = names.fold(60.0, f64::max);
    let count: u32 = panels.len().try_into().unwrap_or(1);
    let width = (WIDTH - left - GAP * f64::from(count)) / f64::from(count.max(1));
    let rows: u32 = servers.len().try_into().unwrap_or(0);
    let height = TOP + ROW * f64::from(rows) + FOOT;
    let (title, said) = (escaped(title), escaped(base));
    let mut svg = format!(
        r#"<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}, {said} = 1"><title>{title}</title><desc>ratios to {said}; bars are medians, whiskers the least and the most of all rounds</desc>
"#
    );
    for (name, nth) in servers.iter().zip(0_u32..) {
        let y = TOP + ROW * (f64::from(nth) + 0.5) + 4.0;
        let weight = if *name == own {
            r#" font-weight="700""#
        } else {
            ""
        };
        let _ = writeln!(
            svg,
            r#"<text class="name" x="{:.1}" y="{y:.1}" text-anchor="end"{weight}>{}</text>"#,
            left - 8.0,
            escaped(name)
        );
    }
    for (panel, nth) in panels.iter().zip(0_u32..) {
        let from = left + f64::from(nth) * (width + GAP);
        panel.draw(&mut svg, (from, width), height, base, servers);
    }
    svg + "</svg>\n"
}

impl Panel {
    fn draw(
        &self,
        svg: &mut String,
        (left, width): (f64, f64),
        height: f64,
        base: &str,
        servers: &[&str],
    ) {
        let (low, high) = self.span();
        let place = |ratio: f64| {
            let share = (ratio.max(1e-6).log2() - low) / (high - low);
            left + WORDS + (width - 2.0 * WORDS) * share.clamp(0.0, 1.0)
        };
        let middle = left + width / 2.0;
        let (foot, better) = (
            height - FOOT,
            if self.more_is_better { "more" } else { "less" },
        );
        let _ = writeln!(
            svg,
            r#"<text class="name" x="{:.1}" y="14" text-anchor="middle" font-weight="600">{}</text><text class="note" x="{:.1}" y="30" text-anchor="middle">{better} is better</text>"#,
            middle,
            escaped(&self.name),
            middle,
        );
        for ratio in ticks(low, high) {
            let x = place(ratio);
            let _ = writeln!(
                svg,
                r#"<path class="grid" d="M{x:.1} {TOP:.1}V{foot:.1}"/><text class="tick" x="{x:.1}" y="{:.1}" text-anchor="middle">{}×</text>"#,
                foot + 16.0,
                plain(ratio),
            );
        }
        for ((name, ratio), nth) in servers.iter().zip(&self.ratios).zip(0_u32..) {
            let y = TOP + ROW * (f64::from(nth) + 0.5);
            if let Some(ratio) = ratio {
                self.bar(svg, ratio, y, &place);
                continue;
            }
            let says = if *name == base { "= 1" } else { "not measured" };
            let _ = writeln!(
                svg,
                r#"<text class="note" x="{:.1}" y="{:.1}">{says}</text>"#,
                place(1.0) + 6.0,
                y + 4.0
            );
        }
        let _ = writeln!(
            svg,
            r#"<path class="level par" d="M{:.1} {TOP:.1}V{foot:.1}"/>"#,
            place(1.0)
        );
    }

    fn bar(&self, svg: &mut String, ratio: &Ratio, y: f64, place: &impl Fn(f64) -> f64) {
        let Ratio { min, median, max } = *ratio;
        let good = if self.more_is_better {
            median >= 1.0
        } else {
            median <= 1.0
        };
        let class = if good { "good" } else { "bad" };
        let (start, end) = (place(median.min(1.0)), place(median.max(1.0)));
        let (low, high) = (place(min), place(max));
        let is_right = median >= 1.0;
        let (x, anchor) = if is_right {
            (high.max(end) + 5.0, "start")
        } else {
            (low.min(start) - 5.0, "end")
        };
        let (says, top) = (digits(median), y - 7.0);
        let _ = writeln!(
            svg,
            r#"<rect class="ratio {class}" x="{start:.1}" y="{top:.1}" width="{:.1}" height="14"><title>{says} × ({} to {})</title></rect><path class="whisker" d="M{low:.1} {y:.1}H{high:.1}M{low:.1} {:.1}v8M{high:.1} {:.1}v8"/><text class="value" x="{x:.1}" y="{:.1}" text-anchor="{anchor}">{says}</text>"#,
            (end - start).max(0.8),
            digits(min),
            digits(max),
            y - 4.0,
            y - 4.0,
            y + 4.0,
        );
    }

    /// How many doublings to the left, below 0, and to the right. Beyond 256 times nobody compares.
    fn span(&self) -> (f64, f64) {
        let all = self.ratios.iter().flatten().flat_map(|it| [it.min, it.max]);
        let all = all.filter(|ratio| *ratio > 0.0).map(f64::log2);
        let low = all.clone().fold(-1.0, f64::min).floor();
        let high = all.fold(1.0, f64::max).ceil();
        (low.max(-8.0), high.min(8.0))
    }
}

/// Powers of two, no more than fit beside each other.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let step = ((high - low) / 4.0).ceil();
    let steps = (-8..=8).map(|nth| f64::from(nth) * step);
    steps
        .filter(|power| (low..=high).contains(power))
        .map(f64::exp2)
        .collect()
}

/// Two or three digits.
pub(super) fn digits(value: f64) -> String {
    let text = match value {
        value if value >= 9.95 => format!("{value:.0}"),
        value if value >= 1.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    };
    match text.strip_suffix(".0") {
        Some(whole) => whole.to_owned(),
        None => text.strip_suffix(".00").map_or(text.clone(), str::to_owned),
    }
}
