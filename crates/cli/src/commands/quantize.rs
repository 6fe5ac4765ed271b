//! `memwall quantize`: a model in another format, tensor by tensor, with the error of each.

mod sources;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use memwall_fit::assign;
use memwall_formats::error::ErrorStatistics;
use memwall_formats::gguf::{TensorPlan, Writer};
use memwall_formats::{ContainerFormat, Dtype, Mix, format};
use memwall_nn::GgufForm;
use memwall_store::format_size;
use serde_json::{Value, json};

use crate::load;
use sources::{Source, metadata, tensors};

/// Values of the rows that are converted at once.
const PIECE: usize = 1 << 22;

/// Arguments of `memwall quantize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A GGUF or llama2.c file, or a folder of Hugging Face's
    model: PathBuf,
    /// A mix such as Q4_K_M, or one format: F32, F16, BF16, Q8_0, Q6_K, Q5_0, …
    #[arg(long, value_name = "FORMAT", value_parser = load::mix)]
    format: Mix,
    /// The GGUF file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Threads; without it, as many as there are processors
    #[arg(short, long, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Converts the model.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Only models that run are converted: what is wrong with a file is found before anything is written.
    let model = load::model(Some(&args.model))?;
    let container = model.container();
    let same = |path: &PathBuf| path.canonicalize().ok();
    for file in container.files() {
        if same(&args.output).is_some_and(|output| same(&file.path().to_path_buf()) == Some(output)) {
            bail!("{}: is being read; --output must be another file", args.output.display());
        }
    }
    let form = (container.format() == ContainerFormat::Safetensors).then(|| GgufForm::of(&model.checkpoint().config));
    let tensors = tensors(&model, form.as_ref())?;
    let mut metadata = metadata(&model, form.as_ref())?;
    metadata.insert("general.file_type", args.format.file_type());
    metadata.insert("general.quantization_version", 2u32);
    let formats = assign(
        args.format,
        &model.checkpoint().config,
        &metadata,
        tensors.iter().map(|t| (t.name.as_str(), &t.shape[..], t.dtype)),
    );
    let plans = tensors
        .iter()
        .zip(&formats)
        .map(|(t, &dtype)| TensorPlan { name: t.name.clone(), dtype, shape: t.shape.clone() })
        .collect();
    let mut writer = Writer::create(&args.output, &metadata, plans)?;
    let threads = match args.threads {
        Some(n) => n.get(),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut rows: Vec<Value> = Vec::new();
    let mut all = ErrorStatistics::default();
    let (mut before, mut after) = (0, 0);
    let show = std::io::stderr().is_terminal();
    for (number, (tensor, &dtype)) in tensors.iter().zip(&formats).enumerate() {
        if show {
            eprint!("\r{}/{} {:50}", number + 1, tensors.len(), tensor.name);
        }
        let (bytes, statistics) = convert(tensor, dtype, threads, &mut writer)
            .with_context(|| format!("{}: tensor {}", args.model.display(), tensor.name))?;
        all = all.merge(statistics);
        before += tensor.stored.len() as u64;
        after += bytes;
        rows.push(json!({
            "name": tensor.name,
            "shape": tensor.shape,
            "from": tensor.dtype.name(),
            "to": dtype.name(),
            "bytes": bytes,
            "sqnr_db": finite(statistics.sqnr_db()),
            "relative_rmse": finite(statistics.relative_rmse()),
            "max_abs_error": statistics.max_abs(),
        }));
    }
    writer.finish()?;
    if show {
        eprint!("\r{:70}\r", "");
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let line = json!({
            "output": args.output,
            "format": args.format.name(),
            "bytes_before": before,
            "bytes": after,
            "relative_rmse": finite(all.relative_rmse()),
            "tensors": rows,
        });
        writeln!(out, "{line}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{:40} {:>6} {:>6} {:>10} {:>9}", "tensor", "from", "to", "size", "SQNR dB")?;
    for row in &rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let size = format_size(row["bytes"].as_u64().unwrap_or_default() as usize);
        let sqnr = row["sqnr_db"].as_f64().map_or("exact".to_string(), |db| format!("{db:.1}"));
        writeln!(out, "{:40} {:>6} {:>6} {size:>10} {sqnr:>9}", text("name"), text("from"), text("to"))?;
    }
    let (before, after) = (format_size(before as usize), format_size(after as usize));
    let error = 100.0 * all.relative_rmse();
    writeln!(out, "{}: {before} -> {after}, relative error {error:.3} %", args.output.display())?;
    Ok(ExitCode::SUCCESS)
}

/// JSON has no infinity: an exact tensor has no ratio of signal to noise.
fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

/// Converts the rows of a tensor, a piece at a time, and writes them; its bytes and its error.
fn convert(
    tensor: &Source<'_>,
    to: Dtype,
    threads: usize,
    writer: &mut Writer,
) -> anyhow::Result<(u64, ErrorStatistics)> {
    let width = tensor.shape.last().copied().unwrap_or(1).max(1);
    let (Some(from_row), Some(to_row)) = (tensor.dtype.row_bytes(width), to.row_bytes(width)) else {
        bail!("rows of {width} values are no whole blocks");
    };
    let piece = (PIECE / width).max(1) * from_row;
    let (mut bytes, mut statistics) = (0, ErrorStatistics::default());
    for (number, stored) in tensor.stored.chunks(piece).enumerate() {
        let stored = tensor.rows(number * piece / from_row, stored, from_row);
        if tensor.dtype == to {
            writer.write(&stored)?;
            bytes += stored.len() as u64;
            continue;
        }
        let rows = stored.len() / from_row;
        let (mut values, mut encoded) = (vec![0.0_f32; rows * width], vec![0; rows * to_row]);
        // Statistics are summed row by row, in order: they do not depend on the number of threads.
        let mut errors = vec![ErrorStatistics::default(); rows];
        let share = rows.div_ceil(threads);
        std::thread::scope(|scope| {
            let parts = stored
                .chunks(share * from_row)
                .zip(values.chunks_mut(share * width))
                .zip(encoded.chunks_mut(share * to_row).zip(errors.chunks_mut(share)));
            let working: Vec<_> = parts
                .map(|((stored, values), (encoded, errors))| {
                    scope.spawn(move || -> anyhow::Result<()> {
                        format(tensor.dtype).decode(width, stored, values)?;
                        format(to).encode(width, values, encoded)?;
                        let mut back = vec![0.0_f32; width];
                        for (i, error) in errors.iter_mut().enumerate() {
                            format(to).decode(width, &encoded[i * to_row..(i + 1) * to_row], &mut back)?;
                            *error = ErrorStatistics::of(&values[i * width..(i + 1) * width], &back);
                        }
                        Ok(())
                    })
                })
                .collect();
            for part in working {
                match part.join() {
                    Ok(done) => done?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok::<(), anyhow::Error>(())
        })?;
        statistics = errors.into_iter().fold(statistics, ErrorStatistics::merge);
        writer.write(&encoded)?;
        bytes += encoded.len() as u64;
    }
    Ok((bytes, statistics))
}
