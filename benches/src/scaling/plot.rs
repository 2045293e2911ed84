//! One SVG per trace: the load, the age of the oldest message and the replicas, one below the other with the same time.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 130.0;
const LEFT: f64 = 60.0;
const GAP: f64 = 34.0;
/// Points of a line, each the most within its part of the time.
const POINTS: usize = 380;

/// A line of a panel: one value for each second.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) colour: &'a str,
    pub(super) values: Vec<f64>,
}

/// Lines that share an axis.
#[derive(Debug)]
pub(super) struct Panel<'a> {
    pub(super) title: &'a str,
    pub(super) lines: Vec<Line<'a>>,
    /// A level that is drawn across.
    pub(super) level: Option<f64>,
    /// What is higher is cut off.
    pub(super) most: Option<f64>,
}

pub(super) fn svg(title: &str, panels: &[Panel<'_>]) -> String {
    let seconds = panels.iter().flat_map(|panel| &panel.lines).map(|line| line.values.len()).max().unwrap_or(1);
    let mut text = String::new();
    let mut top = 2.0 * GAP;
    for panel in panels {
        draw(&mut text, panel, top, seconds);
        top += HEIGHT + GAP;
    }
    legend(&mut text, panels);
    let width = LEFT + WIDTH + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {top}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{top}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{title}</text>\n{text}</svg>\n"
    )
}

fn draw(text: &mut String, panel: &Panel<'_>, top: f64, seconds: usize) {
    let all = panel.lines.iter().flat_map(|line| line.values.iter().copied()).fold(0.0, f64::max);
    let most = nice(all.max(panel.level.unwrap_or(0.0)).min(panel.most.unwrap_or(f64::INFINITY)));
    let y = |value: f64| top + HEIGHT * (1.0 - value.clamp(0.0, most) / most);
    let (right, bottom) = (LEFT + WIDTH, top + HEIGHT);
    let _ = writeln!(text, "<text x=\"{LEFT}\" y=\"{:.0}\">{}</text>", top - 6.0, panel.title);
    for part in [0.0, 0.5, 1.0] {
        let (value, y) = (most * part, y(most * part));
        let _ = writeln!(text, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>");
        let _ = writeln!(text, "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>", LEFT - 6.0, y + 4.0);
    }
    if let Some(level) = panel.level {
        let _ =
            writeln!(text, "<path d=\"M{LEFT} {:.1}H{right}\" stroke=\"#c00\" stroke-dasharray=\"4 4\"/>", y(level));
    }
    for part in 0..=4_u32 {
        let minute = share(seconds) / 60.0 * f64::from(part) / 4.0;
        let x = LEFT + WIDTH * f64::from(part) / 4.0;
        let anchor = ["start", "middle", "middle", "middle", "end"][part as usize];
        let _ = writeln!(
            text,
            "<text x=\"{x:.0}\" y=\"{:.0}\" text-anchor=\"{anchor}\" fill=\"#777\">{minute:.0} min</text>",
            bottom + 14.0
        );
    }
    for line in &panel.lines {
        let path = path(&line.values, seconds, y);
        let _ = writeln!(text, "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.3\"/>", line.colour);
    }
}

/// Steps from one value to the next, without points in which nothing changes.
fn path(values: &[f64], seconds: usize, y: impl Fn(f64) -> f64) -> String {
    let each = seconds.div_ceil(POINTS).max(1);
    let mut path = String::new();
    let mut before = String::new();
    for (n, part) in values.chunks(each).enumerate() {
        let at = format!("{:.1}", y(part.iter().copied().fold(0.0, f64::max)));
        let x = LEFT + WIDTH * share(n * each) / share(seconds);
        if n == 0 {
            let _ = write!(path, "M{x:.1} {at}");
        } else if at != before {
            let _ = write!(path, "H{x:.1}V{at}");
        }
        before = at;
    }
    let _ = write!(path, "H{}", LEFT + WIDTH);
    path
}

/// The names of all lines, each once.
fn legend(text: &mut String, panels: &[Panel<'_>]) {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for line in panels.iter().flat_map(|panel| &panel.lines).filter(|line| !line.name.is_empty()) {
        if !names.contains(&(line.name, line.colour)) {
            names.push((line.name, line.colour));
        }
    }
    let mut x = LEFT;
    for (name, colour) in names {
        let _ = writeln!(text, "<rect x=\"{x}\" y=\"28\" width=\"14\" height=\"4\" fill=\"{colour}\"/>");
        let _ = writeln!(text, "<text x=\"{}\" y=\"35\">{name}</text>", x + 18.0);
        x += 40.0 + 6.6 * share(name.len());
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|nice| *nice >= value).unwrap_or(value)
}

#[expect(clippy::cast_precision_loss, reason = "seconds and points of a picture")]
fn share(n: usize) -> f64 {
    n as f64
}
