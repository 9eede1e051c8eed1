//! The plots of the page, as SVG. Colours are named by stand-ins that the page's style sheet
//! replaces, so that the same drawing serves light and dark; legends are the page's too, for text
//! wraps there.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::{HtmlError, Report};
use crate::HistoryPoint;
use crate::metrics::ConfusionMatrix;
use crate::metrics::calibration::Calibration;

/// Stand-ins: the style sheet in `page.html` has a rule for each.
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);
const FAINT: RGBColor = RGBColor(3, 3, 3);
const ON_ACCENT: RGBColor = RGBColor(4, 4, 4);

/// Number of colours for series; the page numbers them from 1.
pub(super) const SERIES: usize = 8;

/// More labels than this make cells too small to read.
pub(super) const HEAT_MAP_LABELS: usize = 24;

const SIZE: (u32, u32) = (440, 320);

type Drawing<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

const fn series(at: usize) -> RGBColor {
    RGBColor(10 + (at % SERIES) as u8, 10, 10)
}

/// The colours of the series as they stand in the drawings, for the style sheet.
pub(super) fn stand_ins() -> Vec<String> {
    let name = |RGBColor(red, green, blue)| format!("#{red:02X}{green:02X}{blue:02X}");
    (0..SERIES).map(|at| name(series(at))).collect()
}

/// One line of a plot: its points and the number of its colour.
pub(super) struct Line {
    pub(super) points: Vec<(f64, f64)>,
    pub(super) colour: usize,
    /// Dots as well, for points far apart.
    pub(super) dots: bool,
}

fn svg(plot: &'static str, size: (u32, u32), draw: impl FnOnce(&Drawing<'_>) -> Drawn) -> Result<String, HtmlError> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let failed = |error: DrawingAreaErrorKind<_>| HtmlError::Plot { plot, why: error.to_string() };
        draw(&area).map_err(failed)?;
        area.present().map_err(failed)?;
    }
    // A role and a name, for those who listen to the page.
    Ok(text.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{plot}\" "), 1))
}

fn label_font() -> TextStyle<'static> {
    ("sans-serif", 12).into_font().color(&INK)
}

/// Lines over a grid. `diagonal` adds the dashed line from the lower left to the upper right.
fn lines(
    plot: &'static str,
    axes: (&str, &str),
    range: ((f64, f64), (f64, f64)),
    diagonal: bool,
    lines: &[Line],
) -> Result<String, HtmlError> {
    svg(plot, SIZE, |area| {
        let ((left, right), (bottom, top)) = range;
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(14)
            .x_label_area_size(38)
            .y_label_area_size(48)
            .build_cartesian_2d(left..right, bottom..top)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(FAINT)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|x| short(*x, right - left))
            .y_label_formatter(&|y| short(*y, top - bottom))
            .label_style(label_font())
            .axis_desc_style(label_font())
            .x_desc(axes.0)
            .y_desc(axes.1)
            .draw()?;
        if diagonal {
            let ends = [(left, bottom), (right, top)];
            chart.draw_series(DashedLineSeries::new(ends, 4, 4, FAINT.stroke_width(1)))?;
        }
        for line in lines {
            let colour = series(line.colour);
            let points = line.points.iter().copied();
            chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
            if line.dots {
                chart.draw_series(points.map(|point| Circle::new(point, 3, colour.filled())))?;
            }
        }
        Ok(())
    })
}

/// ROC curves of the report's classes, in their order.
pub(super) fn roc(report: &Report) -> Result<String, HtmlError> {
    let of = |curve: &super::ClassCurves| -> Vec<(f64, f64)> {
        curve.roc.iter().map(|p| (p.false_positive_rate, p.true_positive_rate)).collect()
    };
    let axes = ("false positive rate", "true positive rate");
    lines("ROC curves", axes, UNIT, true, &class_lines(report, of))
}

/// Precision-recall curves of the report's classes, in their order.
pub(super) fn precision_recall(report: &Report) -> Result<String, HtmlError> {
    let of = |curve: &super::ClassCurves| -> Vec<(f64, f64)> {
        curve.precision_recall.iter().map(|p| (p.recall, p.precision)).collect()
    };
    lines("precision-recall curves", ("recall", "precision"), UNIT, false, &class_lines(report, of))
}

const UNIT: ((f64, f64), (f64, f64)) = ((0.0, 1.0), (0.0, 1.0));

fn class_lines(report: &Report, of: impl Fn(&super::ClassCurves) -> Vec<(f64, f64)>) -> Vec<Line> {
    let curves = report.curves.iter().take(SERIES).enumerate();
    curves.map(|(colour, curve)| Line { points: of(curve), colour, dots: false }).collect()
}

/// What a line shows of each point of the history, where it has it.
pub(super) type Value<'a> = &'a dyn Fn(&HistoryPoint) -> Option<f64>;

/// One value of the history over its steps, drawn in the colour of its place. Empty series are
/// fine.
pub(super) fn history(plot: &'static str, report: &Report, values: &[Value<'_>]) -> Result<String, HtmlError> {
    let drawn: Vec<Line> = values
        .iter()
        .enumerate()
        .map(|(colour, value)| {
            let point = |point: &HistoryPoint| {
                let value = value(point).filter(|value| value.is_finite())?;
                Some((point.step as f64, value))
            };
            let points: Vec<(f64, f64)> = report.history.iter().filter_map(point).collect();
            Line { dots: points.len() <= 30, points, colour }
        })
        .collect();
    let x = span(drawn.iter().flat_map(|line| line.points.iter().map(|point| point.0)), 0.0);
    let y = span(drawn.iter().flat_map(|line| line.points.iter().map(|point| point.1)), 0.06);
    lines(plot, ("step", ""), (x, y), false, &drawn)
}

/// The range of some values with a margin on both sides; never empty.
fn span(values: impl Iterator<Item = f64>, margin: f64) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    match high - low {
        width if width > 0.0 => (low - margin * width, high + margin * width),
        _ if low.is_finite() => {
            let half = if low == 0.0 { 1.0 } else { low.abs() * 0.5 };
            (low - half, low + half)
        }
        _ => (0.0, 1.0),
    }
}

/// A bar a bin from 0 to its accuracy, the gap to its confidence, and how many examples it has
/// along the foot.
pub(super) fn reliability(calibration: &Calibration) -> Result<String, HtmlError> {
    svg("reliability diagram", SIZE, |area| {
        let most = calibration.bins.iter().map(|bin| bin.count).max().unwrap_or(1).max(1) as f64;
        let (upper, lower) = area.split_vertically(238);
        let mut chart = ChartBuilder::on(&upper)
            .margin(8)
            .margin_right(14)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(FAINT)
            .x_labels(6)
            .y_labels(6)
            .label_style(label_font())
            .axis_desc_style(label_font())
            .y_label_formatter(&|y| short(*y, 1.0))
            .y_desc("accuracy")
            .draw()?;
        for bin in calibration.bins.iter().filter(|bin| bin.count > 0) {
            let inset = 0.08 * (bin.upper - bin.lower);
            let (left, right) = (bin.lower + inset, bin.upper - inset);
            let bar = |from, to, style: ShapeStyle| Rectangle::new([(left, from), (right, to)], style);
            chart.draw_series([
                bar(0.0, bin.accuracy, series(0).mix(0.85).filled()),
                bar(bin.accuracy, bin.confidence, series(1).mix(0.35).filled()),
            ])?;
        }
        let ends = [(0.0, 0.0), (1.0, 1.0)];
        chart.draw_series(DashedLineSeries::new(ends, 4, 4, INK.stroke_width(1)))?;
        let mut counts = ChartBuilder::on(&lower)
            .margin_left(8)
            .margin_right(14)
            .margin_bottom(8)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..1.0, 0.0..most)?;
        counts
            .configure_mesh()
            .disable_mesh()
            .axis_style(FAINT)
            .x_labels(6)
            .y_labels(2)
            .label_style(label_font())
            .axis_desc_style(label_font())
            .x_label_formatter(&|x| short(*x, 1.0))
            .y_label_formatter(&|y| short(*y, most))
            .x_desc("confidence (below: examples a bin)")
            .draw()?;
        for bin in &calibration.bins {
            let inset = 0.08 * (bin.upper - bin.lower);
            let corners = [(bin.lower + inset, 0.0), (bin.upper - inset, bin.count as f64)];
            counts.draw_series([Rectangle::new(corners, FAINT.filled())])?;
        }
        Ok(())
    })
}

/// Cells shaded by the share of their row, with their counts.
pub(super) fn heat_map(matrix: &ConfusionMatrix, labels: &[String]) -> Result<String, HtmlError> {
    let classes = matrix.classes() as i32;
    let longest = labels.iter().map(|label| label.chars().count().min(14)).max().unwrap_or(0);
    let (left, top) = (22 + 7 * longest as i32, 34);
    let cell = (320 / classes).clamp(18, 96);
    let width = left + cell * classes + 8;
    let height = top + cell * classes + 30;
    svg("confusion matrix", (width as u32, height as u32), |area| {
        let text = |text: String, at: (i32, i32), anchor: (HPos, VPos), colour: &RGBColor, size: i32| {
            use plotters::style::text_anchor::Pos;
            let font = ("sans-serif", size).into_font().color(colour);
            area.draw(&Text::new(text, at, font.pos(Pos::new(anchor.0, anchor.1))))
        };
        let font = if cell >= 40 { 14 } else { 10 };
        let column_characters = (cell / 7).max(2) as usize;
        for (row, counts) in matrix.rows().enumerate() {
            let y = top + cell * row as i32;
            let label = labels.get(row).map_or("", String::as_str);
            let middle = (left - 8, y + cell / 2);
            text(clip(label, 14), middle, (HPos::Right, VPos::Center), &INK, 12)?;
            let above = (left + cell * row as i32 + cell / 2, top - 10);
            text(clip(label, column_characters), above, (HPos::Center, VPos::Center), &INK, 12)?;
            let total = counts.iter().sum::<u64>().max(1) as f64;
            for (column, &count) in counts.iter().enumerate() {
                let x = left + cell * column as i32;
                let share = count as f64 / total;
                let colour = if row == column { series(0) } else { series(1) };
                let corners = [(x + 1, y + 1), (x + cell - 1, y + cell - 1)];
                area.draw(&Rectangle::new(corners, GRID.filled()))?;
                area.draw(&Rectangle::new(corners, colour.mix(share).filled()))?;
                let ink = if share > 0.55 { ON_ACCENT } else { INK };
                if count > 0 || classes <= 8 {
                    let middle = (x + cell / 2, y + cell / 2);
                    text(brief(count), middle, (HPos::Center, VPos::Center), &ink, font)?;
                }
            }
        }
        let foot = (left + cell * classes / 2, top + cell * classes + 16);
        text("rows: truth, columns: prediction".into(), foot, (HPos::Center, VPos::Center), &INK, 12)
    })
}

use plotters::style::text_anchor::{HPos, VPos};

/// The first characters of a label.
fn clip(label: &str, characters: usize) -> String {
    match label.char_indices().nth(characters) {
        Some(_) => label.chars().take(characters.saturating_sub(1)).chain(['…']).collect(),
        None => label.to_string(),
    }
}

/// A count in at most five characters.
fn brief(count: u64) -> String {
    match count {
        0..100_000 => count.to_string(),
        100_000..1_000_000 => format!("{}k", count / 1000),
        _ => format!("{:.1}M", count as f64 / 1e6),
    }
}

/// A number with the digits that a range of this width needs.
fn short(value: f64, width: f64) -> String {
    let value = if value.abs() < width * 1e-9 { 0.0 } else { value };
    match width {
        width if width >= 1e6 => format!("{:.1}M", value / 1e6),
        width if width >= 1e4 => format!("{:.0}k", value / 1e3),
        width if width >= 10.0 => format!("{value:.0}"),
        width if width >= 0.5 => format!("{value:.1}"),
        width if width >= 0.05 => format!("{value:.2}"),
        width if width >= 0.005 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_never_empty() {
        for values in [vec![], vec![0.0], vec![3.0, 3.0], vec![-2.0], vec![1.0, 2.0]] {
            let (low, high) = span(values.iter().copied(), 0.05);
            assert!(low < high && low.is_finite() && high.is_finite(), "{values:?}");
        }
    }

    #[test]
    fn labels_are_cut_by_characters() {
        assert_eq!(clip("größer", 6), "größer");
        assert_eq!(clip("größerer", 6), "größe…");
    }

    #[test]
    fn numbers_on_axes_are_short() {
        assert_eq!(short(0.1 + 0.2, 1.0), "0.3");
        assert_eq!(short(-1e-17, 1.0), "0.0");
        assert_eq!(short(25_000.0, 50_000.0), "25k");
        assert_eq!(brief(1_234_567), "1.2M");
    }
}
