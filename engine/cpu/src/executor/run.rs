//! One step inside the pool's region: every worker runs the tape's operations in order, meeting the others after each.
//! Refuses to know how the step was planned.

use std::cell::UnsafeCell;
use std::sync::OnceLock;

use agentlm_core::arena::flag;

use super::{ExecError, Executor};
use crate::kernels::attention::{AttentionLayer, Partials, QueryRows, Unit, merge_splits, run_task};
use crate::kernels::norm::{add_rms_norm, rms_norm};
use crate::kernels::rope::{RopeLayer, rope_and_cache};
use crate::kernels::swiglu::swiglu;
use crate::kv_cache::BLOCK;
use crate::linear::{LinearError, Rows, RowsMut, linear};
use crate::pool::Worker;
use crate::sampler::{self, Masks};
use crate::tape::{AttentionOp, Axis, BufferId, Op};

/// Columns of SwiGLU that one worker takes at a time: enough for the loop's cost, few enough to share a single row.
const SWIGLU_COLUMNS: usize = 2048;

/// A value that one worker at a time uses.
#[derive(Debug)]
pub(super) struct Own<T>(UnsafeCell<T>);

// SAFETY: each worker uses the value of its own index; `get` states it.
unsafe impl<T: Send> Sync for Own<T> {}

impl<T> Own<T> {
    pub(super) fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// # Safety
    /// Nobody else uses the value meanwhile.
    #[expect(
        clippy::mut_from_ref,
        reason = "exclusive by the caller's promise: one worker, one value"
    )]
    unsafe fn get(&self) -> &mut T {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0.get() }
    }
}

/// A step's region.
pub(super) struct Region<'a> {
    executor: &'a Executor,
    results: *mut u32,
    masks: &'a dyn Masks,
    tokens: usize,
    /// Rows of logits: the samples', then the scores'.
    logits: usize,
    failed: OnceLock<LinearError>,
}

// SAFETY: the pointer is the step's results slot, whose cells are each written by one worker.
unsafe impl Sync for Region<'_> {}

impl<'a> Region<'a> {
    pub(super) fn new(executor: &'a Executor, results: *mut u32, masks: &'a dyn Masks) -> Self {
        Self {
            executor,
            results,
            masks,
            tokens: executor.rows.token_ids().len(),
            logits: executor.rows.samples().len() + executor.rows.scores().len(),
            failed: OnceLock::new(),
        }
    }

    /// What went wrong inside the region.
    pub(super) fn outcome(self) -> Result<(), ExecError> {
        self.failed.into_inner().map_or(Ok(()), |error| Err(error.into()))
    }

    fn rows_of(&self, id: BufferId) -> usize {
        match self.executor.tape.buffer(id).axis {
            Axis::Tokens => self.tokens,
            Axis::Samples => self.logits,
        }
    }

    /// Runs the tape and samples.
    ///
    /// # Safety
    /// All workers of one region call it, once, and nobody else uses the executor or the results meanwhile.
    pub(super) unsafe fn run(&self, worker: &Worker<'_>) {
        for op in &self.executor.tape.ops {
            // SAFETY: the caller's promise.
            if let Err(error) = unsafe { self.run_op(worker, op) } {
                // Every worker gets the same error and leaves here.
                let _ = self.failed.set(error);
                return;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.sample(worker) }
    }

    /// One operation; ends with a barrier. In all of them a row is written by the one worker that got its index, and what is
    /// read was finished before the last barrier.
    unsafe fn run_op(&self, worker: &Worker<'_>, op: &Op) -> Result<(), LinearError> {
        let e = self.executor;
        let isa = e.config.isa;
        // SAFETY: buffers have a row for each token or sample and the widths that the tape checked; the instruction set was
        // checked when the executor was made.
        unsafe {
            match op {
                Op::Embed { table, out } => {
                    let out = e.shared(*out);
                    let ids = e.rows.token_ids();
                    worker.parallel_for(self.tokens, |i| table.look_up(isa, ids[i], out.row_mut(i)));
                }
                Op::RmsNorm { x, weight, eps, out } => {
                    let (x_rows, out) = (e.shared(*x), e.shared(*out));
                    worker.parallel_for(self.rows_of(*x), |i| {
                        rms_norm(isa, x_rows.row(i), weight, *eps, out.row_mut(i));
                    });
                }
                Op::AddRmsNorm {
                    residual,
                    x,
                    weight,
                    eps,
                    out,
                } => {
                    let (residual, x_rows, out) = (e.shared(*residual), e.shared(*x), e.shared(*out));
                    worker.parallel_for(self.rows_of(*x), |i| {
                        let residual = residual.row_mut(i);
                        add_rms_norm(isa, residual, x_rows.row(i), weight, *eps, out.row_mut(i));
                    });
                }
                Op::Linear {
                    x,
                    weight,
                    index,
                    out,
                } => {
                    let (m, xs, outs) = (self.rows_of(*x), e.shared(*x), e.shared(*out));
                    let rows = Rows::from_ptr(xs.row_ptr(0), m, xs.dim, xs.stride);
                    let to = RowsMut::from_ptr(outs.row_ptr(0), m, outs.dim, outs.stride);
                    linear(worker, isa, rows, weight, &to, &e.linear_scratch)?;
                    let adapters = e.rows.token_adapters();
                    if !adapters.is_empty() && e.tape.buffer(*x).axis == Axis::Tokens {
                        worker.parallel_for(m, |i| {
                            if let Some(adapter) = e.adapters.get(adapters[i]) {
                                adapter.apply(isa, *index, xs.row(i), outs.row_mut(i));
                            }
                        });
                    }
                }
                Op::Attention(op) => self.attend(worker, op),
                Op::SwiGlu { x, out } => {
                    let (rows, x, out) = (self.rows_of(*x), e.shared(*x), e.shared(*out));
                    let dim = out.dim;
                    let pieces = dim.div_ceil(SWIGLU_COLUMNS);
                    worker.parallel_for(rows * pieces, |i| {
                        let (row, from) = (i / pieces, i % pieces * SWIGLU_COLUMNS);
                        let to = (from + SWIGLU_COLUMNS).min(dim);
                        let (gate, up) = x.row(row).split_at(dim);
                        let out = std::slice::from_raw_parts_mut(out.row_ptr(row).add(from), to - from);
                        swiglu(isa, &gate[from..to], &up[from..to], out);
                    });
                }
                Op::SampleRows { x, out } => {
                    let (x, out) = (e.shared(*x), e.shared(*out));
                    worker.parallel_for(self.logits, |i| {
                        out.row_mut(i).copy_from_slice(x.row(e.rows.logits_token(i)));
                    });
                }
            }
        }
        Ok(())
    }

    /// Rotation and cache write of all tokens, then attention.
    unsafe fn attend(&self, worker: &Worker<'_>, op: &AttentionOp) {
        let e = self.executor;
        let (Some(plan), Some(tables)) = (&e.plan, &e.config.rope) else {
            return;
        };
        let (isa, config) = (e.config.isa, &op.config);
        let (qkv, out, cache) = (e.shared(op.qkv), e.shared(op.out), e.cache.layer(op.layer));
        let (group, kv_heads, dim) = (config.group(), config.kv_heads, config.head_dim);
        let rope = RopeLayer {
            tables,
            cache,
            q_norm: op.q_norm.as_deref(),
            k_norm: op.k_norm.as_deref(),
            norm_eps: config.norm_eps,
        };
        let (positions, slots) = (e.rows.positions(), e.rows.slots());
        // Neighbouring tokens share the cache lines of a block's keys: one worker writes a run of them, where there are enough.
        let run = (self.tokens * kv_heads / (8 * worker.count())).clamp(1, BLOCK);
        let runs = self.tokens.div_ceil(run);
        worker.parallel_for(runs * kv_heads, |i| {
            let (first, head) = (i / kv_heads * run, i % kv_heads);
            for token in first..(first + run).min(self.tokens) {
                // SAFETY: token and head belong to this index alone, and so does the slot: rows do not share blocks that are
                // written. The parts of the row lie one behind the other.
                unsafe {
                    let row = qkv.row_ptr(token);
                    let at =
                        |head: usize, n: usize| std::slice::from_raw_parts_mut(row.add(head * dim), n * dim);
                    let queries = at(head * group, group);
                    let (key, value) = (at(config.heads + head, 1), at(config.heads + kv_heads + head, 1));
                    rope_and_cache(
                        isa,
                        &rope,
                        head,
                        positions[token],
                        slots[token],
                        queries,
                        key,
                        value,
                    );
                }
            }
        });
        let layer = AttentionLayer {
            config,
            cache,
            qkv,
            out,
        };
        let scratch = &e.attention_scratch[worker.index()];
        let rows_of = |unit: &Unit| {
            let entry = &e.rows.entries()[unit.entry as usize];
            QueryRows {
                blocks: e.rows.blocks(entry.row),
                q_start: entry.q_start as usize,
                computed: entry.computed as usize,
                start: unit.start as usize,
                count: unit.count as usize,
            }
        };
        let partials_of = |unit: &Unit, head: usize| {
            unit.partial.map(|partial| Partials {
                // SAFETY: the mapping holds `partial_len` values.
                start: unsafe {
                    let start: *mut f32 = e.partials.as_ptr().cast();
                    start.add(plan.partial_offset(partial, head, cache.value_dim))
                },
                rows: unit.count as usize,
            })
        };
        worker.parallel_for(plan.items.len() * kv_heads, |i| {
            let (item, head) = (plan.items[i / kv_heads], i % kv_heads);
            let unit = &plan.units[item.unit as usize];
            let split = item
                .split
                .zip(partials_of(unit, head))
                .map(|(split, to)| (split as usize, to));
            // SAFETY: units do not overlap, so outputs and partial results belong to this index; the scratch is this worker's; the
            // step's positions were written before the last barrier.
            unsafe { run_task(isa, &layer, &rows_of(unit), head, split, scratch) }
        });
        if plan.merges.is_empty() {
            return;
        }
        worker.parallel_for(plan.merges.len() * kv_heads, |i| {
            let unit = &plan.units[plan.merges[i / kv_heads] as usize];
            if let Some(partials) = partials_of(unit, i % kv_heads) {
                // SAFETY: as above; all partial results were written before the last barrier.
                unsafe { merge_splits(isa, &layer, &rows_of(unit), i % kv_heads, partials, scratch) }
            }
        });
    }

    unsafe fn sample(&self, worker: &Worker<'_>) {
        let e = self.executor;
        let logits = e.shared(e.tape.logits);
        let (isa, config, layout) = (e.config.isa, &e.config.sampler, e.config.results);
        let samples = e.rows.samples();
        worker.parallel_for(self.logits, |i| {
            // SAFETY: the row of logits and the results' cells belong to this index, the scratch to this worker.
            unsafe {
                let scratch = e.sampler_scratch[worker.index()].get();
                let Some(sample) = samples.get(i) else {
                    let index = i - samples.len();
                    let score = e.rows.scores()[index];
                    let top_n = e.rows.record(score.row).top_n;
                    let out = sampler::Outcome::of_score(self.results, layout, index);
                    sampler::score(isa, config, score.next, top_n, logits.row_mut(i), scratch, out);
                    return;
                };
                let record = e.rows.record(sample.row);
                let row = sampler::Row {
                    record,
                    history: e.rows.tokens(sample.row, sample.position),
                    biases: e.rows.biases(sample.row),
                    mask: record.has(flag::CONSTRAINED).then(|| self.masks.of_sample(i)),
                };
                let out = sampler::Outcome::of_sample(self.results, layout, i);
                sampler::sample(isa, config, row, logits.row_mut(i), scratch, out);
            }
        });
    }
}
