//! What a JSON file of memwall's holds: a result of `reproduce`, or the plan that `fit` printed.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use memwall_claims::Record;
use memwall_store::format_size;
use serde_json::{Value, json};

/// Shows it.
///
/// # Errors
/// If it is neither.
pub fn show(file: &Path, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("{}: is no JSON", file.display()))?;
    if value.get("verdict").is_some() {
        let record: Record = serde_json::from_value(value).with_context(|| format!("{}: result", file.display()))?;
        return result(file, &record, as_json, out);
    }
    if value.get("feasible").is_some() {
        return plan(file, &value, as_json, out);
    }
    bail!("{}: is neither a result (it has no verdict) nor a plan of `fit --json` (it has no feasible)", file.display())
}

fn result(file: &Path, record: &Record, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let report = &record.report;
    if as_json {
        return Ok(writeln!(out, "{}", json!({ "file": file, "kind": "result", "result": record }))?);
    }
    writeln!(
        out,
        "{}: system {:02} {}, {} scale: {}",
        file.display(),
        report.system,
        report.name,
        report.scale,
        report.verdict
    )?;
    writeln!(out, "seeds {:?}, {:.0} s, {}, version {}", report.seeds, report.seconds, report.machine, report.version)?;
    writeln!(out, "\nchecks")?;
    for c in &report.checks {
        let verdict = if c.holds { "holds" } else { "does not hold" };
        writeln!(
            out,
            "  {}: {:.4} {}, bar {}: {verdict}; per seed {:.4?}",
            c.what, c.figure, c.unit, c.bar, c.per_seed
        )?;
    }
    let f = &report.falsifier;
    let fails = if f.fails_as_it_must { "fails as it must" } else { "does not fail" };
    writeln!(out, "falsifier\n  {}: {:.4}, bar {}: {fails}", f.what, f.figure, f.bar)?;
    for sweep in &record.evidence.sweeps {
        writeln!(out, "\nsweep of {}, rates {:?}", sweep.what, sweep.rates)?;
        for arm in &sweep.arms {
            let edge = if arm.at_the_edge { ", at the edge of the grid" } else { "" };
            writeln!(
                out,
                "  {:34} {:>9} parameters, rate {}{edge}: {:.4?}",
                arm.name, arm.parameters, arm.chosen_rate, arm.scores
            )?;
        }
    }
    for note in &record.evidence.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

fn plan(file: &Path, value: &Value, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    if as_json {
        return Ok(writeln!(out, "{}", json!({ "file": file, "kind": "plan", "plan": value }))?);
    }
    let size = |v: &Value| v.as_u64().map_or("?".to_string(), |bytes| format_size(bytes as usize));
    let feasible = value["feasible"] == json!(true);
    writeln!(
        out,
        "{}: a plan for {}, {}; at least {} are needed",
        file.display(),
        size(&value["budget_bytes"]),
        if feasible { "feasible" } else { "not feasible" },
        size(&value["minimum_bytes"])
    )?;
    if !feasible {
        return Ok(());
    }
    let p = &value["plan"];
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let kv = format!("{} / {}, {}", text(&p["kv"]["k_format"]), text(&p["kv"]["v_format"]), text(&p["kv"]["policy"]));
    let rows = [
        ("weights", &p["weights"]["bytes"], text(&p["weights"]["format"])),
        ("kv", &p["kv"]["bytes"], kv),
        ("state", &p["state_bytes"], String::new()),
        ("arena", &p["arena_bytes"], String::new()),
        ("other", &p["other_bytes"], String::new()),
        ("total", &p["total_bytes"], format!("context {}, {} threads", p["context"], p["threads"])),
    ];
    for (name, bytes, what) in rows {
        writeln!(out, "  {name:8} {:>10}  {what}", size(bytes))?;
    }
    writeln!(
        out,
        "  predicted: decode {:.1} tokens/s, prefill {:.1} tokens/s, quality {}",
        p["predicted_decode_tps"].as_f64().unwrap_or(f64::NAN),
        p["predicted_prefill_tps"].as_f64().unwrap_or(f64::NAN),
        text(&p["quality_tier"])
    )?;
    let others = value["choices"].as_array().map_or(0, Vec::len);
    Ok(writeln!(out, "  {others} choices in all")?)
}
