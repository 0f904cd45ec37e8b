//! The results of `slm bench speculative` as one self-contained page with plots.

use anyhow::{Context, Result, anyhow};
use bench::{PromptResult, Summary};
use infer::{Costs, MAX_DRAFT_LENGTH};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::fmt::Write as _;

const STYLE: &str = ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;\
padding:0 1rem}.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
td,th{border-bottom:1px solid #8884;padding:.25rem .5rem;text-align:right;vertical-align:bottom}\
td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto;background:#fff}\
.key b{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 1em}";

const MEASURED: RGBColor = RGBColor(220, 38, 38);
const THEORY: RGBColor = RGBColor(37, 99, 235);

/// The page: what the Markdown says, and four plots behind it.
pub(super) fn html(title: &str, markdown: &str, results: &[PromptResult], costs: Option<&Costs>) -> Result<String> {
    let summary = Summary::of(results, costs);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style></head>\
         <body><h1>{0}</h1>",
        escape(title)
    );
    text_of(markdown, &mut page)?;
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
        add("Gain by width", curve_plot(curve, (mean / rounds, summary.decode_speedup)))?;
        page.push_str(KEY);
    }
    let mut add = |heading: &str, svg: Result<String>| -> Result<()> {
        write!(page, "<h2>{}</h2>{}", escape(heading), svg?)?;
        Ok(())
    };
    add("Acceptance by place in the proposal", bars(&places, 1, 1.0, ["place", "accepted of judged"]))?;
    add("Rounds by number of tokens proposed", bars(&widths, 0, largest(&widths), ["tokens proposed", "rounds"]))?;
    add(
        "Gain in decoding of each prompt, sorted",
        bars(&gains, 1, largest(&gains).max(1.0), ["prompt", "times as fast"]),
    )?;
    page.push_str("</body></html>\n");
    Ok(page)
}

const KEY: &str = "<p class=\"key\"><b style=\"background:#2563eb\"></b>the formula at the measured acceptance and costs\
<b style=\"background:#dc2626\"></b>measured, at the mean width</p>";

/// The report's Markdown, of which it uses lists, tables and paragraphs; its title stands on the page already.
fn text_of(markdown: &str, page: &mut String) -> Result<()> {
    for part in markdown.split("\n\n").filter(|part| !part.starts_with("# ")) {
        let lines = || part.lines().filter(|line| !line.is_empty());
        if part.starts_with("- ") {
            let items = lines().map(|line| format!("<li>{}</li>", escape(line.trim_start_matches("- "))));
            write!(page, "<ul>{}</ul>", items.collect::<String>())?;
        } else if part.starts_with('|') {
            let cells = |line: &str, tag: &str| {
                let cells =
                    line.trim_matches('|').split('|').map(|cell| format!("<{tag}>{}</{tag}>", escape(cell.trim())));
                format!("<tr>{}</tr>", cells.collect::<String>())
            };
            let rows = lines().skip(2).map(|line| cells(line, "td"));
            let head = lines().next().map(|line| cells(line, "th")).unwrap_or_default();
            write!(page, "<div class=\"wide\"><table>{head}{}</table></div>", rows.collect::<String>())?;
        } else {
            write!(page, "<p>{}</p>", escape(part.trim()))?;
        }
    }
    Ok(())
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().filter(|value| value.is_finite()).fold(0.0, f64::max).max(1e-9)
}

/// Bars of `values` around whole numbers, beginning with `first`; `names` of the axes across and up.
fn bars(values: &[f64], first: usize, high: f64, names: [&str; 2]) -> Result<String> {
    drawn(|area| {
        let left = first as f64 - 0.5;
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d(left..left + values.len().max(1) as f64, 0.0..high * 1.05)?;
        let whole = |value: &f64| format!("{value:.0}");
        let mesh = &mut chart.configure_mesh();
        mesh.disable_x_mesh().x_label_formatter(&whole).x_labels(values.len().min(17));
        mesh.x_desc(names[0]).y_desc(names[1]).light_line_style(WHITE).draw()?;
        chart.draw_series(values.iter().enumerate().map(|(index, &value)| {
            let left = left + index as f64;
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
