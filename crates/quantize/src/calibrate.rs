//! Calibration: the model runs over a text, block by block, and what its linear layers read is summed.
//!
//! The hidden states of the whole text are kept, [tokens, D] in f32. A block at a time is loaded in f32, runs over each
//! window, and turns the hidden states that it read into those that the next block reads. So at any time there are: the
//! hidden states, one block's weights, one window's activations, and one block's statistics. [`Calibration::bound`] says
//! how many bytes that is before anything is allocated, and nothing beyond is taken from the budget.

use std::sync::Arc;

use memwall_fit::{WeightTier, kept_extents, placements, rows_at_once};
use memwall_formats::Dtype;
use memwall_graph::{Executor, Graph, Memory, Plan, PlanOptions, Value};
use memwall_infer::{Loading, Model};
use memwall_kernels::Pool;
use memwall_nn::{EMBEDDING, Sequences, WeightTypes};
use memwall_store::{Budget, Mapped, Ram, Reservation};

use crate::QuantizeError;
use crate::statistics::{Collect, InputStatistics};

/// A text to calibrate on.
#[derive(Clone, Copy, Debug)]
pub struct CalibrationText<'a> {
    /// The text; what is left after the last whole window is not read.
    pub tokens: &'a [u32],
    /// Tokens of a window.
    pub context: usize,
    /// Replaces the first token of each window.
    pub bos: Option<u32>,
}

/// A model between two of its blocks, on its way through a text.
pub struct Calibration<'a> {
    model: &'a Model,
    context: usize,
    budget: Budget,
    pool: Arc<Pool>,
    collect: Collect,
    /// Hidden states [tokens, D] that block `next` reads.
    hidden: Vec<f32>,
    next: usize,
    _held: Reservation,
}

/// A part of the model over one window.
struct Stage {
    graph: Graph,
    /// Hidden states; the embedding has none.
    input: Option<Value>,
    ids: Value,
    positions: Value,
    cu_seqlens: Option<Value>,
    /// Weights of the linear layers that read one x, and its width; x is output `calibrate.I`.
    reads: Vec<(Vec<String>, usize)>,
}

impl<'a> Calibration<'a> {
    /// Embeds the text.
    ///
    /// # Errors
    /// If the text has no whole window or too few tokens for what is collected, a token is unknown, or the budget refuses.
    pub fn new(
        model: &'a Model,
        text: CalibrationText<'_>,
        collect: Collect,
        threads: usize,
        budget: &Budget,
    ) -> Result<Calibration<'a>, QuantizeError> {
        let config = &model.checkpoint().config;
        check(model, &text, collect)?;
        let windows = text.tokens.len() / text.context;
        let held = budget.take("calibration", 4 * windows * text.context * config.d_model)?;
        let mut hidden = vec![0.0; windows * text.context * config.d_model];
        let pool = Arc::new(Pool::new(threads));
        let stage = embedding(model, text.context)?;
        let mut memory = Memory::within(budget);
        // The table is read by rows: it keeps its format, and only the pages of those rows come.
        model.load(&stage.graph, &mut memory, Loading { tier: WeightTier::Mapped, threads, behind: None })?;
        let (ids, positions) = (stage.ids, stage.positions);
        let mut e = Executor::new(stage.graph, PlanOptions::default(), &mut memory, Arc::clone(&pool))?;
        for (n, window) in hidden.chunks_mut(text.context * config.d_model).enumerate() {
            let tokens = &text.tokens[n * text.context..][..text.context];
            for (i, (to, &token)) in e.input::<i32>(ids).iter_mut().zip(tokens).enumerate() {
                let token = if i == 0 { text.bos.unwrap_or(token) } else { token };
                *to = token as i32;
            }
            put_positions(&mut e, positions);
            e.run(&mut memory)?;
            window.copy_from_slice(e.output::<f32>("hidden"));
        }
        let budget = budget.clone();
        Ok(Calibration { model, context: text.context, budget, pool, collect, hidden, next: 0, _held: held })
    }

    /// The statistics of the next block's layers, in the order in which they serve; after the last block those of the head;
    /// then `None`.
    ///
    /// # Errors
    /// If the block does not run, or the budget refuses.
    pub fn next_block(&mut self) -> Result<Option<Vec<InputStatistics>>, QuantizeError> {
        let Some(stage) = self.next_stage()? else { return Ok(None) };
        let (context, collect, pool) = (self.context, self.collect, Arc::clone(&self.pool));
        let mut statistics = Vec::with_capacity(stage.reads.len());
        for (weights, width) in &stage.reads {
            let of = InputStatistics::new(weights.clone(), *width, context, collect, pool.threads(), &self.budget)?;
            statistics.push(of);
        }
        self.run(stage, |i, x| statistics[i].add(&pool, x))?;
        if let Some(s) = statistics.iter().find(|s| !s.is_finite()) {
            return Err(QuantizeError::NotFinite { weight: self.model.checkpoint().name_in_file(&s.weights()[0]) });
        }
        Ok(Some(statistics))
    }

    /// Instead of [`Calibration::next_block`]: shows what each layer of the next block reads, as (its weights, rows of inputs)
    /// a window; whether there was a block.
    ///
    /// # Errors
    /// If the block does not run, or the budget refuses.
    pub fn visit_block(&mut self, mut visit: impl FnMut(&[String], &[f32])) -> Result<bool, QuantizeError> {
        let Some(stage) = self.next_stage()? else { return Ok(false) };
        let reads = stage.reads.clone();
        self.run(stage, |i, x| visit(&reads[i].0, x))?;
        Ok(true)
    }

    fn next_stage(&self) -> Result<Option<Stage>, QuantizeError> {
        let blocks = self.model.checkpoint().config.layers.len();
        match self.next {
            next if next < blocks => Ok(Some(block(self.model, self.context, next)?)),
            next if next == blocks => Ok(Some(head(self.model, self.context)?)),
            _ => Ok(None),
        }
    }

    /// Runs a stage over all windows; `see` gets what the layers of `stage.reads` read.
    fn run(&mut self, stage: Stage, mut see: impl FnMut(usize, &[f32])) -> Result<(), QuantizeError> {
        let mut memory = Memory::within(&self.budget);
        let how = Loading { tier: WeightTier::Ram, threads: self.pool.threads(), behind: None };
        self.model.load(&stage.graph, &mut memory, how)?;
        self.check_weights(&memory)?;
        let Stage { graph, input, positions, cu_seqlens, reads, .. } = stage;
        let input = input.expect("blocks read hidden states");
        let mut e = Executor::new(graph, PlanOptions::default(), &mut memory, Arc::clone(&self.pool))?;
        let d_model = self.model.checkpoint().config.d_model;
        for window in self.hidden.chunks_mut(self.context * d_model) {
            e.input::<f32>(input).copy_from_slice(window);
            put_positions(&mut e, positions);
            if let Some(cu) = cu_seqlens.filter(|cu| e.reads(*cu)) {
                e.input::<i32>(cu).copy_from_slice(&[0, self.context as i32]);
            }
            e.run(&mut memory)?;
            for i in 0..reads.len() {
                see(i, e.output::<f32>(&format!("calibrate.{i}")));
            }
            window.copy_from_slice(e.output::<f32>("hidden"));
        }
        self.next += 1;
        Ok(())
    }

    /// Names the first weight of a block that is not finite: its statistics would blame the layers after it.
    fn check_weights(&self, memory: &Memory) -> Result<(), QuantizeError> {
        for (name, ..) in memory.iter() {
            let values = memory.get::<f32>(name).unwrap_or_default();
            if let Some(at) = values.iter().position(|x| !x.is_finite()) {
                let tensor = self.model.checkpoint().name_in_file(name);
                return Err(QuantizeError::Weight { tensor, value: values[at], at });
            }
        }
        Ok(())
    }

    /// The most bytes that are taken from the budget at once.
    ///
    /// # Errors
    /// As [`Calibration::new`].
    pub fn bound(
        model: &Model,
        text: CalibrationText<'_>,
        collect: Collect,
        threads: usize,
    ) -> Result<usize, QuantizeError> {
        check(model, &text, collect)?;
        let config = &model.checkpoint().config;
        let hidden = 4 * (text.tokens.len() / text.context) * text.context * config.d_model;
        let mut most = stage_bytes(model, &embedding(model, text.context)?, text.context, collect, threads)?;
        for i in 0..=config.layers.len() {
            let stage = match config.layers.get(i) {
                Some(_) => block(model, text.context, i)?,
                None => head(model, text.context)?,
            };
            most = most.max(stage_bytes(model, &stage, text.context, collect, threads)?);
        }
        Ok(hidden + most)
    }
}

/// Bytes of a stage's weights, rows on their way, activations and statistics.
fn stage_bytes(
    model: &Model,
    stage: &Stage,
    context: usize,
    collect: Collect,
    threads: usize,
) -> Result<usize, QuantizeError> {
    let plan = Plan::new(&stage.graph, PlanOptions { threads, ..Default::default() });
    let placed = placements(model.header(), &stage.graph)?;
    // What keeps its format and what does not are held apart.
    let (rewritten, kept): (Vec<_>, Vec<_>) = placed.iter().partition(|p| p.is_rewritten());
    let kept = match stage.input {
        Some(_) => Ram::held_bytes(kept.iter().map(|p| p.bytes)),
        None => {
            let lens: Vec<u64> = model.container().files().iter().map(|f| f.len() as u64).collect();
            Mapped::held_bytes(&kept_extents(model.header(), &placed), &lens)
        }
    };
    let weights = Ram::held_bytes(rewritten.iter().map(|p| p.bytes)) + kept;
    let staging = rewritten.iter().map(|p| {
        let width = p.stored.shape.last().copied().unwrap_or(1).max(1);
        let rows = rows_at_once(p.stored);
        rows * p.stored.dtype.row_bytes(width).unwrap_or(0) + 4 * rows * width
    });
    let statistics: usize =
        stage.reads.iter().map(|(_, width)| InputStatistics::bytes(*width, context, collect, threads)).sum();
    Ok(weights + staging.max().unwrap_or(0) + plan.arena_bytes + statistics)
}

fn check(model: &Model, text: &CalibrationText<'_>, collect: Collect) -> Result<(), QuantizeError> {
    let config = &model.checkpoint().config;
    let have = text.tokens.len();
    if have < text.context || text.context == 0 {
        let need = text.context.max(1);
        return Err(QuantizeError::ShortText { have, need, why: format!("one window of {need}") });
    }
    // With fewer tokens than inputs, second moments say nothing of most directions.
    let widest = widest(model)?;
    let used = have / text.context * text.context;
    if collect == Collect::Moments && used < widest {
        let need = widest.div_ceil(text.context) * text.context;
        let why =
            format!("whole windows of {} with as many tokens as the widest layer has inputs, {widest}", text.context);
        return Err(QuantizeError::ShortText { have, need, why });
    }
    match text.tokens.iter().find(|&&t| t as usize >= config.vocab_size) {
        Some(&token) => Err(QuantizeError::Token { token, vocab: config.vocab_size }),
        None => Ok(()),
    }
}

/// The most inputs that a linear layer of the model has.
fn widest(model: &Model) -> Result<usize, QuantizeError> {
    let mut widest = 0;
    for i in 0..model.checkpoint().config.layers.len() {
        widest = block(model, 1, i)?.reads.iter().map(|(_, width)| *width).fold(widest, usize::max);
    }
    Ok(widest)
}

fn put_positions(e: &mut Executor, positions: Value) {
    if e.reads(positions) {
        e.input::<i32>(positions).iter_mut().enumerate().for_each(|(i, p)| *p = i as i32);
    }
}

fn embedding(model: &Model, context: usize) -> Result<Stage, QuantizeError> {
    let mut g = Graph::new(Dtype::F32);
    let seqs = Sequences::whole(&mut g, context, 1)?;
    let hidden = model.checkpoint().config.embed(&mut g, &model.checkpoint().types(), &seqs)?;
    g.output("hidden", hidden);
    Ok(stage(g, None, &seqs))
}

fn block(model: &Model, context: usize, i: usize) -> Result<Stage, QuantizeError> {
    let config = &model.checkpoint().config;
    let mut g = Graph::new(Dtype::F32);
    let seqs = Sequences::whole(&mut g, context, 1)?;
    let input = g.input("block_input", [context, config.d_model], Dtype::F32)?;
    let hidden = config.block(&mut g, &WeightTypes::new(), &seqs, i, input)?;
    g.output("hidden", hidden);
    Ok(stage(g, Some(input), &seqs))
}

/// The last norm, whose output the head reads.
fn head(model: &Model, context: usize) -> Result<Stage, QuantizeError> {
    let config = &model.checkpoint().config;
    let mut g = Graph::new(Dtype::F32);
    let seqs = Sequences::whole(&mut g, context, 1)?;
    let input = g.input("block_input", [context, config.d_model], Dtype::F32)?;
    let hidden = config.last_norm(&mut g, input)?;
    g.output("hidden", hidden);
    g.output("calibrate.0", hidden);
    let weight = if config.tie_embeddings { EMBEDDING.to_string() } else { "lm_head.weight".to_string() };
    let reads = vec![(vec![weight], config.d_model)];
    Ok(Stage { reads, ..stage(g, Some(input), &seqs) })
}

/// Lets what the linear layers of `g` read be an output.
fn stage(mut g: Graph, input: Option<Value>, seqs: &Sequences) -> Stage {
    let mut reads: Vec<(Value, Vec<String>)> = Vec::new();
    for node in g.nodes().iter().filter(|node| node.op.name() == "linear") {
        let (x, weight) = (node.inputs[0], g.info(node.inputs[1]).name.to_string());
        match reads.iter_mut().find(|(known, _)| *known == x) {
            Some((_, weights)) => weights.push(weight),
            None => reads.push((x, vec![weight])),
        }
    }
    for (i, (x, _)) in reads.iter().enumerate() {
        g.output(&format!("calibrate.{i}"), *x);
    }
    let width = |x: Value| g.shape(x).width().expect("a linear layer has a fixed width");
    let reads = reads.iter().map(|(x, weights)| (weights.clone(), width(*x))).collect();
    let cu_seqlens = g.find("cu_seqlens");
    Stage { input, ids: seqs.ids, positions: seqs.positions, cu_seqlens, reads, graph: g }
}
