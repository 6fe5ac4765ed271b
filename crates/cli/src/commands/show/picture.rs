//! A planned graph as a picture, read off the plan that runs.
//!
//! Above, the arena over the operators in their order: a rectangle for each tensor from its first write to its last read,
//! and the line of what is live. Below, the operators with arcs from where a tensor is made to where it is read. Columns
//! of the backward pass are grey, operators that are done again red, fused ones bold with their parts.

use std::fmt::Write;

use memwall_graph::ops::pointwise::{Instruction, Pointwise};
use memwall_graph::{Graph, Node, Phase, Place, Plan, Source};
use memwall_store::format_size;

const STEP: f64 = 13.0;
const ARENA: f64 = 420.0;
const LAYERS: f64 = 18.0;
const ARCS: f64 = 170.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 74.0;
/// The narrowest picture, so that title and legend have room.
const LEAST: f64 = 760.0;
/// Fills of layers, in turn.
const FILLS: [&str; 6] = ["#4e79a7", "#59a14f", "#f28e2b", "#76b7b2", "#b07aa1", "#edc948"];
/// What is in no layer.
const NO_LAYER: &str = "#9c755f";
const SCRATCH: &str = "#bab0ac";
const BACKWARD: &str = "#eef0f3";
const AGAIN: &str = "#c8322b";
const AGAIN_COLUMN: &str = "#fbe3e1";

/// The picture.
pub fn draw(graph: &Graph, plan: &Plan, title: &str) -> String {
    let nodes = graph.nodes().len().max(1);
    let width = (LEFT + nodes as f64 * STEP + RIGHT).max(LEAST);
    let height = bottom() + labels(graph) + ARCS;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" font-family="sans-serif" font-size="9" fill="#222">
<rect width="100%" height="100%" fill="white"/>
<text x="{LEFT}" y="20" font-size="14">{}</text>
<text x="{LEFT}" y="36" font-size="11" fill="#555">{}</text>"##,
        escape(title),
        escape(&summary(graph, plan)),
    );
    legend(&mut svg, graph);
    columns(&mut svg, graph);
    layers(&mut svg, graph);
    arena(&mut svg, graph, plan);
    live(&mut svg, graph, plan);
    operators(&mut svg, graph, plan);
    svg.push_str("</svg>\n");
    svg
}

/// Counts of what passes did, and the bytes.
fn summary(graph: &Graph, plan: &Plan) -> String {
    let count = |what: &dyn Fn(&Node) -> bool| graph.nodes().iter().filter(|n| what(n)).count();
    format!(
        "{} operators, {} of them fused, {} done again; arena {}, {} live at once at most",
        graph.nodes().len(),
        count(&|n| fused(n).is_some()),
        count(&|n| n.phase == Phase::Recompute),
        format_size(plan.arena_bytes),
        format_size(plan.lower_bound),
    )
}

/// The functions of a fused operator, if it is one.
fn fused(node: &Node) -> Option<Vec<&'static str>> {
    use memwall_graph::Op;
    let program = node.op.as_pointwise().filter(|p| p.instructions.len() > 1)?;
    let name = |step: &Instruction| match *step {
        Instruction::Unary(f, _) => Pointwise::unary(f).name(),
        Instruction::Binary(f, ..) => Pointwise::binary(f).name(),
    };
    Some(program.instructions.iter().map(name).collect())
}

fn x(node: usize) -> f64 {
    LEFT + node as f64 * STEP
}

fn bottom() -> f64 {
    TOP + LAYERS + ARENA
}

fn fill(graph: &Graph, node: usize) -> &'static str {
    match graph.nodes().get(node).and_then(|n| n.segment) {
        Some(segment) => FILLS[segment.0 as usize % FILLS.len()],
        None => NO_LAYER,
    }
}

fn legend(svg: &mut String, graph: &Graph) {
    let has = |phase: Phase| graph.nodes().iter().any(|n| n.phase == phase);
    let mut entries = vec![(FILLS[0], "tensor, by layer"), (NO_LAYER, "outside of layers"), (SCRATCH, "scratch")];
    if has(Phase::Backward) {
        entries.push((BACKWARD, "backward pass"));
    }
    if has(Phase::Recompute) {
        entries.push((AGAIN, "done again"));
    }
    let mut at = LEFT;
    for (colour, text) in entries {
        let _ = writeln!(
            svg,
            r##"<rect x="{at:.0}" y="46" width="10" height="10" fill="{colour}" stroke="#999" stroke-width="0.3"/><text x="{:.0}" y="55" font-size="10">{text}</text>"##,
            at + 14.0
        );
        at += 30.0 + 5.6 * text.len() as f64;
    }
    let _ = writeln!(
        svg,
        r##"<path d="M{at:.0} 51 h16" stroke="#111" fill="none"/><text x="{:.0}" y="55" font-size="10">live bytes</text>"##,
        at + 20.0
    );
}

/// Backgrounds of the columns by the part of the step that they belong to.
fn columns(svg: &mut String, graph: &Graph) {
    for (from, to, phase) in runs(graph, |n| n.phase) {
        let colour = match phase {
            Phase::Forward => continue,
            Phase::Backward => BACKWARD,
            Phase::Recompute => AGAIN_COLUMN,
        };
        let (left, wide, top) = (x(from), (to - from) as f64 * STEP, TOP + LAYERS);
        let _ = writeln!(
            svg,
            r##"<rect x="{left:.1}" y="{top}" width="{wide:.1}" height="{:.0}" fill="{colour}"/>"##,
            ARENA + labels(graph)
        );
    }
}

/// Stretches of nodes that have the same property.
fn runs<K: PartialEq>(graph: &Graph, key: impl Fn(&Node) -> K) -> Vec<(usize, usize, K)> {
    let mut all: Vec<(usize, usize, K)> = Vec::new();
    for (i, node) in graph.nodes().iter().enumerate() {
        let k = key(node);
        match all.last_mut() {
            Some((_, to, last)) if *last == k => *to = i + 1,
            _ => all.push((i, i + 1, k)),
        }
    }
    all
}

/// Brackets with the names of layers.
fn layers(svg: &mut String, graph: &Graph) {
    let layer = |n: &Node| match n.segment {
        Some(_) => n.scope.split('.').take(2).collect::<Vec<_>>().join("."),
        None => String::new(),
    };
    for (from, to, name) in runs(graph, layer) {
        let wide = (to - from) as f64 * STEP;
        if name.is_empty() {
            continue;
        }
        let colour = fill(graph, from);
        let _ = writeln!(
            svg,
            r#"<rect x="{:.1}" y="{TOP}" width="{:.1}" height="4" fill="{colour}"><title>{}</title></rect>"#,
            x(from) + 1.0,
            wide - 2.0,
            escape(&name)
        );
        if wide >= 5.2 * name.len() as f64 {
            let _ = writeln!(
                svg,
                r#"<text x="{:.1}" y="{:.0}" text-anchor="middle" fill="{colour}">{}</text>"#,
                x(from) + wide / 2.0,
                TOP + 14.0,
                escape(&name)
            );
        }
    }
}

fn arena(svg: &mut String, graph: &Graph, plan: &Plan) {
    let scale = ARENA / plan.arena_bytes.max(1) as f64;
    let end = x(graph.nodes().len().max(1));
    for part in 0..=4 {
        let y = bottom() - ARENA * f64::from(part) / 4.0;
        let label = format_size(plan.arena_bytes * part as usize / 4);
        let _ = writeln!(
            svg,
            r##"<path d="M{LEFT} {y:.1} H{end:.1}" stroke="#ddd" stroke-width="0.5"/><text x="{:.0}" y="{:.1}" text-anchor="end" fill="#555">{label}</text>"##,
            LEFT - 6.0,
            y + 3.0
        );
    }
    for b in &plan.buffers {
        let last = b.death.min(graph.nodes().len().saturating_sub(1));
        let (left, right) = (x(b.birth), x(last + 1));
        let (y, h) = (bottom() - (b.offset + b.bytes) as f64 * scale, b.bytes as f64 * scale);
        let (colour, name) = match b.value {
            Some(value) => (fill(graph, b.birth), graph.info(value).name.to_string()),
            None => (SCRATCH, format!("scratch of {}", graph.nodes()[b.birth].op.name())),
        };
        let again = graph.nodes().get(b.birth).is_some_and(|n| n.phase == Phase::Recompute) && b.value.is_some();
        let (edge, thick) = if again { (AGAIN, 1.2) } else { ("white", 0.4) };
        let _ = writeln!(
            svg,
            r#"<rect x="{left:.1}" y="{y:.2}" width="{:.1}" height="{h:.2}" fill="{colour}" fill-opacity="0.85" stroke="{edge}" stroke-width="{thick}"><title>{}: {} at byte {}, operators {} to {last}</title></rect>"#,
            right - left,
            escape(&name),
            format_size(b.bytes),
            b.offset,
            b.birth,
        );
        // Large tensors say their name where it fits.
        if h >= 9.0 && right - left >= 5.0 * name.len() as f64 {
            let _ = writeln!(
                svg,
                r#"<text x="{:.1}" y="{:.1}" font-size="8" fill="white">{}</text>"#,
                left + 2.0,
                y + h / 2.0 + 3.0,
                escape(&name)
            );
        }
    }
}

/// The line of the bytes that are live at each operator.
fn live(svg: &mut String, graph: &Graph, plan: &Plan) {
    let scale = ARENA / plan.arena_bytes.max(1) as f64;
    let mut path = String::new();
    for i in 0..graph.nodes().len() {
        let bytes: usize = plan.buffers.iter().filter(|b| b.birth <= i && i <= b.death).map(|b| b.bytes).sum();
        let y = bottom() - bytes as f64 * scale;
        let _ = write!(path, "{}{:.1} {y:.1} H{:.1}", if i == 0 { "M" } else { " L" }, x(i), x(i + 1));
    }
    let _ = writeln!(svg, r##"<path d="{path}" fill="none" stroke="#111" stroke-width="1"/>"##);
}

fn operators(svg: &mut String, graph: &Graph, plan: &Plan) {
    let top = bottom() + 6.0;
    let line = bottom() + labels(graph);
    for (i, node) in graph.nodes().iter().enumerate() {
        let at = x(i) + STEP / 2.0;
        let weight = if fused(node).is_some() { "bold" } else { "normal" };
        let colour = if node.phase == Phase::Recompute { AGAIN } else { fill(graph, i) };
        let _ = writeln!(
            svg,
            r#"<text transform="translate({:.1},{top:.1}) rotate(90)" fill="{colour}" font-weight="{weight}"><title>{}</title>{}</text>"#,
            at - 3.0,
            escape(&format!("{} in {}", node.op.name(), node.scope)),
            escape(&label(i, node)),
        );
        for &input in &node.inputs {
            let Source::Node { node: maker, .. } = graph.info(input).source else { continue };
            let from = x(maker) + STEP / 2.0;
            let depth = line + ((i - maker) as f64 * STEP).min(2.0 * ARCS) * 0.9;
            let dash = if matches!(plan.place(input), Place::Arena(_)) { "" } else { r#" stroke-dasharray="2""# };
            let _ = writeln!(
                svg,
                r#"<path d="M{from:.1} {line:.1} Q{:.1} {depth:.1} {at:.1} {line:.1}" fill="none" stroke="{}" stroke-width="0.7" stroke-opacity="0.8"{dash}><title>{} {}</title></path>"#,
                (from + at) / 2.0,
                fill(graph, maker),
                escape(&graph.info(input).name),
                escape(&graph.ty(input).to_string()),
            );
        }
    }
}

/// An operator's number and name, or what it was fused from.
fn label(i: usize, node: &Node) -> String {
    const MOST: usize = 42;
    let whole = match fused(node) {
        Some(parts) => format!("{i} {}", parts.join("·")),
        None => format!("{i} {}", node.op.name()),
    };
    match whole.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}

/// Height of the longest label.
fn labels(graph: &Graph) -> f64 {
    let longest = graph.nodes().iter().enumerate().map(|(i, node)| label(i, node).chars().count()).max();
    24.0 + 5.6 * longest.unwrap_or(0) as f64
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
