//! Attention against a naive f64 reference, and the promise that a row's bits depend on its own request only.

use super::*;
use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::kv_cache::{KvCache, KvCacheConfig};
use crate::memory::SharedRows;

/// A deterministic value in [-1, 1).
fn value(seed: u64, i: usize) -> f32 {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (i as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
    x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 32;
    (x & 0xFF_FFFF) as f32 / 8_388_608.0 - 1.0
}

/// One request: keys and values of all its positions, in a cache whose other positions are NaN.
struct Fixture {
    config: AttentionConfig,
    cache: KvCache,
    /// Each request's block table.
    tables: Vec<Vec<u32>>,
    /// Each request's `[position][q | k | v]`, keys and values as stored.
    qkv: Vec<Vec<f32>>,
}

impl Fixture {
    fn new(config: AttentionConfig, dtype: Dtype, lengths: &[usize]) -> Self {
        let blocks: Vec<usize> = lengths.iter().map(|n| n.div_ceil(BLOCK)).collect();
        let num_blocks = blocks.iter().sum::<usize>() + 3;
        let (kv_heads, head_dim) = (config.kv_heads, config.head_dim);
        let cache = KvCache::new(KvCacheConfig {
            layers: 1,
            num_blocks,
            kv_heads,
            head_dim,
            dtype,
        })
        .unwrap();
        let layer = cache.layer(0);
        let len = cache.config().head_block_len();
        for i in 0..num_blocks * kv_heads * len {
            // SAFETY: inside the cache's memory, which nobody else uses.
            unsafe {
                match dtype {
                    Dtype::F16 => *layer.keys::<u16>(0, 0).add(i) = 0x7E00,
                    _ => *layer.keys::<f32>(0, 0).add(i) = f32::NAN,
                }
            }
        }
        // Blocks in a scattered order.
        let mut free: Vec<u32> = (0..num_blocks as u32).collect();
        free.sort_by_key(|b| b.wrapping_mul(2_654_435_761) % 1009);
        let mut fixture = Self {
            config,
            cache,
            tables: vec![],
            qkv: vec![],
        };
        for (request, &n) in lengths.iter().enumerate() {
            let table: Vec<u32> = free.drain(..blocks[request]).collect();
            let dim = config.qkv_dim();
            let mut qkv: Vec<f32> = (0..n * dim).map(|i| 2.0 * value(request as u64 + 1, i)).collect();
            for p in 0..n {
                for head in 0..kv_heads {
                    for d in 0..head_dim {
                        let k = p * dim + (config.heads + head) * head_dim + d;
                        let v = k + kv_heads * head_dim;
                        // SAFETY: the block is the cache's.
                        unsafe { fixture.write(&table, p, head, d, &mut qkv, k, v) };
                    }
                }
            }
            fixture.tables.push(table);
            fixture.qkv.push(qkv);
        }
        fixture
    }

    #[expect(clippy::too_many_arguments, reason = "one number of one position")]
    unsafe fn write(
        &self,
        table: &[u32],
        p: usize,
        head: usize,
        d: usize,
        qkv: &mut [f32],
        k: usize,
        v: usize,
    ) {
        let layer = self.cache.layer(0);
        let (block, offset) = (table[p / BLOCK], p % BLOCK);
        let (k_at, v_at) = (
            d * BLOCK + offset,
            BLOCK * layer.head_dim + offset * layer.value_dim + d,
        );
        // SAFETY: the caller's promise.
        unsafe {
            if layer.dtype == Dtype::F16 {
                let keys = layer.keys::<u16>(block, head);
                for (at, i) in [(k_at, k), (v_at, v)] {
                    let stored = half::f16::from_f32(qkv[i]);
                    qkv[i] = stored.to_f32();
                    *keys.add(at) = stored.to_bits();
                }
            } else {
                let keys = layer.keys::<f32>(block, head);
                *keys.add(k_at) = qkv[k];
                *keys.add(v_at) = qkv[v];
            }
        }
    }

    /// Runs entries `(request, computed, q_len)` as one step cut for `threads` workers; gives the output rows.
    fn run(&self, isa: Isa, threads: usize, entries: &[(usize, usize, usize)]) -> Vec<f32> {
        let config = &self.config;
        let (dim, out_dim) = (config.qkv_dim(), config.out_dim());
        let tokens: usize = entries.iter().map(|e| e.2).sum();
        let mut qkv: Vec<f32> = vec![];
        for &(request, computed, q_len) in entries {
            qkv.extend_from_slice(&self.qkv[request][computed * dim..(computed + q_len) * dim]);
        }
        let mut out = vec![f32::NAN; tokens * out_dim];
        let layer = AttentionLayer {
            config,
            cache: self.cache.layer(0),
            qkv: SharedRows::new(qkv.as_mut_ptr(), dim, dim),
            out: SharedRows::new(out.as_mut_ptr(), out_dim, out_dim),
        };
        let (max_entries, max_tokens) = (entries.len(), tokens);
        let mut plan = AttentionPlan::new(
            (config.heads, config.kv_heads),
            threads,
            (max_entries, max_tokens),
            4096,
        );
        plan.cut(
            entries
                .iter()
                .map(|&(_, computed, q_len)| (q_len as u32, computed as u32)),
        );
        let value_dim = layer.cache.value_dim;
        let mut partials = vec![f32::NAN; plan.partial_len(value_dim)];
        let start = partials.as_mut_ptr();
        let scratch = Scratch::new(config.head_dim).unwrap();
        let rows_of = |unit: &Unit| QueryRows {
            blocks: &self.tables[entries[unit.entry as usize].0],
            q_start: entries[..unit.entry as usize].iter().map(|e| e.2).sum(),
            computed: entries[unit.entry as usize].1,
            start: unit.start as usize,
            count: unit.count as usize,
        };
        let partials_of = |unit: &Unit, head: usize| {
            unit.partial.map(|partial| Partials {
                // SAFETY: inside the partial results.
                start: unsafe { start.add(plan.partial_offset(partial, head, value_dim)) },
                rows: unit.count as usize,
            })
        };
        // Backwards: the order in which workers take tasks must not matter.
        for item in plan.items.iter().rev() {
            let unit = &plan.units[item.unit as usize];
            for head in 0..config.kv_heads {
                let split = item
                    .split
                    .zip(partials_of(unit, head))
                    .map(|(s, to)| (s as usize, to));
                // SAFETY: one thread, live memory, available instruction set.
                unsafe { run_task(isa, &layer, &rows_of(unit), head, split, &scratch) };
            }
        }
        for &merge in &plan.merges {
            let unit = &plan.units[merge as usize];
            for head in 0..config.kv_heads {
                let partials = partials_of(unit, head).unwrap();
                // SAFETY: as above.
                unsafe { merge_splits(isa, &layer, &rows_of(unit), head, partials, &scratch) };
            }
        }
        out
    }

    /// One output row in f64.
    fn reference(&self, request: usize, position: usize) -> Vec<f64> {
        let c = &self.config;
        let (dim, d) = (c.qkv_dim(), c.head_dim);
        let row = |p: usize, head: usize| {
            let start = p * dim + head * d;
            self.qkv[request][start..start + d]
                .iter()
                .map(|&x| f64::from(x))
                .collect::<Vec<_>>()
        };
        let first = c.window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
        let mut out = vec![];
        for head in 0..c.heads {
            let q = row(position, head);
            let scores: Vec<f64> = (first..=position)
                .map(|p| {
                    let k = row(p, c.heads + head / c.group());
                    q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() * f64::from(c.scale)
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut o = vec![0.0; d];
            for (w, p) in weights.iter().zip(first..) {
                for (o, v) in o.iter_mut().zip(row(p, c.heads + c.kv_heads + head / c.group())) {
                    *o += w / sum * v;
                }
            }
            out.extend(o);
        }
        out
    }
}

fn config(heads: usize, kv_heads: usize, head_dim: usize, window: Option<u32>) -> AttentionConfig {
    AttentionConfig {
        heads,
        kv_heads,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        window,
        norm_eps: 1e-6,
    }
}

#[test]
fn ragged_steps_match_f64_and_never_read_past_their_context() {
    let shapes = [
        (1, 1, 16),
        (4, 2, 64),
        (7, 1, 128),
        (6, 3, 40),
        (2, 2, 256),
        (3, 3, 8),
    ];
    for (heads, kv_heads, head_dim) in shapes {
        for (window, dtype) in [
            (None, Dtype::F16),
            (None, Dtype::F32),
            (Some(50), Dtype::F16),
            (Some(1), Dtype::F32),
        ] {
            let fixture = Fixture::new(
                config(heads, kv_heads, head_dim, window),
                dtype,
                &[1, 17, 330, 90],
            );
            let entries = [(0, 0, 1), (1, 3, 14), (2, 329, 1), (3, 0, 90), (2, 250, 33)];
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let out = fixture.run(isa, threads, &entries);
                    let mut rows = out.chunks_exact(heads * head_dim);
                    for (request, computed, q_len) in entries {
                        for position in computed..computed + q_len {
                            let expected = fixture.reference(request, position);
                            for (got, want) in rows.next().unwrap().iter().zip(expected) {
                                assert!(
                                    (f64::from(*got) - want).abs() < 3e-6,
                                    "{heads}/{kv_heads}x{head_dim}, {window:?}, {dtype}, {isa}: {got} is not {want} at {position}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_batch_chunking_or_threads() {
    for (heads, kv_heads, head_dim, window) in [
        (4, 4, 64, None),
        (8, 2, 128, None),
        (12, 1, 16, None),
        (4, 2, 40, Some(100)),
        (4, 2, 64, Some(300)),
    ] {
        for dtype in [Dtype::F16, Dtype::F32] {
            let n = 700;
            let fixture = Fixture::new(config(heads, kv_heads, head_dim, window), dtype, &[n, 60, 400]);
            let width = heads * head_dim;
            for isa in Isa::available() {
                let whole = fixture.run(isa, 1, &[(0, 0, n)]);
                let same = |got: &[f32], from: usize, what: &str| {
                    for (i, (a, b)) in got.iter().zip(&whole[from * width..]).enumerate() {
                        let at = from + i / width;
                        assert_eq!(
                            a.to_bits(),
                            b.to_bits(),
                            "{what}: {heads}/{kv_heads}x{head_dim}, {isa}, position {at}"
                        );
                    }
                };
                for threads in [2, 16] {
                    same(&fixture.run(isa, threads, &[(0, 0, n)]), 0, "threads");
                }
                let mut from = 0;
                for cut in [16, 17, 64, 250, 256, 640, 699] {
                    let chunk = fixture.run(isa, 2, &[(1, 20, 40), (0, from, cut - from), (2, 399, 1)]);
                    same(
                        &chunk[40 * width..(40 + cut - from) * width],
                        from,
                        "chunks in a batch",
                    );
                    from = cut;
                }
                for position in [0, 15, 16, 63, 64, 255, 256, 511, 512, 699] {
                    for threads in [1, 4, 16] {
                        same(
                            &fixture.run(isa, threads, &[(0, position, 1)]),
                            position,
                            "decode",
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_step_without_entries_has_no_tasks() {
    let fixture = Fixture::new(config(2, 1, 16, None), Dtype::F16, &[4]);
    assert!(fixture.run(Isa::Portable, 4, &[]).is_empty());
}

#[test]
fn shapes_that_the_kernels_do_not_take_are_refused_with_the_numbers() {
    for (config, expected) in [
        (config(4, 2, 20, None), "20"),
        (config(4, 2, 512, None), "512"),
        (config(5, 2, 64, None), "5 query heads"),
        (config(4, 2, 64, Some(0)), "window"),
    ] {
        let message = config.check().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
