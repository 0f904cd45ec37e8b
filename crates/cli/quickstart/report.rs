//! `report.html`: one self-contained page with the loss curves, the comparison and the samples of a quickstart.

use super::summary::{Held, Summary};
use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use std::fmt::Write as _;

/// The loss of one training run.
pub(crate) struct Curve {
    /// Which run.
    pub name: String,
    /// `(step, training loss in nats per token)`.
    pub training: Vec<(f64, f64)>,
    /// `(step, held-out loss in nats per token)`.
    pub held_out: Vec<(f64, f64)>,
}

/// A prompt and what a model made of it.
pub(crate) struct Sample {
    /// Which model wrote it.
    pub model: String,
    /// What it was given.
    pub prompt: String,
    /// What it added: pieces of text, and whether the draft proposed them.
    pub pieces: Vec<(String, bool)>,
}

/// What the page shows beside [`Summary`].
pub(crate) struct Report<'a> {
    /// The numbers.
    pub summary: &'a Summary,
    /// Each step of the quickstart and its seconds.
    pub stages: &'a [(String, f64)],
    /// One curve a training run.
    pub curves: &'a [Curve],
    /// Generated text.
    pub samples: &'a [Sample],
    /// Facts about data, models and machine, as label and value.
    pub facts: &'a [(String, String)],
    /// Commands to try next, with what they do.
    pub next: &'a [(String, String)],
}

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--accent:#2563eb;--draft:#15803d}\
@media(prefers-color-scheme:dark){:root{--accent:#7aa2ff;--draft:#6ee7a0}}\
body{font:16px/1.55 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{margin-bottom:.2rem}h2{margin-top:2.2rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}\
table{border-collapse:collapse;width:100%}td,th{padding:.35rem .6rem;border-bottom:1px solid var(--line);text-align:left}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
pre{background:var(--soft);padding:.8rem 1rem;border-radius:.4rem;white-space:pre-wrap;overflow-wrap:anywhere}\
code{background:var(--soft);padding:.1rem .3rem;border-radius:.25rem}pre code{background:none;padding:0}\
.prompt{opacity:.65}.draft{color:var(--draft)}svg{width:100%;height:auto;background:#fff;border-radius:.4rem}\
.bar{background:var(--accent);height:.6rem;border-radius:.3rem}.lead{opacity:.8;margin-top:0}";

impl Report<'_> {
    /// The page.
    ///
    /// # Errors
    /// Where a curve cannot be drawn.
    pub(crate) fn html(&self) -> Result<String> {
        let mut page = String::new();
        write!(
            page,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width,initial-scale=1\"><title>slm quickstart</title><style>{STYLE}</style></head><body>\
             <h1>A language model, from text to speculation</h1>\
             <p class=\"lead\">Everything on this page was made on this machine by <code>slm quickstart</code>.</p>"
        )?;
        self.outcome(&mut page)?;
        page.push_str("<h2>Loss</h2>");
        for curve in self.curves {
            write!(page, "<h3>{}</h3>{}", escape(&curve.name), draw(curve)?)?;
        }
        self.samples(&mut page)?;
        self.times(&mut page)?;
        page.push_str("<h2>What was made</h2><table>");
        for (label, value) in self.facts {
            write!(page, "<tr><th>{}</th><td>{}</td></tr>", escape(label), escape(value))?;
        }
        page.push_str("</table><h2>What to do next</h2>");
        for (command, purpose) in self.next {
            write!(page, "<p>{}</p><pre><code>{}</code></pre>", escape(purpose), escape(command))?;
        }
        page.push_str("</body></html>\n");
        Ok(page)
    }

    fn outcome(&self, page: &mut String) -> Result<()> {
        page.push_str(
            "<h2>Held-out text</h2><table><tr><th></th><th class=\"n\">unigram entropy</th><th class=\"n\">loss before</th>\
             <th class=\"n\">loss after</th><th class=\"n\">bits per byte</th></tr>",
        );
        for (name, held) in [("base, on prose", &self.summary.base), ("finetuned, on code", &self.summary.code)] {
            let Held { heldout_loss_before, heldout_loss_after, unigram_entropy, bits_per_byte } = held;
            write!(
                page,
                "<tr><td>{name}</td><td class=\"n\">{unigram_entropy:.3}</td><td class=\"n\">{heldout_loss_before:.3}</td>\
                 <td class=\"n\"><b>{heldout_loss_after:.3}</b></td><td class=\"n\">{bits_per_byte:.3}</td></tr>"
            )?;
        }
        let speculation = &self.summary.speculation;
        write!(
            page,
            "</table><p>Losses and entropy in nats per token, on documents that training never saw. A model that knows only \
             how often each token occurs would have the unigram entropy.</p><h2>Speculative decoding</h2><table>\
             <tr><th></th><th class=\"n\">tokens per second</th></tr>\
             <tr><td>target alone</td><td class=\"n\">{:.1}</td></tr><tr><td>with draft</td><td class=\"n\">{:.1}</td></tr></table>\
             <p>The draft proposed tokens of which {:.0} % were accepted; a pass of the target yielded {:.2} tokens. \
             The text is {} with and without the draft.</p>",
            speculation.plain_tokens_per_second,
            speculation.speculative_tokens_per_second,
            100.0 * speculation.acceptance,
            speculation.mean_accepted_length,
            if speculation.identical { "identical, byte for byte," } else { "NOT identical" },
        )?;
        Ok(())
    }

    fn samples(&self, page: &mut String) -> Result<()> {
        page.push_str(
            "<h2>Samples</h2><p>The prompt is faded; <span class=\"draft\">green</span> is what the draft proposed and the \
             target accepted.</p>",
        );
        for sample in self.samples {
            write!(
                page,
                "<h3>{}</h3><pre><span class=\"prompt\">{}</span>",
                escape(&sample.model),
                escape(&sample.prompt)
            )?;
            for (text, drafted) in &sample.pieces {
                if *drafted {
                    write!(page, "<span class=\"draft\">{}</span>", escape(text))?;
                } else {
                    page.push_str(&escape(text));
                }
            }
            page.push_str("</pre>");
        }
        Ok(())
    }

    fn times(&self, page: &mut String) -> Result<()> {
        let all = self.stages.iter().map(|(_, seconds)| seconds).sum::<f64>().max(1e-9);
        page.push_str("<h2>Time</h2><table>");
        for (stage, seconds) in self.stages {
            write!(
                page,
                "<tr><td>{}</td><td class=\"n\">{seconds:.1} s</td><td style=\"width:40%\"><div class=\"bar\" \
                 style=\"width:{:.1}%\"></div></td></tr>",
                escape(stage),
                100.0 * seconds / all
            )?;
        }
        write!(page, "<tr><th>in all</th><th class=\"n\">{all:.1} s</th><th></th></tr></table>")?;
        Ok(())
    }
}

/// A curve as an SVG element: training loss as a line, held-out loss as points.
fn draw(curve: &Curve) -> Result<String> {
    let points = || curve.training.iter().chain(&curve.held_out).filter(|(_, loss)| loss.is_finite());
    let last = points().map(|(step, _)| *step).fold(1.0, f64::max);
    let low = points().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
    let high = points().map(|(_, loss)| *loss).fold(f64::NEG_INFINITY, f64::max);
    if !low.is_finite() {
        return Ok("<p>No steps were taken.</p>".into());
    }
    let margin = ((high - low) * 0.06).max(0.05);
    let mut svg = String::new();
    let mut draw = || -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(&mut svg, (900, 320)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..last, low - margin..high + margin)?;
        chart.configure_mesh().x_desc("step").y_desc("nats per token").light_line_style(WHITE).draw()?;
        let line = RGBColor(37, 99, 235);
        chart
            .draw_series(LineSeries::new(curve.training.iter().copied(), line.stroke_width(2)))?
            .label("training")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], line.stroke_width(2)));
        let dot = RGBColor(220, 38, 38);
        chart
            .draw_series(curve.held_out.iter().map(|&point| Circle::new(point, 4, dot.filled())))?
            .label("held out")
            .legend(move |(x, y)| Circle::new((x + 9, y), 4, dot.filled()));
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
        area.present()?;
        Ok(())
    };
    draw().map_err(|error| anyhow!("{error}")).context("the loss curve cannot be drawn")?;
    Ok(svg)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
