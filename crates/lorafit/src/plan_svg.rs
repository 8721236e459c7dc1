//! The costs of the methods as a stacked bar chart (SVG 1.1): bars against the memory that devices have.

use std::fmt::Write as _;

use crate::command::plan::{DEVICES, MethodCost};
use crate::page::escape;

/// Colours that people with any colour vision tell apart (Okabe and Ito 2008), each with one for text on it.
const PARTS: [(&str, &str, &str); 4] = [
    ("weights", "#0072b2", "#ffffff"),
    ("gradients", "#e69f00", "#222222"),
    ("optimizer", "#cc79a7", "#222222"),
    ("activations", "#009e73", "#ffffff"),
];

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 280.0;
/// Room for the total beside the longest bar.
const RIGHT: f64 = 130.0;
const BAR: f64 = 44.0;
const STEP: f64 = 66.0;
const TOP: f64 = 150.0;
const BOTTOM: f64 = 64.0;
/// A label of a device needs so much room.
const LABEL: f64 = 26.0;

/// The chart of `model`; `subtitle` says what for.
pub fn draw(model: &str, subtitle: &str, methods: &[MethodCost]) -> String {
    let bottom = TOP + STEP * methods.len() as f64;
    let height = bottom + BOTTOM;
    let most = methods.iter().map(|m| m.total).max().unwrap_or(1).max(1) as f64;
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"system-ui, 'DejaVu Sans', Arial, sans-serif\" font-size=\"18\" \
         fill=\"#222222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"32\" y=\"50\" font-size=\"30\" font-weight=\"600\">Memory to fine-tune {}</text>\n\
         <text x=\"32\" y=\"80\" fill=\"#666666\">{}</text>\n",
        escape(model),
        escape(subtitle)
    );
    legend(&mut svg);
    devices(&mut svg, scale, WIDTH - RIGHT, bottom);
    for (i, method) in methods.iter().enumerate() {
        bar(&mut svg, method, scale, TOP + STEP * i as f64 + (STEP - BAR) / 2.0);
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String) {
    let mut x = LEFT;
    for (name, colour, _) in PARTS {
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"104\" width=\"18\" height=\"18\" rx=\"3\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"119\">{name}</text>",
            x + 26.0
        );
        x += 160.0;
    }
}

/// A line for the memory of every device that is within the chart, named below where there is room.
fn devices(svg: &mut String, scale: f64, right: f64, bottom: f64) {
    let below = bottom + 20.0;
    let text = |x: f64, anchor: &str, text: &str| {
        format!(
            "<text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"{anchor}\" font-size=\"15\" fill=\"#666666\">{text}</text>\n"
        )
    };
    let mut free_from = LEFT;
    for gb in DEVICES {
        let x = LEFT + gb as f64 * 1e9 * scale;
        if x > right {
            break;
        }
        if gb == DEVICES[0] {
            svg.push_str(&text(LEFT - 16.0, "end", "device memory, GB"));
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#bbbbbb\" \
             stroke-dasharray=\"4 4\"/>"
        );
        if x - LABEL / 2.0 >= free_from {
            svg.push_str(&text(x, "middle", &gb.to_string()));
            free_from = x + LABEL / 2.0;
        }
    }
}

fn bar(svg: &mut String, method: &MethodCost, scale: f64, y: f64) {
    let middle = y + BAR / 2.0 + 6.0;
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
        LEFT - 16.0,
        escape(&method.method)
    );
    let mut x = LEFT;
    let bytes = [method.weights, method.gradients, method.optimizer, method.activations];
    for ((name, colour, on_it), bytes) in PARTS.into_iter().zip(bytes) {
        let (width, gb) = (bytes as f64 * scale, bytes as f64 / 1e9);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{BAR}\" fill=\"{colour}\">\
             <title>{name} {gb:.2} GB</title></rect>"
        );
        let label = format!("{gb:.1}");
        if width > 11.0 * label.len() as f64 + 8.0 {
            let _ = writeln!(
                svg,
                "<text x=\"{:.2}\" y=\"{middle}\" text-anchor=\"middle\" font-size=\"16\" fill=\"{on_it}\">{label}</text>",
                x + width / 2.0
            );
        }
        x += width;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.2}\" y=\"{middle}\" font-weight=\"600\" stroke=\"#ffffff\" stroke-width=\"5\" \
         paint-order=\"stroke\">{:.digits$} GB</text>",
        x + 12.0,
        method.total as f64 / 1e9,
        digits = if method.total < 10_000_000_000 { 2 } else { 1 }
    );
}
