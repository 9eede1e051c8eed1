//! The curves of some loads as one SVG: latency by percentile, and throughput by concurrency or rate.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::LoadError;
use crate::measured::Measured;

const SIZE: (u32, u32) = (960, 420);
/// Colours that are told apart by those who see few: Okabe and Ito, 2008.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
    RGBColor(240, 228, 66),
];
/// Where a curve of percentiles ends: 99.99 %.
const LAST_QUANTILE: f64 = 4.0;
const POINTS: u32 = 120;

type Drawing<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Draws the runs, each with what it is to be called and its concurrency or rate; `axis` says which of the two.
///
/// # Errors
/// Nothing to draw, or a drawing that fails.
pub fn plot(runs: &[(String, f64, &Measured)], axis: &str) -> Result<String, LoadError> {
    let runs: Vec<_> = runs.iter().filter(|(_, _, measured)| measured.answered() > 0).collect();
    if runs.is_empty() {
        return Err(LoadError::Plot("no request was answered".to_owned()));
    }
    let mut svg = String::new();
    let failed = |error: DrawingAreaErrorKind<_>| LoadError::Plot(error.to_string());
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        let halves = area.split_evenly((1, 2));
        if let [left, right] = halves.as_slice() {
            percentiles(left, &runs).map_err(failed)?;
            throughput(right, &runs, axis).map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(svg)
}

fn percentiles(area: &Drawing<'_>, runs: &[&(String, f64, &Measured)]) -> Drawn {
    let curves: Vec<(&str, Vec<(f64, f64)>)> = runs.iter().map(|run| (run.0.as_str(), curve(run.2))).collect();
    let top = curves.iter().flat_map(|(_, points)| points).map(|point| point.1).fold(0.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .caption("latency by percentile", ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(38)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..LAST_QUANTILE, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(5)
        .x_label_formatter(&|nines| percent(*nines))
        .y_label_formatter(&|ms| short(*ms))
        .x_desc("percentile")
        .y_desc("ms")
        .draw()?;
    for ((name, points), colour) in curves.into_iter().zip(COLOURS.iter().cycle()) {
        let line = chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        line.label(name).legend(|(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .draw()
}

fn throughput(area: &Drawing<'_>, runs: &[&(String, f64, &Measured)], axis: &str) -> Drawn {
    let mut points: Vec<(f64, f64)> = runs.iter().map(|run| (run.1, run.2.per_second())).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let greatest = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).fold(0.0, f64::max);
    let (right, top) = (greatest(|point| point.0) * 1.05, greatest(|point| point.1) * 1.1);
    let mut chart = ChartBuilder::on(area)
        .caption(format!("throughput by {axis}"), ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(38)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, 0.0..top.max(f64::MIN_POSITIVE))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .x_desc(axis)
        .y_desc("requests/s")
        .draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), COLOURS[0].stroke_width(2)))?;
    chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, COLOURS[0].filled())))?;
    Ok(())
}

/// Latency in ms over the number of nines: 1 is the 90th percentile, 2 the 99th.
fn curve(measured: &Measured) -> Vec<(f64, f64)> {
    let nines = (0..=POINTS).map(|point| LAST_QUANTILE * f64::from(point) / f64::from(POINTS));
    nines.map(|nines| (nines, measured.latency(1.0 - 10_f64.powf(-nines)).as_secs_f64() * 1e3)).collect()
}

fn percent(nines: f64) -> String {
    let percent = 100.0 * (1.0 - 10_f64.powf(-nines));
    let text = format!("{percent:.2}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn short(value: f64) -> String {
    if value == 0.0 || value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_counts_nines() {
        assert_eq!([0.0, 1.0, 2.0, 4.0].map(percent), ["0 %", "90 %", "99 %", "99.99 %"]);
    }
}
