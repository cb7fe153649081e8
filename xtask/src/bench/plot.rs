//! Line charts as handwritten SVG: axes, a few ticks, lines with points, a legend.
//!
//! Invariant: the same points give the same bytes; the vertical axis starts at zero.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 56.0;

/// Colours that most people can distinguish (Okabe & Ito, 2008).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// Approximate number of ticks of the vertical axis.
const TICKS: f64 = 5.0;

/// A chart.
#[derive(Debug)]
pub struct Chart {
    /// Title of the chart.
    pub title: &'static str,
    /// Label of the horizontal axis.
    pub x_label: &'static str,
    /// Label of the vertical axis.
    pub y_label: &'static str,
    /// Whether the horizontal axis is logarithmic.
    pub log_x: bool,
    /// Names and points of the lines.
    pub lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

impl Chart {
    /// Whether the chart has no points.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|(_, points)| points.is_empty())
    }

    /// The chart as an SVG document.
    pub fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        text(&mut svg, WIDTH / 2.0, 22.0, "middle", self.title);
        text(&mut svg, WIDTH / 2.0, HEIGHT - 10.0, "middle", self.x_label);
        text(&mut svg, LEFT, TOP - 8.0, "end", self.y_label);
        self.vertical_axis(&mut svg);
        self.horizontal_axis(&mut svg);
        for ((name, points), (index, colour)) in
            self.lines.iter().zip(COLOURS.iter().enumerate().cycle())
        {
            self.line(&mut svg, points, colour);
            if self.lines.len() > 1 {
                let y = TOP + 16.0 + 18.0 * index as f64;
                put(&mut svg, format_args!("<g fill=\"{colour}\">"));
                text(&mut svg, WIDTH - RIGHT, y, "end", name);
                put(&mut svg, format_args!("</g>"));
            }
        }
        svg + "</svg>\n"
    }

    fn line(&self, svg: &mut String, points: &[(f64, f64)], colour: &str) {
        let at = |&(x, y): &(f64, f64)| (self.x(x), self.y(y));
        let path: Vec<String> = points
            .iter()
            .map(at)
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        put(
            svg,
            format_args!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                path.join(" ")
            ),
        );
        for (x, y) in points.iter().map(at) {
            put(
                svg,
                format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"),
            );
        }
    }

    fn vertical_axis(&self, svg: &mut String) {
        let step = step(self.y_max() / TICKS);
        let mut value = 0.0;
        while value <= self.y_max() {
            let y = self.y(value);
            rule(svg, (LEFT, y), (WIDTH - RIGHT, y));
            text(svg, LEFT - 6.0, y + 4.0, "end", &short(value));
            value += step;
        }
    }

    fn horizontal_axis(&self, svg: &mut String) {
        let mut values: Vec<f64> = self.points().map(|(x, _)| x).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        for value in values {
            let x = self.x(value);
            rule(svg, (x, HEIGHT - BOTTOM), (x, HEIGHT - BOTTOM + 4.0));
            text(svg, x, HEIGHT - BOTTOM + 18.0, "middle", &short(value));
        }
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.lines
            .iter()
            .flat_map(|(_, points)| points.iter().copied())
    }

    fn y_max(&self) -> f64 {
        let most = self.points().map(|(_, y)| y).fold(0.0, f64::max);
        if most > 0.0 { most * 1.05 } else { 1.0 }
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.y_max() * (HEIGHT - BOTTOM - TOP)
    }

    fn x(&self, value: f64) -> f64 {
        let scale = |x: f64| if self.log_x { x.max(1.0).ln() } else { x };
        let all = || self.points().map(|(x, _)| scale(x));
        let (min, max) = (
            all().fold(f64::MAX, f64::min),
            all().fold(f64::MIN, f64::max),
        );
        let share = if max > min {
            (scale(value) - min) / (max - min)
        } else {
            0.5
        };
        // Margin for the outermost labels.
        let margin = 16.0;
        LEFT + margin + share * (WIDTH - LEFT - RIGHT - 2.0 * margin)
    }
}

/// The smallest 1, 2 or 5 times a power of ten that is not below `least`.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(10.0 * power)
}

/// A number with the suffix k or M if that is shorter.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let digits = usize::from((value - value.round()).abs() > 1e-6);
    format!("{value:.digits$}{unit}")
}

fn rule(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    put(
        svg,
        format_args!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ccc\"/>",
            from.0, from.1, to.0, to.1
        ),
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    put(
        svg,
        format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"),
    );
}

fn put(svg: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a `String` can't fail.
    let _ = writeln!(svg, "{what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!(step(0.7), 1.0);
        assert_eq!(step(13.0), 20.0);
        assert_eq!(step(500.0), 500.0);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(0.0), "0");
        assert_eq!(short(2500.0), "2.5 k");
        assert_eq!(short(100_000_000.0), "100 M");
    }

    #[test]
    fn points_lie_between_the_axes() {
        let chart = Chart {
            title: "a < b",
            x_label: "items",
            y_label: "items/s",
            log_x: true,
            lines: vec![("one", vec![(1.0, 5.0), (100.0, 0.0)]), ("two", Vec::new())],
        };
        assert!(chart.x(1.0) > LEFT && chart.x(100.0) < WIDTH - RIGHT);
        assert!(chart.x(10.0) > chart.x(1.0));
        assert_eq!(chart.y(0.0), HEIGHT - BOTTOM);
        let svg = chart.svg();
        assert!(
            svg.contains("a &lt; b") && svg.ends_with("</svg>\n"),
            "{svg}"
        );
    }
}
