//! A comparison as Markdown and as one HTML page.

use super::{Comparison, INTERVAL, Number, Report, published};
use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--real:#15803d}\
@media(prefers-color-scheme:dark){:root{--real:#6ee7a0}}\
body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}\
.wide{overflow-x:auto}table{border-collapse:collapse}\
td,th{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;font-variant-numeric:tabular-nums}\
td:first-child,th:first-child{text-align:left}small{opacity:.7}.real{color:var(--real);font-weight:600}\
tr.published{opacity:.75}";

/// A table as texts; the first row is the head. Cells are plain text.
struct Table {
    head: Vec<String>,
    rows: Vec<Row>,
}

struct Row {
    cells: Vec<String>,
    class: &'static str,
}

impl Report {
    /// The comparison as Markdown.
    pub fn markdown(&self) -> String {
        let mut page = String::new();
        for part in self.parts() {
            match part {
                Part::Title(text) => page += &format!("## {text}\n\n"),
                Part::Text(text) => page += &format!("{text}\n\n"),
                Part::Table(table) => {
                    page += &line(&table.head);
                    page += &line(&vec!["---".to_owned(); table.head.len()]);
                    table.rows.iter().for_each(|row| page += &line(&row.cells));
                    page.push('\n');
                }
            }
        }
        page
    }

    /// The comparison as a page that needs nothing else.
    pub fn html(&self) -> String {
        let mut page = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width,initial-scale=1\"><title>Comparison of models</title><style>{STYLE}</style>\
             </head><body><h1>Comparison of models</h1>"
        );
        for part in self.parts() {
            // Writing to a string does not fail.
            let _ = match part {
                Part::Title(text) => write!(page, "<h2>{}</h2>", escape(&text)),
                Part::Text(text) => write!(page, "<p>{}</p>", escape(&text)),
                Part::Table(table) => write!(page, "{}", table.html()),
            };
        }
        page + "</body></html>\n"
    }

    fn parts(&self) -> Vec<Part> {
        let mut parts = vec![
            Part::Title("Models and tasks".into()),
            Part::Table(self.overview()),
            Part::Text(format!(
                "{} where a task has it; ± is half of a 95 % interval ({INTERVAL} standard errors). Accuracies in percent.",
                self.metric
            )),
        ];
        if !self.published.is_empty() {
            parts.push(Part::Text(format!("Rows marked * are from {}.", published::SOURCE)));
        }
        if !self.comparisons.is_empty() {
            parts.push(Part::Title("Differences on the same documents".into()));
            parts.push(Part::Table(self.differences()));
            parts.push(Part::Text(
                "Difference: second minus first, with its 95 % interval by resampling documents 10,000 times. p: McNemar's \
                 exact test, two-sided. Real: p is small enough for 5 % in all comparisons together (Holm)."
                    .into(),
            ));
        }
        parts
    }

    fn overview(&self) -> Table {
        let head = std::iter::once("model".to_owned()).chain(self.tasks.iter().cloned()).collect();
        let model = |model: &super::Loaded| {
            let cell = |task: &String| match model.number(task, &self.metric) {
                Some((metric, number)) => show(metric, number),
                None => String::new(),
            };
            let cells = std::iter::once(model.name.clone()).chain(self.tasks.iter().map(cell));
            Row { cells: cells.collect(), class: "" }
        };
        let published = |row: &super::Published| {
            let cell = |task: &String| match row.number(task) {
                Some((value, stderr)) => show("acc", &Number { value, stderr: Some(stderr) }),
                None => String::new(),
            };
            let cells = std::iter::once(format!("{} *", row.model)).chain(self.tasks.iter().map(cell));
            Row { cells: cells.collect(), class: "published" }
        };
        let rows = self.models.iter().map(model).chain(self.published.iter().map(published));
        Table { head, rows: rows.collect() }
    }

    fn differences(&self) -> Table {
        let names = ["task", "first", "second", "documents", "only first", "only second", "difference", "p", "real"];
        let row = |comparison: &Comparison| {
            let Comparison { task, models, documents, only, difference, interval, p_value, is_real } = comparison;
            let percent = |value: f64| format!("{:+.2}", 100.0 * value);
            let cells = vec![
                task.clone(),
                self.models[models.0].name.clone(),
                self.models[models.1].name.clone(),
                documents.to_string(),
                only.0.to_string(),
                only.1.to_string(),
                format!("{} [{}, {}]", percent(*difference), percent(interval.0), percent(interval.1)),
                if *p_value < 1e-4 { format!("{p_value:.0e}") } else { format!("{p_value:.4}") },
                (if *is_real { "yes" } else { "not shown" }).to_owned(),
            ];
            Row { cells, class: if *is_real { "real" } else { "" } }
        };
        Table { head: names.map(str::to_owned).to_vec(), rows: self.comparisons.iter().map(row).collect() }
    }
}

enum Part {
    Title(String),
    Text(String),
    Table(Table),
}

impl Table {
    fn html(&self) -> String {
        let cells = |tag: &str, cells: &[String]| {
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect::<String>()
        };
        let rows = self.rows.iter().map(|row| format!("<tr class=\"{}\">{}</tr>", row.class, cells("td", &row.cells)));
        let rows = rows.collect::<String>();
        format!("<div class=\"wide\"><table><tr>{}</tr>{rows}</table></div>", cells("th", &self.head))
    }
}

/// A number with half of its interval: shares in percent, others as they are.
fn show(metric: &str, number: &Number) -> String {
    let (factor, digits) = if metric.starts_with("acc") { (100.0, 2) } else { (1.0, 3) };
    let value = format!("{:.digits$}", factor * number.value);
    let value =
        number.stderr.map_or(value.clone(), |error| format!("{value} ± {:.digits$}", factor * INTERVAL * error));
    if metric == "acc" { value } else { format!("{value} ({metric})") }
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
