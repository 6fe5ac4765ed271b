//! A result as a picture: one row a check, one row a curve.
//!
//! A row of a check has both sides seed by seed on the left (a value has none), and on the right
//! the figure of every seed, its median, the bar, "no effect", and the falsifier where it stands
//! against this check.

use std::path::Path;

use plotters::{
    coord::{
        Shift,
        ranged1d::{KeyPointHint, ValueFormatter},
        types::RangedCoordf64,
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    Error,
    evidence::{Curve, Sides},
    report::{CheckReport, Kind, Record},
};

const WIDTH: u32 = 960;
const HEADER: u32 = 84;
const TITLE: u32 = 44;
const CHECK: u32 = 190;
const CURVE: u32 = 330;
const LEGEND: u32 = 170;
const FONT: &str = "sans-serif";

const INK: RGBColor = RGBColor(40, 40, 40);
const PALE: RGBColor = RGBColor(150, 150, 150);
const BASELINE: RGBColor = RGBColor(120, 120, 120);
const OURS: RGBColor = RGBColor(31, 99, 180);
const BAR: RGBColor = RGBColor(30, 140, 60);
const FALSIFIER: RGBColor = RGBColor(200, 50, 40);
const LINES: [RGBColor; 6] = [BASELINE, OURS, RGBColor(221, 132, 40), RGBColor(120, 80, 170), BAR, FALSIFIER];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The picture as SVG; `path` only names the file in an error.
///
/// # Errors
/// [`Error::Plot`].
pub fn draw(record: &Record, path: &Path) -> Result<String, Error> {
    let checks = record.report.checks.len() as u32;
    let curves = record.evidence.curves.len() as u32;
    let size = (WIDTH, HEADER + checks * CHECK + curves * CURVE);
    let mut svg = String::new();
    draw_all(record, SVGBackend::with_string(&mut svg, size).into_drawing_area())
        .map_err(|why| Error::Plot { path: path.to_owned(), why: why.to_string() })?;
    Ok(svg)
}

/// Curves alone under a title, as SVG; `path` only names the file in an error.
///
/// # Errors
/// [`Error::Plot`].
pub fn curves(title: &str, curves: &[Curve], path: &Path) -> Result<String, Error> {
    let size = (WIDTH, TITLE + curves.len() as u32 * CURVE);
    let mut svg = String::new();
    draw_curves(title, curves, SVGBackend::with_string(&mut svg, size).into_drawing_area())
        .map_err(|why| Error::Plot { path: path.to_owned(), why: why.to_string() })?;
    Ok(svg)
}

fn draw_curves(title: &str, curves: &[Curve], root: Area) -> Drawn {
    root.fill(&WHITE)?;
    let (head, mut rest) = root.split_vertically(TITLE);
    head.draw_text(title, &(FONT, 22).into_font().color(&INK), (16, 12))?;
    for curve in curves {
        let (row, below) = rest.split_vertically(CURVE);
        curve_row(curve, &row)?;
        rest = below;
    }
    root.present()?;
    Ok(())
}

fn draw_all(record: &Record, root: Area) -> Drawn {
    root.fill(&WHITE)?;
    let (head, mut rest) = root.split_vertically(HEADER);
    header(record, &head)?;
    for (check, sides) in record.report.checks.iter().zip(&record.evidence.checks) {
        let (row, below) = rest.split_vertically(CHECK);
        let falsifier = (record.evidence.falsifier_against == check.what).then_some(&record.evidence.falsifier);
        check_row(check, sides, falsifier, &row)?;
        rest = below;
    }
    for curve in &record.evidence.curves {
        let (row, below) = rest.split_vertically(CURVE);
        curve_row(curve, &row)?;
        rest = below;
    }
    root.present()?;
    Ok(())
}

fn header(record: &Record, area: &Area) -> Drawn {
    let report = &record.report;
    let title = format!("{:02} {}: {}", report.system, report.name, report.verdict);
    area.draw_text(&title, &(FONT, 22).into_font().color(&INK), (16, 12))?;
    let seeds: Vec<String> = report.seeds.iter().map(u64::to_string).collect();
    let line = format!(
        "{} scale, seeds {}, {:.0} s, {:.0} MiB, {}",
        report.scale,
        seeds.join(" "),
        report.seconds,
        report.peak_bytes as f64 / f64::from(1 << 20),
        report.machine,
    );
    area.draw_text(&line, &(FONT, 13).into_font().color(&PALE), (16, 42))?;
    let falsifier = &report.falsifier;
    let line = format!(
        "falsifier (x): {}: {} against {}, {}",
        falsifier.what,
        short(falsifier.figure),
        falsifier.bar,
        if falsifier.fails_as_it_must { "fails as it must" } else { "does NOT fail" }
    );
    area.draw_text(&line, &(FONT, 13).into_font().color(&FALSIFIER), (16, 60))?;
    Ok(())
}

fn check_row(check: &CheckReport, sides: &Sides, falsifier: Option<&Sides>, area: &Area) -> Drawn {
    let title =
        format!("{}: {} {}", check.what, short(check.figure), if check.holds { "holds" } else { "does not hold" });
    let colour = if check.holds { INK } else { FALSIFIER };
    area.draw_text(&title, &(FONT, 15).into_font().color(&colour), (16, 8))?;
    let (_, body) = area.split_vertically(26);
    let figures = if check.kind == Kind::Value {
        body
    } else {
        let (left, right) = body.split_horizontally(WIDTH * 2 / 5);
        both_sides(check, sides, &left)?;
        right
    };
    figures_of_seeds(check, falsifier, &figures)
}

/// Baseline and ours on one vertical axis, joined seed by seed; the wide mark is the median seed.
fn both_sides(check: &CheckReport, sides: &Sides, area: &Area) -> Drawn {
    let axis = Axis::over(sides.baseline.iter().chain(&sides.ours).copied(), false);
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .margin_left(16)
        .x_label_area_size(22)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..1.0, axis.clone())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(5)
        .y_desc(check.unit.as_str())
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE.mix(0.3))
        .axis_style(PALE)
        .label_style((FONT, 12).into_font().color(&INK))
        .draw()?;
    for (&baseline, &ours) in sides.baseline.iter().zip(&sides.ours) {
        let ends = [(0.25, axis.at(baseline)), (0.75, axis.at(ours))];
        if ends.iter().all(|(_, y)| y.is_finite()) {
            chart.draw_series(LineSeries::new(ends, PALE.mix(0.6)))?;
        }
        for ((x, y), colour) in ends.into_iter().zip([BASELINE, OURS]) {
            if y.is_finite() {
                chart.draw_series([Circle::new((x, y), 4, colour.filled())])?;
            }
        }
    }
    let median = [(0.25, check.baseline, BASELINE), (0.75, Some(check.ours), OURS)];
    for (x, y, colour) in median {
        let Some(y) = y.map(|y| axis.at(y)).filter(|y| y.is_finite()) else {
            continue;
        };
        chart.draw_series(LineSeries::new([(x - 0.12, y), (x + 0.12, y)], colour.stroke_width(3)))?;
    }
    let (width, height) = area.dim_in_pixel();
    let plot = (width as f64 - 86.0, height as i32 - 22);
    for (x, name, colour) in [(0.25, "baseline", BASELINE), (0.75, "ours", OURS)] {
        let style = centred(13, &colour);
        area.draw_text(name, &style, ((80.0 + x * plot.0) as i32, plot.1))?;
    }
    Ok(())
}

/// The figures on a horizontal axis: a dot a seed, the median's mark, the bar, no effect, and the
/// falsifier's crosses on a line of their own.
fn figures_of_seeds(check: &CheckReport, falsifier: Option<&Sides>, area: &Area) -> Drawn {
    let falsified = falsifier.map_or_else(Vec::new, |sides| figures(check.kind, sides));
    let neutral = check.kind.neutral();
    let shown = check.per_seed.iter().chain(&falsified).copied();
    let axis = Axis::over(shown.chain([check.bar.value]).chain(neutral), true);
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .margin_left(28)
        .margin_right(28)
        .margin_top(20)
        .x_label_area_size(36)
        .build_cartesian_2d(axis.clone(), 0.0..1.0)?;
    let made = match check.kind {
        Kind::Ratio => "ours / baseline".to_owned(),
        Kind::Difference => format!("ours - baseline, {}", check.unit),
        Kind::Value => check.unit.clone(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(6)
        .x_desc(made)
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE.mix(0.3))
        .axis_style(PALE)
        .label_style((FONT, 12).into_font().color(&INK))
        .draw()?;
    if let Some(x) = neutral.map(|n| axis.at(n)).filter(|x| x.is_finite()) {
        chart.draw_series(LineSeries::new([(x, 0.0), (x, 1.0)], PALE.stroke_width(1)))?;
    }
    let bar = axis.at(check.bar.value);
    if bar.is_finite() {
        chart.draw_series(DashedLineSeries::new([(bar, 0.0), (bar, 1.0)], 6, 4, BAR.stroke_width(2)))?;
        let (x, y) = chart.backend_coord(&(bar, 1.0));
        let (left, top) = area.get_base_pixel();
        let label = format!("bar {} {}", check.bar.op.sign(), short(check.bar.value));
        area.draw_text(&label, &centred(12, &BAR), (x - left, y - top - 9))?;
    }
    let count = check.per_seed.len().max(1) as f64;
    for (i, figure) in check.per_seed.iter().enumerate() {
        let at = (axis.at(*figure), 0.45 + 0.4 * (i as f64 + 0.5) / count);
        if at.0.is_finite() {
            chart.draw_series([Circle::new(at, 4, OURS.filled())])?;
        }
    }
    let median = axis.at(check.figure);
    if median.is_finite() {
        chart.draw_series(LineSeries::new([(median, 0.4), (median, 0.9)], OURS.stroke_width(3)))?;
    }
    let count = falsified.len().max(1) as f64;
    for (i, figure) in falsified.iter().enumerate() {
        let at = (axis.at(*figure), 0.1 + 0.2 * (i as f64 + 0.5) / count);
        if at.0.is_finite() {
            chart.draw_series([Cross::new(at, 4, FALSIFIER.stroke_width(2))])?;
        }
    }
    Ok(())
}

fn figures(kind: Kind, sides: &Sides) -> Vec<f64> {
    let baseline = |i: usize| sides.baseline.get(i).copied().unwrap_or(f64::NAN);
    (sides.ours.iter().enumerate()).map(|(i, &ours)| kind.figure(baseline(i), ours)).collect()
}

/// Lines of medians; the band behind each spans the seeds.
fn curve_row(curve: &Curve, area: &Area) -> Drawn {
    area.draw_text(&curve.what, &(FONT, 15).into_font().color(&INK), (16, 8))?;
    let (_, body) = area.split_vertically(26);
    let points = || curve.lines.iter().flat_map(|line| &line.points);
    let xs = || points().map(|p| p.x);
    let x_axis = Axis::new(xs(), curve.log_x).with_ticks_at(xs());
    let y_axis = Axis::new(points().flat_map(|p| p.per_seed.iter().copied()), curve.log_y);
    let mut chart = ChartBuilder::on(&body)
        .margin(6)
        .margin_left(16)
        .margin_right(LEGEND)
        .x_label_area_size(38)
        .y_label_area_size(62)
        .build_cartesian_2d(x_axis.clone(), y_axis.clone())?;
    chart
        .configure_mesh()
        .x_labels(8)
        .y_labels(6)
        .x_desc(curve.x_label.as_str())
        .y_desc(curve.y_label.as_str())
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE.mix(0.3))
        .axis_style(PALE)
        .label_style((FONT, 12).into_font().color(&INK))
        .draw()?;
    for (i, (line, &colour)) in curve.lines.iter().zip(LINES.iter().cycle()).enumerate() {
        let spread: Vec<(f64, [f64; 3])> = line
            .points
            .iter()
            .filter_map(|p| Some((x_axis.at(p.x), low_median_high(&p.per_seed, &y_axis)?)))
            .filter(|(x, _)| x.is_finite())
            .collect();
        let low = spread.iter().map(|(x, y)| (*x, y[0]));
        let high = spread.iter().rev().map(|(x, y)| (*x, y[2]));
        chart.draw_series([Polygon::new(low.chain(high).collect::<Vec<_>>(), colour.mix(0.15))])?;
        let medians: Vec<(f64, f64)> = spread.iter().map(|(x, y)| (*x, y[1])).collect();
        chart.draw_series(LineSeries::new(medians, colour.stroke_width(2)).point_size(3))?;
        let (x, y) = ((WIDTH - LEGEND + 12) as i32, 18 + 20 * i as i32);
        body.draw(&PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)))?;
        let style = (FONT, 13).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
        body.draw_text(&line.name, &style, (x + 24, y))?;
    }
    Ok(())
}

fn low_median_high(values: &[f64], axis: &Axis) -> Option<[f64; 3]> {
    let mut places: Vec<f64> = values.iter().map(|v| axis.at(*v)).filter(|y| y.is_finite()).collect();
    places.sort_by(f64::total_cmp);
    Some([*places.first()?, places[places.len() / 2], *places.last()?])
}

fn centred<'a>(size: u32, colour: &'a RGBColor) -> TextStyle<'a> {
    (FONT, size).into_font().color(colour).pos(Pos::new(HPos::Center, VPos::Center))
}

/// An axis over what is shown, logarithmic where the values ask for it.
///
/// Its coordinates are places: the value, or its decimal logarithm.
#[derive(Clone)]
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    ticks: Option<Vec<f64>>,
}

impl Axis {
    /// Logarithmic where `may_be_log`, all values are positive, and they span a factor of 50.
    fn over(values: impl Iterator<Item = f64>, may_be_log: bool) -> Self {
        let values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
        let (low, high) = extent(&values);
        Self::new(values.into_iter(), may_be_log && low > 0.0 && high > 50.0 * low)
    }

    fn new(values: impl Iterator<Item = f64>, log: bool) -> Self {
        let place = |v: f64| if log { v.log10() } else { v };
        let places: Vec<f64> = values.map(place).filter(|v| v.is_finite()).collect();
        let (low, high) = extent(&places);
        let pad = if high > low { 0.08 * (high - low) } else { 0.5 * low.abs().max(1e-3) };
        Axis { low: low - pad, high: high + pad, log, ticks: None }
    }

    /// With a tick at each of these values, where they are few.
    fn with_ticks_at(mut self, values: impl Iterator<Item = f64>) -> Self {
        let mut places: Vec<f64> = values.map(|v| self.at(v)).filter(|v| v.is_finite()).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        if self.log && places.len() <= 10 {
            self.ticks = Some(places);
        }
        self
    }

    /// Where a value lies; not finite where the axis has no place for it.
    fn at(&self, value: f64) -> f64 {
        if self.log { value.log10() } else { value }
    }

    fn label(&self, place: f64) -> String {
        if self.log {
            short(10f64.powf(place))
        } else {
            // The nearest multiple of a ten-thousandth of the range: 0.30000000000000004 reads 0.3.
            let step = 10f64.powf((self.high - self.low).log10().floor() - 3.0);
            short((place / step).round() * step)
        }
    }

    /// 1, 2 and 5 of every decade, or its 1 alone where those were more than `most`.
    fn decade_ticks(&self, most: usize) -> Vec<f64> {
        let inside = |place: &f64| (self.low..=self.high).contains(place);
        let decades = self.low.floor() as i32..=self.high.ceil() as i32;
        let ticks = |steps: &[f64]| -> Vec<f64> {
            let places = decades.clone().flat_map(|d| steps.iter().map(move |s| f64::from(d) + s.log10()));
            places.filter(inside).collect()
        };
        let fine = ticks(&[1.0, 2.0, 5.0]);
        if fine.len() <= most { fine } else { ticks(&[1.0]) }
    }
}

impl Ranged for Axis {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range()).map(place, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match &self.ticks {
            Some(ticks) => ticks.clone(),
            None if self.log => self.decade_ticks(hint.max_num_points()),
            None => RangedCoordf64::from(self.range()).key_points(hint),
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, place: &f64) -> String {
        self.label(*place)
    }
}

fn extent(values: &[f64]) -> (f64, f64) {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// A figure in at most four significant digits.
pub(crate) fn short(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 {
        // Also of the zero below zero.
        "0".to_owned()
    } else if !value.is_finite() {
        format!("{value}")
    } else if !(1e-3..1e5).contains(&magnitude) {
        format!("{value:.1e}")
    } else {
        let digits = (3 - magnitude.log10().floor() as i32).clamp(0, 6) as usize;
        let text = format!("{value:.digits$}");
        match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_has_at_most_four_digits() {
        for (value, text) in [
            (1.0, "1"),
            (0.123456, "0.1235"),
            (1234.56, "1235"),
            (10.0, "10"),
            (2.5e-7, "2.5e-7"),
            (123456.0, "1.2e5"),
            (-0.02, "-0.02"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn an_axis_is_logarithmic_only_where_it_must_and_can_be() {
        assert!(Axis::over([1e-6, 0.3].into_iter(), true).log);
        assert!(!Axis::over([-1e-6, 0.3].into_iter(), true).log);
        assert!(!Axis::over([1.0, 2.0].into_iter(), true).log);
        assert!(Axis::over([f64::NAN].into_iter(), true).range().start.is_finite());
    }
}
