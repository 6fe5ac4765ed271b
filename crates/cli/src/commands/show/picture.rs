//! A planned graph as a picture: the arena over time above, operators in the order of execution with arcs from where
//! each tensor is made to where it is read below. Every rectangle and arc is read off the plan that runs.

use std::fmt::Write;

use memwall_graph::{Graph, Place, Plan, Source};
use memwall_store::format_size;

const STEP: f64 = 14.0;
const ARENA: f64 = 360.0;
const LABELS: f64 = 190.0;
const ARCS: f64 = 220.0;
const LEFT: f64 = 90.0;
const TOP: f64 = 40.0;
/// Fills of segments, in turn.
const FILLS: [&str; 6] = ["#4e79a7", "#59a14f", "#f28e2b", "#76b7b2", "#b07aa1", "#edc948"];
const SCRATCH: &str = "#bab0ac";

/// The picture.
pub fn draw(graph: &Graph, plan: &Plan, title: &str) -> String {
    let nodes = graph.nodes().len().max(1);
    let (width, height) = (LEFT + nodes as f64 * STEP + 20.0, TOP + ARENA + LABELS + ARCS);
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="9">
<rect width="100%" height="100%" fill="white"/>
<text x="{LEFT}" y="18" font-size="13">{}</text>
<text x="{LEFT}" y="32" fill="#555">arena of {} over the operators in their order; {} live at once at most; grey: scratch</text>"##,
        escape(title),
        format_size(plan.arena_bytes),
        format_size(plan.lower_bound),
    );
    arena(&mut svg, graph, plan);
    operators(&mut svg, graph, plan);
    svg.push_str("</svg>\n");
    svg
}

fn x(node: usize) -> f64 {
    LEFT + node as f64 * STEP
}

fn fill(graph: &Graph, node: usize) -> &'static str {
    match graph.nodes().get(node).and_then(|n| n.segment) {
        Some(segment) => FILLS[segment.0 as usize % FILLS.len()],
        None => "#9c755f",
    }
}

fn arena(svg: &mut String, graph: &Graph, plan: &Plan) {
    let scale = ARENA / plan.arena_bytes.max(1) as f64;
    let bottom = TOP + ARENA;
    for part in 0..=4 {
        let y = bottom - ARENA * f64::from(part) / 4.0;
        let label = format_size(plan.arena_bytes * part as usize / 4);
        let _ = writeln!(svg, r#"<text x="{:.0}" y="{y:.1}" text-anchor="end">{label}</text>"#, LEFT - 6.0);
    }
    for b in &plan.buffers {
        let last = b.death.min(graph.nodes().len().saturating_sub(1));
        let (left, right) = (x(b.birth), x(last + 1));
        let (y, h) = (bottom - (b.offset + b.bytes) as f64 * scale, b.bytes as f64 * scale);
        let (colour, name) = match b.value {
            Some(value) => (fill(graph, b.birth), graph.info(value).name.to_string()),
            None => (SCRATCH, format!("scratch of {}", graph.nodes()[b.birth].op.name())),
        };
        let _ = writeln!(
            svg,
            r#"<rect x="{left:.1}" y="{y:.2}" width="{:.1}" height="{h:.2}" fill="{colour}" stroke="white" stroke-width="0.4"><title>{} {} at {}, operators {} to {}</title></rect>"#,
            right - left,
            escape(&name),
            format_size(b.bytes),
            b.offset,
            b.birth,
            b.death,
        );
    }
}

fn operators(svg: &mut String, graph: &Graph, plan: &Plan) {
    let top = TOP + ARENA + 12.0;
    let line = top + LABELS - 20.0;
    for (i, node) in graph.nodes().iter().enumerate() {
        let (at, label) = (x(i) + STEP / 2.0, top);
        let name = node.op.name();
        let _ = writeln!(
            svg,
            r#"<text transform="translate({at:.1},{label:.1}) rotate(90)" fill="{}"><title>{}</title>{}</text>"#,
            fill(graph, i),
            escape(&node.scope),
            escape(&format!("{i} {name}")),
        );
        for &input in &node.inputs {
            let Source::Node { node: maker, .. } = graph.info(input).source else { continue };
            let from = x(maker) + STEP / 2.0;
            let depth = line + ((i - maker) as f64 * STEP).min(2.0 * ARCS) / 2.0 * 0.9;
            let dash = if matches!(plan.place(input), Place::Arena(_)) { "" } else { r#" stroke-dasharray="2""# };
            let _ = writeln!(
                svg,
                r#"<path d="M{from:.1} {line:.1} Q{:.1} {depth:.1} {at:.1} {line:.1}" fill="none" stroke="{}" stroke-width="0.8"{dash}><title>{} {}</title></path>"#,
                (from + at) / 2.0,
                fill(graph, maker),
                escape(&graph.info(input).name),
                escape(&graph.ty(input).to_string()),
            );
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
