//! `memwall quantize`: a model in another number format, tensor by tensor, with the error of each.

mod budgeted;
mod convert;
mod evaluate;
mod hub;
mod hub_config;
mod known;
mod report;
mod sources;
mod transform;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use memwall_fit::assign;
use memwall_formats::gguf::{TensorPlan, Writer};
use memwall_formats::hub::Scheme;
use memwall_formats::{Container, Dtype, Mix, format};
use memwall_infer::Model;
use memwall_kernels::Pool;
use memwall_quantize::{Calibration, Collect, ImportanceMatrix, Method, Nearest, Transform};
use memwall_store::Budget;

use crate::load;
use budgeted::{Budgeted, WINDOWS};
use convert::convert;
use evaluate::Evaluation;
use known::{Known, Text, Walk, stage};
use report::{Report, Row};
use sources::{Source, metadata, tensors};
use transform::{form, transformed};

/// Arguments of `memwall quantize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A GGUF or llama2.c file, or a folder of Hugging Face's
    model: PathBuf,
    /// A mix such as Q4_K_M, or one format: F32, F16, BF16, Q8_0, Q6_K, Q5_0, …
    #[arg(long, value_name = "FORMAT", value_parser = load::mix, required_unless_present_any = ["memory", "hub"])]
    format: Option<Mix>,
    /// Instead of a format: the best formats for the tensors of the output within this size (needs --calibrate)
    #[arg(long, value_name = "SIZE", value_parser = load::size, conflicts_with = "format", requires = "calibrate")]
    memory: Option<usize>,
    /// Instead of a format: a folder of Hugging Face's, quantized as the hub does it: fp8, fp8-block, mxfp4, nvfp4,
    /// nvfp4-modelopt or bitnet
    #[arg(long, value_name = "SCHEME", value_parser = Scheme::from_name, conflicts_with_all = ["format", "memory", "transform", "calibrate", "imatrix", "report"])]
    hub: Option<Scheme>,
    /// The GGUF file to write, or with --hub the folder
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How codes and scales are chosen: nearest, importance, clip or gptq
    #[arg(long, value_name = "METHOD", default_value = "nearest", value_parser = method)]
    method: &'static dyn Method,
    /// Transforms that come first, one after another: rotate-residual, rotate-heads, smooth, activation-aware
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = transform, conflicts_with = "imatrix")]
    transform: Vec<&'static dyn Transform>,
    /// A text that the model runs over, to learn what its layers read
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,
    /// The most tokens of that text
    #[arg(long, value_name = "N", default_value_t = 32768)]
    calibrate_tokens: usize,
    /// An importance matrix in GGUF, as llama.cpp's imatrix writes it, instead of --calibrate
    #[arg(long, value_name = "FILE", conflicts_with = "calibrate")]
    imatrix: Option<PathBuf>,
    /// Where to write the importance matrix of --calibrate
    #[arg(long, value_name = "FILE", requires = "calibrate")]
    save_imatrix: Option<PathBuf>,
    /// A text on which the output is compared with the original
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Where to draw the plans of --memory, bits per weight against divergence, as SVG
    #[arg(long, value_name = "FILE", requires = "memory")]
    plot: Option<PathBuf>,
    /// Tokens of a window of either text [default: 512, or the model's context if that is less]
    #[arg(short, long, value_name = "N")]
    context: Option<usize>,
    /// Quantize anew what is stored quantized
    #[arg(long)]
    requantize: bool,
    /// Threads; without it, as many as there are processors
    #[arg(short, long, value_name = "N", value_parser = load::threads)]
    threads: Option<usize>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// A method by its name.
fn method(name: &str) -> Result<&'static dyn Method, String> {
    memwall_quantize::method(name)
}

/// A transform by its name.
fn transform(name: &str) -> Result<&'static dyn Transform, String> {
    memwall_quantize::transform(name)
}

/// Converts the model.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Only models that run are converted: what is wrong with a file is found before anything is written.
    let unpacked = hub::unpacked(&args.model, &args.output)?;
    let original = load::model(Some(unpacked.as_ref().map_or(&args.model, |u| u.path())))?;
    let read = unpacked.as_ref().map(|_| Container::open(&args.model)).transpose()?;
    let read = read.as_ref().unwrap_or(original.container());
    refuse_to_overwrite(read, &args.output)?;
    if let Some(unpacked) = &unpacked {
        let to = args.format.map(|mix| mix.main());
        let quantizes = args.memory.is_some() || args.hub.is_some();
        hub::refuse_requantizing(unpacked, to, quantizes, args.requantize)?;
    }
    if let Some(scheme) = args.hub {
        refuse_to_write_into(read, &args.output)?;
        hub::write(&original, scheme, &args.output, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let threads = args.threads.unwrap_or_else(load::processors);
    let context = context(args, &original)?;
    let budget = load::budget(None);
    let _other = budget.take("other", load::other_bytes()?)?;

    // Texts are read first: one that is too short must not cost a run.
    let calibration = match &args.calibrate {
        Some(file) => Some(Text::read(&original, file, context, args.calibrate_tokens)?),
        None => None,
    };
    let report_text = match &args.report {
        Some(file) => Some(report_text(&original, file, context)?),
        None => None,
    };
    // A plan within a size is made after the transforms; they take each matrix to get about four bits.
    let mix = args.format.unwrap_or(Mix::Q4_0);
    let formats_of = |model: &Model| {
        let form = form(model, &model.checkpoint().config);
        let sources = tensors(model, form.as_ref())?;
        Ok(assigned(mix, model, &metadata(model, form.as_ref())?, &sources))
    };
    if !args.transform.is_empty() {
        let form = form(&original, &original.checkpoint().config);
        refuse_requantizing(&tensors(&original, form.as_ref())?, &formats_of(&original)?, args.requantize)?;
    }
    let text = calibration.as_ref();
    let transformed = transformed(&original, &args.transform, text, &formats_of, &args.output, threads, &budget)?;
    let model = transformed.as_ref().map_or(&original, |t| &t.model);
    let form = form(model, &model.checkpoint().config);
    let sources = tensors(model, form.as_ref())?;
    let mut metadata = metadata(model, form.as_ref())?;
    let refuse = |formats: &[Dtype]| refuse_requantizing(&sources, formats, args.requantize);
    let budgeted = match (args.memory, &calibration) {
        (Some(bytes), Some(text)) => {
            // Whatever is chosen, what is quantized already would be quantized anew.
            refuse(&assigned(Mix::Q4_0, model, &metadata, &sources))?;
            let show = std::io::stderr().is_terminal();
            Some(Budgeted::of(model, &sources, text, args.method, bytes as u64, threads, &budget, show)?)
        }
        _ => None,
    };
    let formats = match (&budgeted, args.format) {
        (Some(budgeted), _) => budgeted.formats.clone(),
        (None, Some(mix)) => assigned(mix, model, &metadata, &sources),
        (None, None) => bail!("--format or --memory is needed"),
    };
    refuse(&formats)?;
    if let Some(mix) = args.format.or_else(|| Mix::from_name(main_format(&sources, &formats).name())) {
        metadata.insert("general.file_type", mix.file_type());
    }
    metadata.insert("general.quantization_version", 2u32);

    let mut known = known(args, model, calibration.as_ref(), &sources, threads, &budget)?;
    // Inputs become known block by block; without them the order of the file stays.
    let mut order: Vec<usize> = (0..sources.len()).collect();
    if matches!(known, Known::Text(_)) {
        order.sort_by_key(|&i| stage(model, sources[i].weight.as_deref()).map_or(0, |stage| stage + 1));
    }
    let mut report = Report::default();
    report.transforms = transformed.as_ref().map_or(Vec::new(), |t| t.done.clone());
    let plans = order.iter().map(|&i| {
        let Source { name, shape, .. } = &sources[i];
        TensorPlan { name: name.clone(), dtype: formats[i], shape: shape.clone() }
    });
    let mut writer = Writer::create(&args.output, &metadata, plans.collect())?;
    let (pool, show) = (Pool::new(threads), std::io::stderr().is_terminal());
    for (number, &i) in order.iter().enumerate() {
        let (source, dtype) = (&sources[i], formats[i]);
        if show {
            eprint!("\r{}/{} {:50}", number + 1, sources.len(), source.name);
        }
        let stage = stage(model, source.weight.as_deref());
        let row = known.with(source, stage, |inputs| {
            let method = match inputs {
                Some(_) if dtype.is_block() && dtype != source.dtype => args.method,
                _ => &Nearest,
            };
            let encoder = match inputs {
                Some(inputs) => method.encoder(format(dtype), inputs, &pool)?,
                None => Box::new(format(dtype)),
            };
            let (bytes, statistics) = convert(source, dtype, &*encoder, threads, &mut writer)?;
            let kl = budgeted.as_ref().and_then(|b| b.predicted(source.weight.as_deref()?));
            Ok(Row { source: source.into(), dtype, bytes, statistics, method: method.name(), predicted_kl: kl })
        });
        report.add(row.with_context(|| format!("{}: tensor {}", args.model.display(), source.name))?);
    }
    writer.finish()?;
    if show {
        eprint!("\r{:70}\r", "");
    }
    if let (Some(file), Some(text)) = (&args.save_imatrix, &args.calibrate) {
        known.save(file, text, context)?;
    }
    drop(known);
    let evaluate = |text: &Text, most| Evaluation::of(&args.output, &original, text, most, threads, &budget);
    if let (Some(budgeted), Some(text)) = (&budgeted, &calibration) {
        let measured = evaluate(text, WINDOWS)?.written.mean_kl();
        report.plan = Some((budgeted.predicted_kl, measured));
        if let Some(file) = &args.plot {
            budgeted.draw(file, &args.model.display().to_string(), measured)?;
        }
    }
    if let Some(text) = &report_text {
        report.evaluation = Some(evaluate(text, usize::MAX)?);
    }
    let name = args.format.map_or("mixed", Mix::name);
    report.print(&args.output, name, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Tokens of a window.
fn context(args: &Args, model: &Model) -> anyhow::Result<usize> {
    let most = model.checkpoint().config.max_context;
    match args.context {
        Some(context) if !(4..=most).contains(&context) => {
            bail!("--context {context}: this model has windows of 4 to {most} tokens")
        }
        Some(context) => Ok(context),
        None => Ok(most.min(512)),
    }
}

fn refuse_to_overwrite(container: &Container, output: &Path) -> anyhow::Result<()> {
    let same = |path: &Path| path.canonicalize().ok();
    for file in container.files() {
        if same(output).is_some_and(|output| same(file.path()) == Some(output)) {
            bail!("{}: is being read; --output must be another file", output.display());
        }
    }
    Ok(())
}

/// A folder that a model is read from must not be written over.
fn refuse_to_write_into(container: &Container, output: &Path) -> anyhow::Result<()> {
    let same = |path: &Path| path.canonicalize().ok();
    if same(output).is_some_and(|output| same(container.folder()) == Some(output)) {
        bail!("{}: is being read; --output must be another folder", output.display());
    }
    Ok(())
}

fn assigned(mix: Mix, model: &Model, metadata: &memwall_formats::gguf::Metadata, sources: &[Source<'_>]) -> Vec<Dtype> {
    let tensors = sources.iter().map(|t| (t.name.as_str(), &t.shape[..], t.dtype));
    assign(mix, &model.checkpoint().config, metadata, tensors)
}

/// Errors of one quantization add to those of another; floats of what is quantized lose nothing more.
fn refuse_requantizing(sources: &[Source<'_>], formats: &[Dtype], wanted: bool) -> anyhow::Result<()> {
    let again = |(s, to): &(&Source<'_>, &Dtype)| s.dtype.is_block() && to.is_block() && s.dtype != **to;
    match sources.iter().zip(formats).find(again) {
        Some((source, to)) if !wanted => bail!(
            "tensor {} is stored as {}, which has lost precision already; as {to} it would lose more than the original \
             would: quantize the model in F32, F16 or BF16, or say --requantize",
            source.name,
            source.dtype
        ),
        _ => Ok(()),
    }
}

/// The format of most bytes.
fn main_format(sources: &[Source<'_>], formats: &[Dtype]) -> Dtype {
    let bytes = |dtype: Dtype| -> usize {
        let of = sources.iter().zip(formats).filter(|(s, d)| s.shape.len() > 1 && **d == dtype);
        of.map(|(s, _)| s.shape.iter().product::<usize>()).sum()
    };
    formats.iter().copied().max_by_key(|d| bytes(*d)).unwrap_or(Dtype::F32)
}

/// The text of the report, which must have a window.
fn report_text(model: &Model, file: &Path, context: usize) -> anyhow::Result<Text> {
    let text = Text::read(model, file, context, usize::MAX)?;
    if text.tokens.len() < context {
        let have = text.tokens.len();
        bail!(
            "--report {}: the text has {have} tokens, fewer than one window of {context}: give a longer text or a smaller \
             --context",
            file.display()
        );
    }
    Ok(text)
}

/// What is known of inputs, as far as the method asks for it.
fn known<'a>(
    args: &Args,
    model: &'a Model,
    text: Option<&Text>,
    sources: &[Source<'_>],
    threads: usize,
    budget: &Budget,
) -> anyhow::Result<Known<'a>> {
    let name = args.method.name();
    let wanted = args.method.collect().or(args.save_imatrix.is_some().then_some(Collect::Squares));
    match (wanted, text, &args.imatrix) {
        (Some(collect), Some(text), _) => {
            let file = args.calibrate.as_deref().unwrap_or(Path::new("-")).display();
            let run = Calibration::new(model, text.calibration(), collect, threads, budget)
                .with_context(|| format!("--calibrate {file}"))?;
            Ok(Known::Text(Walk::new(run, args.save_imatrix.is_some(), sources)))
        }
        (Some(Collect::Moments), None, Some(_)) => {
            bail!("--method {name} needs more of a text than an importance matrix has: give it with --calibrate")
        }
        (Some(Collect::Squares), None, Some(file)) => {
            let matrix = ImportanceMatrix::read(file)?;
            if !sources.iter().any(|s| matrix.mean_squares(&s.name).is_some()) {
                let theirs = matrix.names().next().unwrap_or_default();
                bail!("--imatrix {}: no tensor of the model is in it; it has {theirs}", file.display());
            }
            Ok(Known::Matrix(matrix))
        }
        (Some(_), None, None) => bail!("--method {name} learns from a text: give one with --calibrate"),
        (None, ..) => Ok(Known::Nothing),
    }
}
