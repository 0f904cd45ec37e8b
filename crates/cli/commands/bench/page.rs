//! The results of `slm bench speculative` as one self-contained page with plots.

use anyhow::{Context, Result, anyhow};
use bench::{PromptResult, Summary};
use infer::{Costs, MAX_DRAFT_LENGTH};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::fmt::Write as _;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse}td,th{border-bottom:1px solid #8884;padding:.25rem .6rem;text-align:right}\
svg{width:100%;height:auto;background:#fff}pre{white-space:pre-wrap;background:#8882;padding:1rem}";

const MEASURED: RGBColor = RGBColor(220, 38, 38);
const THEORY: RGBColor = RGBColor(37, 99, 235);

/// The page: what the Markdown says, and four plots.
pub(super) fn html(title: &str, markdown: &str, results: &[PromptResult], costs: Option<&Costs>) -> Result<String> {
    let summary = Summary::of(results, costs);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style></head>\
         <body><h1>{0}</h1>",
        escape(title)
    );
    let rates = |place: &[usize; 3]| place[2] as f64 / place[1].max(1) as f64;
    let judged = summary.positions.iter().take_while(|place| place[1] > 0);
    let places: Vec<f64> = judged.map(rates).collect();
    let mut gains: Vec<f64> =
        results.iter().map(|r| r.speculative.decode_rate() / r.plain.decode_rate().max(1e-9)).collect();
    gains.sort_by(f64::total_cmp);
    let widths: Vec<f64> = summary.widths.iter().map(|&count| count as f64).collect();
    let mut add = |heading: &str, svg: Result<String>| -> Result<()> {
        write!(page, "<h2>{}</h2>{}", escape(heading), svg?)?;
        Ok(())
    };
    if let (Some(costs), Some(formula)) = (costs, summary.formula) {
        let curve = (0..=MAX_DRAFT_LENGTH).map(|width| (width as f64, costs.speedup(formula.alpha, width))).collect();
        let mean = summary.widths.iter().enumerate().map(|(width, &rounds)| (width * rounds) as f64).sum::<f64>();
        let rounds = summary.widths.iter().sum::<usize>().max(1) as f64;
        add(
            "Gain by width: the formula at the measured acceptance and costs, and what was measured at the mean width",
            curve_plot(curve, (mean / rounds, summary.decode_speedup)),
        )?;
    }
    add("Acceptance by place in the proposal", bars(&places, 1.0, "place (from 0)", "accepted of judged"))?;
    add("Rounds by number of tokens proposed", bars(&widths, largest(&widths), "tokens proposed", "rounds"))?;
    add("Gain in decoding of each prompt, sorted", bars(&gains, largest(&gains).max(1.0), "prompt", "times as fast"))?;
    writeln!(page, "<h2>Numbers</h2><pre>{}</pre></body></html>", escape(markdown))?;
    Ok(page)
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().filter(|value| value.is_finite()).fold(0.0, f64::max).max(1e-9)
}

/// Bars of `values`, the first at 0.
fn bars(values: &[f64], high: f64, x: &str, y: &str) -> Result<String> {
    drawn(|area| {
        let last = values.len().max(1) as f64;
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..last, 0.0..high * 1.05)?;
        chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(WHITE).draw()?;
        chart.draw_series(values.iter().enumerate().map(|(index, &value)| {
            let left = index as f64;
            Rectangle::new([(left + 0.1, 0.0), (left + 0.9, value)], THEORY.filled())
        }))?;
        Ok(())
    })
}

fn curve_plot(curve: Vec<(f64, f64)>, measured: (f64, f64)) -> Result<String> {
    drawn(|area| {
        let high = curve.iter().map(|point| point.1).fold(measured.1, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..MAX_DRAFT_LENGTH as f64, 0.0..high)?;
        chart.configure_mesh().x_desc("tokens proposed").y_desc("times as fast").light_line_style(WHITE).draw()?;
        chart.draw_series(LineSeries::new(curve.iter().copied(), THEORY.stroke_width(2)))?;
        chart.draw_series([Circle::new(measured, 6, MEASURED.filled())])?;
        Ok(())
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn drawn(draw: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>) -> Result<String> {
    let mut svg = String::new();
    let all = || -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(&mut svg, (900, 300)).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
        Ok(())
    };
    all().map_err(|error| anyhow!("{error}")).context("a plot cannot be drawn")?;
    Ok(svg)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
