//! The pictures of a run, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::load::QUANTILES;
use crate::report::{Line, Spread, Summary};
use crate::scale::Point;
use crate::tls::Tls;
use crate::work::Work;

const WIDTH: u32 = 900;
const BAR_HEIGHT: u32 = 26;
const OURS: RGBColor = RGBColor(31, 119, 180);
const THEIRS: RGBColor = RGBColor(160, 160, 160);
const PLAIN: RGBColor = RGBColor(214, 214, 214);

/// Draws every picture of `summary` into the directory `out`.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn all(out: &Path, summary: &Summary) -> Result<()> {
    let mut works: Vec<(Tls, Work)> = summary.lines.iter().map(|line| (line.key.tls, line.key.work)).collect();
    works.dedup();
    for (tls, work) in works {
        let lines: Vec<&Line> =
            summary.lines.iter().filter(|line| (line.key.tls, line.key.work) == (tls, work)).collect();
        let name = format!("tls{}-{}", tls.name().replace('.', ""), work.name());
        let title = |what: &str| format!("{what}: {}, TLS {}", work.name(), tls.name());
        let (cost, rate) = if work.is_bulk() { ("CPU s/GiB", "MiB/s") } else { ("CPU us/call", "calls/s") };
        bars(&out.join(format!("{name}-cpu.svg")), &title(cost), &lines, |line| line.cost)?;
        bars(&out.join(format!("{name}-rate.svg")), &title(rate), &lines, |line| line.rate)?;
        latencies(&out.join(format!("{name}-latency.svg")), &title("latency in us"), &lines)?;
    }
    Ok(())
}

/// A bar for each subject, with the range of its windows.
fn bars(path: &Path, title: &str, lines: &[&Line], figure: fn(&Line) -> Spread) -> Result<()> {
    let lines: Vec<&&Line> = lines.iter().filter(|line| figure(line).max > 0.0).collect();
    let most = lines.iter().map(|line| figure(line).max).fold(f64::MIN_POSITIVE, f64::max) * 1.05;
    let wrong = |error: String| anyhow!("{}: {error}", path.display());
    let height = 90 + BAR_HEIGHT * lines.len() as u32;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| wrong(error.to_string()))?;
    let mut builder = ChartBuilder::on(&area);
    builder.caption(title, ("sans-serif", 18)).margin(10).margin_right(30).x_label_area_size(30).y_label_area_size(120);
    let rows = 0.0..lines.len() as f64;
    let mut chart = builder.build_cartesian_2d(0.0..most, rows).map_err(|error| wrong(error.to_string()))?;
    let names: Vec<String> = lines.iter().rev().map(|line| line.key.subject.name()).collect();
    let mut mesh = chart.configure_mesh();
    mesh.disable_y_mesh().disable_y_axis().y_labels(0);
    mesh.draw().map_err(|error| wrong(error.to_string()))?;
    for (row, line) in lines.iter().rev().enumerate() {
        let Spread { median, min, max } = figure(line);
        let (low, high) = (row as f64 + 0.15, row as f64 + 0.85);
        let middle = f64::midpoint(low, high);
        let colour = match line.key.subject {
            subject if subject.is_sealane() => OURS,
            subject if subject.is_plain() => PLAIN,
            _ => THEIRS,
        };
        let bar = Rectangle::new([(0.0, low), (median, high)], colour.filled());
        let range = PathElement::new([(min, middle), (max, middle)], BLACK.stroke_width(2));
        chart.draw_series([bar]).map_err(|error| wrong(error.to_string()))?;
        chart.draw_series([range]).map_err(|error| wrong(error.to_string()))?;
    }
    for (row, name) in names.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(0.0, row as f64 + 0.5));
        let style = ("sans-serif", 14).into_text_style(&area);
        let style = style.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Right,
            plotters::style::text_anchor::VPos::Center,
        ));
        area.draw_text(name, &style, (x - 6, y)).map_err(|error| wrong(error.to_string()))?;
    }
    area.present().map_err(|error| wrong(error.to_string()))
}

/// A curve for each subject over the quantiles.
fn latencies(path: &Path, title: &str, lines: &[&Line]) -> Result<()> {
    let values = || lines.iter().flat_map(|line| line.latencies_us);
    let most = values().fold(1.0, f64::max) * 1.2;
    let least = values().filter(|us| *us > 0.0).fold(most, f64::min) * 0.8;
    let wrong = |error: String| anyhow!("{}: {error}", path.display());
    let area = SVGBackend::new(path, (WIDTH, 480)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| wrong(error.to_string()))?;
    let mut builder = ChartBuilder::on(&area);
    builder.caption(title, ("sans-serif", 18)).margin(10).x_label_area_size(36).y_label_area_size(64);
    let columns = 0.0..(QUANTILES.len() - 1) as f64;
    let chart = builder.build_cartesian_2d(columns, (least..most).log_scale());
    let mut chart = chart.map_err(|error| wrong(error.to_string()))?;
    let name =
        |at: &f64| QUANTILES.get(at.round() as usize).map_or_else(String::new, |(name, _)| name.replace('_', "."));
    let mut mesh = chart.configure_mesh();
    mesh.x_labels(QUANTILES.len()).x_label_formatter(&name).draw().map_err(|error| wrong(error.to_string()))?;
    for (index, line) in lines.iter().enumerate() {
        let width = if line.key.subject.is_sealane() { 3 } else { 1 };
        let colour = Palette99::pick(index).to_rgba();
        let points = line.latencies_us.iter().enumerate().map(|(column, us)| (column as f64, us.max(least)));
        let series = chart.draw_series(LineSeries::new(points, colour.stroke_width(width)));
        let series = series.map_err(|error| wrong(error.to_string()))?;
        series.label(line.key.subject.name()).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
    }
    let mut labels = chart.configure_series_labels();
    let labels = labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).border_style(BLACK);
    labels.draw().map_err(|error| wrong(error.to_string()))?;
    area.present().map_err(|error| wrong(error.to_string()))
}

/// A curve for each subject over the number of connections, both axes logarithmic.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn curves(path: &Path, what: &str, points: &[Point]) -> Result<()> {
    // On a logarithmic axis there is no place for none.
    let place = |point: &Point| (f64::from(point.connections.max(1)), point.value.median);
    let here: Vec<&Point> = points.iter().filter(|point| point.what == what).collect();
    let values = || here.iter().map(|point| point.value.median).filter(|value| *value > 0.0);
    let (least, most) = (values().fold(f64::MAX, f64::min) * 0.8, values().fold(f64::MIN_POSITIVE, f64::max) * 1.2);
    let widest = here.iter().map(|point| place(point).0).fold(1.0, f64::max) * 1.2;
    let wrong = |error: String| anyhow!("{}: {error}", path.display());
    let area = SVGBackend::new(path, (WIDTH, 480)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| wrong(error.to_string()))?;
    let mut builder = ChartBuilder::on(&area);
    builder.caption(what, ("sans-serif", 18)).margin(10).x_label_area_size(40).y_label_area_size(70);
    let chart = builder.build_cartesian_2d((0.9..widest).log_scale(), (least..most).log_scale());
    let mut chart = chart.map_err(|error| wrong(error.to_string()))?;
    chart.configure_mesh().x_desc("connections").draw().map_err(|error| wrong(error.to_string()))?;
    let mut subjects: Vec<_> = here.iter().map(|point| point.subject).collect();
    subjects.dedup();
    for (index, subject) in subjects.into_iter().enumerate() {
        let width = if subject.is_sealane() { 3 } else { 1 };
        let colour = Palette99::pick(index).to_rgba();
        let own = here.iter().filter(|point| point.subject == subject).map(|point| place(point));
        let series = chart.draw_series(LineSeries::new(own, colour.stroke_width(width)));
        let series = series.map_err(|error| wrong(error.to_string()))?;
        series.label(subject.name()).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
    }
    let mut labels = chart.configure_series_labels();
    let labels = labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).border_style(BLACK);
    labels.draw().map_err(|error| wrong(error.to_string()))?;
    area.present().map_err(|error| wrong(error.to_string()))
}
