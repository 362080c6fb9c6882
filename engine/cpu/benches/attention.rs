//! Rotation, cache write and attention through the executor, against the model's arithmetic and the cache's bytes.
//!
//! `cargo bench -p agentlm-cpu --bench attention -- [--isa avx2] [--threads 2] [--dtype f16] [--repeat 9] [--clock cpu]`.
//! Prefill counts `4 * head_dim` operations for each query head and visible position; decode counts the keys and values read.
//! Layers take turns, so that no cache holds a layer when its turn comes. Times are the best of the repetitions. The `linear`
//! benchmark prints the machine's limits.

use std::sync::Arc;
use std::time::Instant;

use agentlm_core::{arena, results};
use agentlm_cpu::dtype::Dtype;
use agentlm_cpu::executor::{Executor, ExecutorConfig, RopeTables};
use agentlm_cpu::isa::Isa;
use agentlm_cpu::kv_cache::{KvCache, KvCacheConfig};
use agentlm_cpu::pool::Pool;
use agentlm_cpu::sampler::{NoMasks, SamplerConfig};
use agentlm_cpu::tape::{AttentionConfig, EmbeddingTable, TapeBuilder};

#[path = "../tests/common/slot.rs"]
mod slot;
use slot::{Init, Slot, value};

type Failure = Box<dyn std::error::Error>;

/// Name, query heads, KV heads, head dimension.
const SHAPES: [(&str, usize, usize, usize); 4] = [
    ("llama-2-7b", 32, 32, 128),
    ("llama-3-8b", 32, 8, 128),
    ("tinyllama-1.1b", 32, 4, 64),
    ("qwen2-0.5b", 14, 2, 64),
];
/// Keys and values of all layers together: several times a last-level cache.
const CACHE_BYTES: usize = 128 << 20;
const IDS: usize = 64;

struct Options {
    isa: Isa,
    threads: usize,
    dtype: Dtype,
    repeat: usize,
    cpu_clock: bool,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        isa: Isa::detect(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        dtype: Dtype::F16,
        repeat: 9,
        cpu_clock: false,
    };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(format!("{name} needs a value"))?;
        match name.as_str() {
            "--isa" => options.isa = value.parse()?,
            "--threads" => options.threads = value.parse()?,
            "--dtype" => options.dtype = value.parse()?,
            "--repeat" => options.repeat = value.parse()?,
            "--clock" => options.cpu_clock = value == "cpu",
            _ => return Err(format!("{name} is unknown; see the head of this file").into()),
        }
    }
    Ok(options)
}

/// A tape that does nothing but attend, `layers` times.
fn executor(
    o: &Options,
    (heads, kv_heads, head_dim): (usize, usize, usize),
    layers: usize,
    layout: arena::Layout,
    tokens: usize,
) -> Result<Executor, Failure> {
    let scale = (head_dim as f32).powf(-0.5);
    let config = AttentionConfig {
        heads,
        kv_heads,
        head_dim,
        scale,
        window: None,
        norm_eps: 1e-6,
    };
    let table: Vec<f32> = (0..IDS * config.qkv_dim()).map(|i| value(1, i)).collect();
    let mut tape = TapeBuilder::new();
    let qkv = tape.embed(EmbeddingTable::from_values(&table, config.qkv_dim())?)?;
    for layer in 0..layers {
        let out = tape.attention(qkv, layer, config, None, None)?;
        tape.release(out)?;
    }
    let last = tape.attention(qkv, 0, config, None, None)?;
    let logits = tape.sample_rows(last)?;
    let num_blocks = layout.max_rows as usize * layout.blocks_per_row();
    let cache = KvCache::new(KvCacheConfig {
        layers,
        num_blocks,
        kv_heads,
        head_dim,
        dtype: o.dtype,
    })?;
    let half = head_dim / 2;
    let angles: Vec<f32> = (0..layout.max_model_len as usize * half)
        .map(|i| value(2, i) * 3.0)
        .collect();
    let (cos, sin) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    let config = ExecutorConfig {
        isa: o.isa,
        rope: Some(RopeTables::new(cos, sin, head_dim)?),
        arena: layout,
        results: results::Layout {
            max_rows: layout.max_rows,
            top_cap: 1,
            max_scores: 16,
        },
        max_tokens: tokens,
        sampler: SamplerConfig::new(vec![], IDS),
    };
    Ok(Executor::new(
        tape.finish(logits)?,
        Arc::new(Pool::new(o.threads)?),
        cache,
        config,
    )?)
}

fn best(o: &Options, repeat: usize, mut f: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut best = f64::INFINITY;
    for _ in 0..repeat {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        f()?;
        let seconds = if o.cpu_clock {
            cpu_seconds() - cpu
        } else {
            wall.elapsed().as_secs_f64()
        };
        best = best.min(seconds);
    }
    Ok(best)
}

/// Seconds that this thread spent on a core: on a busy machine, with one thread, the time that matters.
fn cpu_seconds() -> f64 {
    #[cfg(unix)]
    {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: a valid out-pointer.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(unix))]
    0.0
}

fn main() -> Result<(), Failure> {
    let o = options()?;
    println!("{} threads, {}, KV in {}", o.threads, o.isa, o.dtype);
    for (name, heads, kv_heads, head_dim) in SHAPES {
        let shape = (heads, kv_heads, head_dim);
        for n in [512u32, 2048] {
            let layout = arena::Layout {
                max_rows: 1,
                max_model_len: n,
            };
            let mut executor = executor(&o, shape, 1, layout, n as usize)?;
            let tokens: Vec<u32> = (0..n).map(|i| (i * i) % IDS as u32).collect();
            let table: Vec<u32> = (0..n / 16).collect();
            let slot = Slot::default()
                .init(Init::greedy(0, &tokens))
                .blocks(0, 0, &table)
                .entry(0, 0, n, false);
            let words = slot.words(layout);
            let mut out = vec![
                0;
                results::Layout {
                    max_rows: 1,
                    top_cap: 1,
                    max_scores: 16,
                }
                .slot_words()
            ];
            let seconds = best(&o, o.repeat, || Ok(executor.step(&words, &mut out, &NoMasks)?))?;
            // The tape attends twice.
            let pairs = f64::from(n) * f64::from(n + 1) / 2.0;
            let flop = 2.0 * 4.0 * (head_dim * heads) as f64 * pairs;
            println!(
                "{name:>15}  prefill {n:>5}  {:>7.1} GFLOP/s",
                flop / seconds * 1e-9
            );
        }
        for (batch, context) in [(1u32, 2048u32), (8, 512), (16, 1024)] {
            let layout = arena::Layout {
                max_rows: batch,
                max_model_len: context,
            };
            let bytes = 2 * kv_heads * head_dim * o.dtype.size() * (batch * context) as usize;
            let layers = (CACHE_BYTES / bytes).max(2);
            let mut executor = executor(&o, shape, layers, layout, 1024)?;
            let mut out = vec![
                0;
                results::Layout {
                    max_rows: batch,
                    top_cap: 1,
                    max_scores: 16,
                }
                .slot_words()
            ];
            let tokens: Vec<u32> = (0..context).map(|i| (i * i) % IDS as u32).collect();
            let blocks = context / 16;
            let mut decode = Slot::default();
            for row in 0..batch {
                let table: Vec<u32> = (row * blocks..(row + 1) * blocks).collect();
                // Written in short chunks that attend to little: only their pages matter.
                let mut slot = Slot::default()
                    .init(Init::greedy(row, &tokens))
                    .blocks(row, 0, &table);
                for from in (0..context).step_by(512) {
                    executor.step(
                        &slot.entry(row, from, 512, false).words(layout),
                        &mut out,
                        &NoMasks,
                    )?;
                    slot = Slot::default();
                }
                decode = decode.entry(row, context - 1, 1, false);
            }
            let words = decode.words(layout);
            let seconds = best(&o, o.repeat, || Ok(executor.step(&words, &mut out, &NoMasks)?))?;
            let read = (bytes * (layers + 1)) as f64;
            println!(
                "{name:>15}  decode {batch:>2} x {context:>4}  {:>6.1} GB/s  {:>8.1} us a layer",
                read / seconds * 1e-9,
                seconds / (layers + 1) as f64 * 1e6
            );
        }
    }
    Ok(())
}
