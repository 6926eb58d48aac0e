//! The curves of a run.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::sample::Sample;

/// One process at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Since the start.
    pub(crate) seconds: f64,
    /// Which process.
    pub(crate) process: String,
    /// What it had.
    pub(crate) sample: Sample,
}

const SIZE: (u32, u32) = (960, 400);

/// Draws one curve for each process into an SVG file.
///
/// # Errors
/// When there is nothing to draw, or the file cannot be written.
pub(crate) fn draw(path: &Path, title: &str, rows: &[Row], value: fn(&Sample) -> f64) -> Result<()> {
    let end = rows.iter().map(|row| row.seconds).fold(1.0, f64::max);
    let most = rows.iter().map(|row| value(&row.sample)).fold(1.0, f64::max) * 1.1;
    let mut names: Vec<&str> = rows.iter().map(|row| row.process.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let wrong = |error| anyhow!("{}: {error}", path.display());
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|error| wrong(error.to_string()))?;
    let mut builder = ChartBuilder::on(&area);
    builder.caption(title, ("sans-serif", 18)).margin(10).x_label_area_size(36).y_label_area_size(64);
    let mut chart = builder.build_cartesian_2d(0.0..end / 60.0, 0.0..most).map_err(|error| wrong(error.to_string()))?;
    chart.configure_mesh().x_desc("minutes").draw().map_err(|error| wrong(error.to_string()))?;
    for (index, name) in names.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let own = rows.iter().filter(|row| row.process == *name);
        let line = LineSeries::new(own.map(|row| (row.seconds / 60.0, value(&row.sample))), colour.stroke_width(2));
        let series = chart.draw_series(line).map_err(|error| wrong(error.to_string()))?;
        series.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
    }
    let mut labels = chart.configure_series_labels();
    let labels = labels.position(SeriesLabelPosition::LowerRight).background_style(WHITE.mix(0.8)).border_style(BLACK);
    labels.draw().map_err(|error| wrong(error.to_string()))?;
    area.present().map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_curve_for_each_process() {
        let path = std::env::temp_dir().join(format!("sealane-plot-{}.svg", std::process::id()));
        let row = |index: u64, process: &str| Row {
            seconds: index as f64,
            process: process.into(),
            sample: Sample { rss_kib: 100 + index, fds: 9, threads: 3 },
        };
        let rows: Vec<_> = (0..5).flat_map(|index| [row(index, "client"), row(index, "server")]).collect();
        draw(&path, "RSS", &rows, |sample| sample.rss_kib as f64).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(text.matches("<polyline").count() >= 2 && text.contains("server") && text.contains("RSS"));
    }
}
