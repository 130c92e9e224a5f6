//! A plot as inline SVG: a frame with two axes, and what is drawn within. Colours and fonts are the
//! page's, by class.

use std::fmt::Write as _;

use super::axis::{Axis, Tick};
use super::page::escaped;

/// The paper, in the units of the plot; the page scales it.
pub(super) const WIDTH: f64 = 860.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 46.0;

/// A plot that is being drawn.
pub(super) struct Plot {
    x: Axis,
    y: Axis,
    height: f64,
    title: String,
    about: String,
    /// Behind the lines of the axes.
    behind: String,
    drawn: String,
    legend: Vec<(&'static str, String)>,
}

impl Plot {
    /// `title` and `about` are for those who cannot see it; the page has a heading of its own.
    pub(super) fn new(title: &str, about: &str, x: Axis, y: Axis, height: f64) -> Self {
        Self {
            x: x.between(LEFT, WIDTH - RIGHT),
            y: y.between(height - BOTTOM, TOP),
            height,
            title: title.to_owned(),
            about: about.to_owned(),
            behind: String::new(),
            drawn: String::new(),
            legend: Vec::new(),
        }
    }

    /// A line through these points; it is broken where `gap` is exceeded between two of them.
    pub(super) fn line(&mut self, class: &'static str, points: &[(f64, f64)], gap: f64) {
        let mut path = String::new();
        let mut last = f64::NEG_INFINITY;
        for (x, y) in points {
            let pen = if path.is_empty() || x - last > gap {
                'M'
            } else {
                'L'
            };
            let (at_x, at_y) = (self.x.place(*x), self.y.place(*y));
            let _ = write!(path, "{pen}{at_x:.1} {at_y:.1}");
            if pen == 'M' {
                // A point alone is seen too.
                path += "h0.01";
            }
            last = *x;
        }
        let _ = writeln!(self.drawn, r#"<path class="line {class}" d="{path}"/>"#);
    }

    /// The same with a point at each place that says what it is.
    pub(super) fn points(&mut self, class: &'static str, points: &[(f64, f64, String)]) {
        for (x, y, says) in points {
            let (x, y, says) = (self.x.place(*x), self.y.place(*y), escaped(says));
            let _ = writeln!(
                self.drawn,
                r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="3.2"><title>{says}</title></circle>"#
            );
        }
    }

    /// A bar from `low` to `high`, over this span of x.
    pub(super) fn bar(
        &mut self,
        class: &str,
        span: (f64, f64),
        (low, high): (f64, f64),
        says: &str,
    ) {
        let (left, right) = (self.x.place(span.0), self.x.place(span.1));
        let (top, foot) = (self.y.place(high), self.y.place(low));
        let (width, height) = ((right - left - 1.0).max(0.8), foot - top);
        let says = escaped(says);
        let _ = writeln!(
            self.drawn,
            r#"<rect class="{class}" x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}"><title>{says}</title></rect>"#
        );
    }

    /// A line across at a value, with its name at the right.
    pub(super) fn level(&mut self, class: &str, at: f64, name: &str) {
        let (left, right) = self.x.paper();
        let (y, name) = (self.y.place(at), escaped(name));
        let _ = writeln!(
            self.drawn,
            r#"<path class="level {class}" d="M{left:.1} {y:.1}H{right:.1}"/><text class="note" x="{:.1}" y="{:.1}" text-anchor="end">{name}</text>"#,
            right - 4.0,
            y - 4.0
        );
    }

    /// A span of time, behind everything, with its name at the top.
    pub(super) fn band(&mut self, class: &str, from: f64, to: f64, name: &str) {
        let (left, right) = (self.x.place(from), self.x.place(to));
        if right - left < 0.5 {
            return;
        }
        let (foot, top) = self.y.paper();
        let (width, height) = (right - left, foot - top);
        let (full, shown) = (escaped(name), escaped(&short(name, width)));
        let _ = writeln!(
            self.behind,
            r#"<rect class="band {class}" x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}"><title>{full}</title></rect><path class="grid" d="M{left:.1} {foot:.1}V{top:.1}"/><text class="note" x="{:.1}" y="{:.1}">{shown}</text>"#,
            left + 4.0,
            top + 13.0,
        );
    }

    /// A mark on the lower edge.
    pub(super) fn mark(&mut self, class: &str, at: f64, says: &str) {
        let (x, says) = (self.x.place(at), escaped(says));
        let (foot, _) = self.y.paper();
        let _ = writeln!(
            self.drawn,
            r#"<path class="{class}" d="M{x:.1} {:.1}l-4 8h8z"><title>{says}</title></path>"#,
            foot - 8.0
        );
    }

    /// A thin line from the lower to the upper edge, behind everything.
    pub(super) fn upright(&mut self, class: &str, at: f64) {
        let (x, (foot, top)) = (self.x.place(at), self.y.paper());
        let _ = writeln!(
            self.behind,
            r#"<path class="upright {class}" d="M{x:.1} {foot:.1}V{top:.1}"/>"#
        );
    }

    /// A bar above the upper edge, the higher the more, as far as there is room.
    pub(super) fn tally(&mut self, class: &str, span: (f64, f64), count: f64, says: &str) {
        let (left, right) = (self.x.place(span.0), self.x.place(span.1));
        let (_, edge) = self.y.paper();
        let height = (3.0 + 2.0 * count.max(1.0).log10()).min(9.0);
        let top = edge - height;
        let (width, says) = ((right - left).max(1.2), escaped(says));
        let _ = writeln!(
            self.drawn,
            r#"<rect class="{class}" x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}"><title>{says}</title></rect>"#
        );
    }

    /// Says what a colour means.
    pub(super) fn legend(&mut self, class: &'static str, name: impl Into<String>) {
        self.legend.push((class, name.into()));
    }

    pub(super) fn svg(&self) -> String {
        let height = self.height;
        let (title, about) = (escaped(&self.title), escaped(&self.about));
        let mut svg = format!(
            r#"<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}: {about}"><title>{title}</title><desc>{about}</desc>
"#
        );
        svg += &self.behind;
        self.frame(&mut svg);
        svg += &self.drawn;
        self.key(&mut svg);
        svg + "</svg>\n"
    }

    fn frame(&self, svg: &mut String) {
        let ((left, right), (foot, top)) = (self.x.paper(), self.y.paper());
        for Tick { at, name } in self.y.ticks() {
            let y = self.y.place(at);
            let class = if name.is_some() { "grid" } else { "grid minor" };
            let _ = write!(
                svg,
                r#"<path class="{class}" d="M{left:.1} {y:.1}H{right:.1}"/>"#
            );
            if let Some(name) = name {
                let (x, y) = (left - 7.0, y + 4.0);
                let _ = writeln!(
                    svg,
                    r#"<text class="tick" x="{x:.1}" y="{y:.1}" text-anchor="end">{name}</text>"#
                );
            }
        }
        for Tick { at, name } in self.x.ticks() {
            let x = self.x.place(at);
            let _ = write!(
                svg,
                r#"<path class="grid" d="M{x:.1} {foot:.1}V{top:.1}"/>"#
            );
            if let Some(name) = name {
                let y = foot + 18.0;
                let _ = writeln!(
                    svg,
                    r#"<text class="tick" x="{x:.1}" y="{y:.1}" text-anchor="middle">{name}</text>"#
                );
            }
        }
        let (middle, below) = (f64::midpoint(left, right), foot + 37.0);
        let _ = writeln!(
            svg,
            r#"<path class="edge" d="M{left:.1} {top:.1}V{foot:.1}H{right:.1}"/><text class="label" x="{middle:.1}" y="{below:.1}" text-anchor="middle">{}</text><text class="label" transform="translate(14 {:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
            self.x.label,
            f64::midpoint(foot, top),
            self.y.label,
        );
    }

    fn key(&self, svg: &mut String) {
        let mut x = LEFT;
        for (class, name) in &self.legend {
            let says = escaped(name);
            let _ = writeln!(
                svg,
                r#"<path class="line key {class}" d="M{x:.1} 12h18"/><text class="note" x="{:.1}" y="16">{says}</text>"#,
                x + 23.0
            );
            x += 23.0 + text_width(name) + 18.0;
        }
    }
}

/// About how wide a text is in the small type of a plot.
pub(super) fn text_width(text: &str) -> f64 {
    text.chars()
        .count()
        .try_into()
        .map_or(0.0, |count: u32| 6.4 * f64::from(count))
}

/// As much of a name as there is room for.
fn short(name: &str, width: f64) -> String {
    let fits = |text: &str| text_width(text) + 8.0 <= width;
    if fits(name) {
        return name.to_owned();
    }
    let mut cut: String = name.to_owned();
    while cut.pop().is_some() {
        let shown = format!("{}…", cut.trim_end());
        if cut.chars().count() >= 3 && fits(&shown) {
            return shown;
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_in_the_frame_and_names_are_text() {
        let (x, y) = (
            Axis::linear(0.0, 10.0, "seconds"),
            Axis::linear(0.0, 5.0, "calls"),
        );
        let mut plot = Plot::new("A <title>", "about", x, y, 300.0);
        plot.line("one", &[(0.0, 1.0), (1.0, 2.0), (9.0, 99.0)], 2.0);
        plot.band("bad", 2.0, 8.0, "an <outage>");
        plot.legend("one", "p50 & more");
        let svg = plot.svg();
        assert!(
            !svg.contains("<outage>") && svg.contains("an &lt;outage&gt;"),
            "{svg}"
        );
        assert!(svg.contains("p50 &amp; more"));
        let path = svg.lines().find(|line| line.contains("line one")).unwrap();
        assert_eq!(
            path.matches('M').count(),
            2,
            "a gap breaks the line: {path}"
        );
        assert!(
            path.contains(&format!(" {TOP:.1}")),
            "beyond the end lies at it: {path}"
        );
    }
}
