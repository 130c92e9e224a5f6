//! Axes: where a value lies on the paper, which values are named beside it, and how.

/// From a value to a place, and the values that are named.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    sort: Sort,
    /// The places of `from` and `to`.
    paper: (f64, f64),
    pub label: &'static str,
    named: fn(f64) -> String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sort {
    Linear,
    Log,
    /// Percentiles by how few are beyond: 90, 99 and 99.9 lie equally far apart.
    Tail,
}

/// A value that is named at the axis, or only has a line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub at: f64,
    pub name: Option<String>,
}

impl Axis {
    /// Equal steps. It begins and ends at a tick if that is near.
    pub(super) fn linear(from: f64, to: f64, label: &'static str) -> Self {
        Self::new(Sort::Linear, from, to.max(from + 1e-9), label, plain)
    }

    /// Equal factors, over whole or half decades; for microseconds.
    pub(super) fn log_of_waits(values: impl Iterator<Item = f64> + Clone) -> Self {
        let values = values.filter(|value| *value > 0.0);
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let most = values.fold(0.0, f64::max);
        let (least, most) = if most > 0.0 {
            (least, most)
        } else {
            (1.0, 10.0)
        };
        let from = DECADE.iter().rev().map(|it| it * decade(least));
        let from = from.into_iter().find(|it| *it <= least * 1.000_1);
        let to = DECADE.iter().map(|it| it * decade(most));
        let to = to.into_iter().find(|it| *it >= most * 0.999_9);
        let (from, to) = (from.unwrap_or(least), to.unwrap_or(decade(most) * 10.0));
        let to = if to / from < 9.9 { from * 10.0 } else { to };
        Self::new(Sort::Log, from, to, "latency", wait)
    }

    /// From the median on, to one percentile more than the last.
    pub(super) fn tail(last: f64) -> Self {
        let to = TAILS.iter().map(|(at, _)| *at).find(|at| *at >= last);
        Self::new(Sort::Tail, 0.0, to.unwrap_or(99.999), "percentile", plain)
    }

    fn new(sort: Sort, from: f64, to: f64, label: &'static str, named: fn(f64) -> String) -> Self {
        Self {
            from,
            to,
            sort,
            paper: (0.0, 1.0),
            label,
            named,
        }
    }

    /// The same on the paper between these places.
    pub(super) fn between(mut self, start: f64, end: f64) -> Self {
        self.paper = (start, end);
        self
    }

    pub(super) fn paper(&self) -> (f64, f64) {
        self.paper
    }

    /// Where a value lies; those beyond an end lie there.
    pub(super) fn place(&self, value: f64) -> f64 {
        let measure = |value: f64| match self.sort {
            Sort::Linear => value,
            Sort::Log => value.max(1e-3).log10(),
            Sort::Tail => -(1.0 - value / 100.0).max(1e-6).log10(),
        };
        let (from, to) = (measure(self.from), measure(self.to));
        let share = ((measure(value) - from) / (to - from)).clamp(0.0, 1.0);
        self.paper.0 + share * (self.paper.1 - self.paper.0)
    }

    pub(super) fn ticks(&self) -> Vec<Tick> {
        match self.sort {
            Sort::Linear => self.linear_ticks(),
            Sort::Log => self.log_ticks(),
            Sort::Tail => {
                let within = TAILS.iter().filter(|(at, _)| *at <= self.to + 1e-9);
                let tick = within.map(|(at, name)| Tick {
                    at: *at,
                    name: Some((*name).to_owned()),
                });
                tick.collect()
            }
        }
    }

    fn linear_ticks(&self) -> Vec<Tick> {
        const MOST: f64 = 9.0;
        let rough = (self.to - self.from) / MOST;
        let base = decade(rough);
        let step = [1.0, 2.0, 5.0, 10.0].map(|it| it * base);
        let step = step.into_iter().find(|step| *step >= rough).unwrap_or(base);
        let first = (self.from / step).ceil();
        let ticks = (0..=20).map(|nth| (first + f64::from(nth)) * step);
        let ticks = ticks.take_while(|at| *at <= self.to + step * 1e-6);
        ticks
            .map(|at| Tick {
                at,
                name: Some((self.named)(at)),
            })
            .collect()
    }

    fn log_ticks(&self) -> Vec<Tick> {
        let decades = (self.to / self.from).log10();
        let mut ticks = Vec::new();
        let mut base = decade(self.from);
        while base <= self.to * 1.001 {
            for (nth, step) in DECADE.into_iter().enumerate() {
                let at = base * step;
                if at < self.from * 0.999 || at > self.to * 1.001 {
                    continue;
                }
                let is_named = nth == 0 || decades < 2.1;
                ticks.push(Tick {
                    at,
                    name: is_named.then(|| (self.named)(at)),
                });
            }
            base *= 10.0;
        }
        ticks
    }
}

const DECADE: [f64; 3] = [1.0, 2.0, 5.0];

const TAILS: [(f64, &str); 7] = [
    (0.0, "0"),
    (50.0, "50"),
    (90.0, "90"),
    (99.0, "99"),
    (99.9, "99.9"),
    (99.99, "99.99"),
    (99.999, "99.999"),
];

fn decade(value: f64) -> f64 {
    10_f64.powf(value.max(1e-9).log10().floor())
}

/// A number with no more digits than it needs.
pub(super) fn plain(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    grouped(if text == "-0" { "0" } else { text })
}

/// Thousands apart by commas, from 10,000 on.
fn grouped(text: &str) -> String {
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    if digits.len() < 5 {
        return text.to_owned();
    }
    let mut out = sign.to_owned();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

/// Microseconds in the unit that fits, to three digits.
pub(super) fn wait(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 999.5 => (us, "µs"),
        us if us < 999_500.0 => (us / 1_000.0, "ms"),
        us => (us / 1_000_000.0, "s"),
    };
    let text = match value {
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis) -> Vec<String> {
        axis.ticks()
            .into_iter()
            .filter_map(|tick| tick.name)
            .collect()
    }

    #[test]
    fn waits_are_told_in_the_unit_that_fits() {
        for (us, text) in [
            (0.5, "0.5 µs"),
            (85.0, "85 µs"),
            (1_000.0, "1 ms"),
            (12_340.0, "12.3 ms"),
            (999_900.0, "1 s"),
            (2_350_000.0, "2.35 s"),
        ] {
            assert_eq!(wait(us), text);
        }
        assert_eq!(
            (plain(1_234_567.5), plain(1_234.0)),
            ("1,234,567.5".into(), "1234".into())
        );
    }

    #[test]
    fn a_log_axis_names_its_decades_and_holds_all_values() {
        let axis = Axis::log_of_waits([30.0, 2_300_000.0].into_iter()).between(100.0, 0.0);
        assert_eq!(names(&axis), ["100 µs", "1 ms", "10 ms", "100 ms", "1 s"]);
        assert!(
            (axis.place(20.0) - 100.0).abs() < 1e-6,
            "it begins at 20 µs"
        );
        assert!(axis.place(5_000_000.0).abs() < 1e-6);
        assert!(axis.place(100.0) > axis.place(1_000.0));
        let nothing = Axis::log_of_waits([].into_iter());
        assert!(nothing.place(3.0).is_finite());
    }

    #[test]
    fn percentiles_lie_by_how_few_are_beyond() {
        let axis = Axis::tail(99.95).between(0.0, 400.0);
        assert_eq!(names(&axis), ["0", "50", "90", "99", "99.9", "99.99"]);
        let steps = [
            axis.place(99.0) - axis.place(90.0),
            axis.place(99.9) - axis.place(99.0),
        ];
        assert!((steps[0] - 100.0).abs() < 1e-6 && (steps[1] - 100.0).abs() < 1e-6);
    }

    #[test]
    fn a_linear_axis_has_round_ticks() {
        assert_eq!(
            names(&Axis::linear(0.0, 40.0, "s")),
            ["0", "5", "10", "15", "20", "25", "30", "35", "40"]
        );
        assert!(names(&Axis::linear(0.0, 145.0, "s")).len() <= 10);
    }
}
