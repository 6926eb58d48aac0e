//! The picture of a run, as SVG: a panel for each step.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::report::{Report, Row, Spread};

const PANEL: (u32, u32) = (640, 190);
const OURS: RGBColor = RGBColor(31, 119, 180);
const THEIRS: RGBColor = RGBColor(160, 160, 160);

/// Draws what each subject cost; where that is not known, how long its calls took.
///
/// # Errors
/// A file that cannot be written.
pub(super) fn draw(path: &Path, report: &Report) -> Result<()> {
    let steps: Vec<_> = report.steps().collect();
    let wrong = |error: String| anyhow!("{}: {error}", path.display());
    let area = SVGBackend::new(path, (PANEL.0, PANEL.1 * steps.len() as u32)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| wrong(error.to_string()))?;
    for (panel, step) in area.split_evenly((steps.len(), 1)).iter().zip(steps) {
        let rows: Vec<&Row> = report.rows_of(step).collect();
        let (what, figure): (_, fn(&Row) -> Option<Spread>) = match step.is_bulk() {
            _ if rows.iter().any(|row| row.cost().is_none()) => ("p50 us", |row| row.latency_us(0.5)),
            true => ("CPU s/GiB", Row::cost),
            false => ("CPU us/call", Row::cost),
        };
        let bars: Vec<(&str, Spread)> =
            rows.iter().filter_map(|row| Some((row.subject.as_str(), figure(row)?))).collect();
        bars_of(panel, &format!("{}: {what}", step.title()), &bars).map_err(wrong)?;
    }
    area.present().map_err(|error| wrong(error.to_string()))
}

fn bars_of(area: &DrawingArea<SVGBackend<'_>, Shift>, title: &str, bars: &[(&str, Spread)]) -> Result<(), String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let most = bars.iter().map(|(_, spread)| spread.max).fold(f64::MIN_POSITIVE, f64::max) * 1.05;
    let mut builder = ChartBuilder::on(area);
    builder.caption(title, ("sans-serif", 16)).margin(10).margin_right(30).x_label_area_size(30).y_label_area_size(140);
    let mut chart =
        builder.build_cartesian_2d(0.0..most, 0.0..bars.len().max(1) as f64).map_err(|error| said(&error))?;
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().disable_y_axis().y_labels(0).draw().map_err(|error| said(&error))?;
    let anchor = plotters::style::text_anchor::Pos::new(
        plotters::style::text_anchor::HPos::Right,
        plotters::style::text_anchor::VPos::Center,
    );
    for (row, (name, Spread { median, min, max })) in bars.iter().rev().enumerate() {
        let (low, high) = (row as f64 + 0.15, row as f64 + 0.85);
        let middle = f64::midpoint(low, high);
        let colour = if name.starts_with("sealane") { OURS } else { THEIRS };
        let bar = Rectangle::new([(0.0, low), (*median, high)], colour.filled());
        let range = PathElement::new([(*min, middle), (*max, middle)], BLACK.stroke_width(2));
        chart.draw_series([bar]).map_err(|error| said(&error))?;
        chart.draw_series([range]).map_err(|error| said(&error))?;
        let (x, y) = chart.backend_coord(&(0.0, middle));
        let (left, top) = area.get_base_pixel();
        let style = ("sans-serif", 14).into_text_style(area).pos(anchor);
        area.draw_text(name, &style, (x - left - 6, y - top)).map_err(|error| said(&error))?;
    }
    Ok(())
}
