//! The costs of the methods as a stacked bar chart (SVG 1.1), readable on light and dark pages.

use std::fmt::Write as _;

use crate::command::plan::MethodCost;

/// Colours that people with any colour vision tell apart (Okabe and Ito 2008).
const PARTS: [(&str, &str); 4] =
    [("weights", "#0072b2"), ("gradients", "#e69f00"), ("optimizer", "#cc79a7"), ("activations", "#009e73")];

const WIDTH: f64 = 900.0;
const LEFT: f64 = 250.0;
const BAR: f64 = 34.0;
const STEP: f64 = 54.0;
const TOP: f64 = 84.0;

/// The chart of `model`.
pub fn draw(model: &str, methods: &[MethodCost]) -> String {
    let height = TOP + STEP * methods.len() as f64 + 24.0;
    let most = methods.iter().map(|m| m.total).max().unwrap_or(1).max(1) as f64;
    // Room for the total beside the longest bar.
    let scale = (WIDTH - LEFT - 110.0) / most;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"system-ui, 'DejaVu Sans', Arial, sans-serif\" font-size=\"15\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"20\" y=\"34\" font-size=\"20\" font-weight=\"600\" fill=\"#222222\">Memory to fine-tune {}</text>\n",
        escape(model)
    );
    let mut x = LEFT;
    for (name, colour) in PARTS {
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"52\" width=\"14\" height=\"14\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"64\" fill=\"#222222\">{name}</text>",
            x + 20.0
        );
        x += 130.0;
    }
    for (i, method) in methods.iter().enumerate() {
        let y = TOP + STEP * i as f64 + 8.0;
        let middle = y + BAR / 2.0 + 5.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\" fill=\"#222222\">{}</text>",
            LEFT - 12.0,
            escape(&method.method)
        );
        let mut x = LEFT;
        let bytes = [method.weights, method.gradients, method.optimizer, method.activations];
        for ((name, colour), bytes) in PARTS.into_iter().zip(bytes) {
            let width = bytes as f64 * scale;
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{BAR}\" fill=\"{colour}\">\
                 <title>{name} {:.2} GB</title></rect>",
                bytes as f64 / 1e9
            );
            x += width;
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.2}\" y=\"{middle}\" font-weight=\"600\" fill=\"#222222\">{:.1} GB</text>",
            x + 10.0,
            method.total as f64 / 1e9
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
