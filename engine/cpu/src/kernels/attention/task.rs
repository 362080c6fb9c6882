//! One task of attention: query rows of one entry and one KV head over its positions, and the fold of split results.
//! Refuses to know which worker runs it.

use std::f32::consts::LOG2_E;

use super::micro::{MAX_GROUP, Products, Stored, Tile};
use super::{AttentionConfig, MAX_ROWS, SPLIT, TILE};
use crate::dtype::Dtype;
use crate::kernels::exp::exp2;
use crate::kernels::simd::{Simd, isa_entry};
use crate::kv_cache::{BLOCK, KvLayer};
use crate::memory::{Mapping, MemoryError, SharedRows};

/// From this many query rows on a tile of f16 is widened once instead of in every product.
const WIDEN_ROWS: usize = 13;
/// Values of a head of which keys and values of a tile stay in the first-level cache as they are.
const WHOLE_DIM: usize = 64;

/// What all tasks of one layer share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionLayer<'a> {
    pub(crate) config: &'a AttentionConfig,
    pub(crate) cache: KvLayer,
    /// `[tokens][queries | keys | values]`, queries rotated.
    pub(crate) qkv: SharedRows,
    /// `[tokens][heads * head_dim]`.
    pub(crate) out: SharedRows,
}

/// A run of query rows of one entry. Query row `r` is token `r / group` of the entry, head `r % group` of the KV head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryRows<'a> {
    /// The row's block table; cells up to the last position are valid.
    pub(crate) blocks: &'a [u32],
    /// Index of the entry's first token among the step's tokens.
    pub(crate) q_start: usize,
    /// Position of that token.
    pub(crate) computed: usize,
    /// First query row.
    pub(crate) start: usize,
    /// Query rows, at most [`MAX_ROWS`].
    pub(crate) count: usize,
}

impl QueryRows<'_> {
    /// Positions that any of the rows sees: `begin..end`.
    pub(crate) fn positions(&self, config: &AttentionConfig) -> (usize, usize) {
        let first = self.computed + self.start / config.group();
        let last = self.computed + (self.start + self.count - 1) / config.group();
        let begin = config
            .window
            .map_or(0, |window| (first + 1).saturating_sub(window as usize));
        (begin, last + 1)
    }
}

/// Memory of one worker.
#[derive(Debug)]
pub(crate) struct Scratch {
    memory: Mapping,
    dim: usize,
    value_dim: usize,
}

impl Scratch {
    pub(crate) fn new(head_dim: usize) -> Result<Self, MemoryError> {
        let value_dim = head_dim.next_multiple_of(BLOCK);
        let values = MAX_ROWS * (head_dim + 2 * value_dim + TILE + 5) + TILE * (head_dim + value_dim);
        Ok(Self {
            memory: Mapping::new(values * size_of::<f32>())?,
            dim: head_dim,
            value_dim,
        })
    }

    /// Pointers to the parts; the caller is the only one who uses them.
    fn parts(&self) -> Parts {
        let start: *mut f32 = self.memory.as_ptr().cast();
        let mut at = 0;
        let mut take = |n: usize| {
            // SAFETY: the parts add up to what `new` reserved.
            let p = unsafe { start.add(at) };
            at += n;
            p
        };
        Parts {
            keys: take(TILE * self.dim),
            values: take(TILE * self.value_dim),
            q: take(MAX_ROWS * self.dim),
            weights: take(MAX_ROWS * TILE),
            alpha: take(MAX_ROWS),
            running: State {
                out: take(MAX_ROWS * self.value_dim),
                max: take(MAX_ROWS),
                sum: take(MAX_ROWS),
            },
            total: State {
                out: take(MAX_ROWS * self.value_dim),
                max: take(MAX_ROWS),
                sum: take(MAX_ROWS),
            },
        }
    }
}

/// Softmax state of rows: outputs `[rows][value_dim]`, maxima and sums (base 2).
#[derive(Clone, Copy)]
struct State {
    out: *mut f32,
    max: *mut f32,
    sum: *mut f32,
}

#[derive(Clone, Copy)]
struct Parts {
    keys: *mut f32,
    values: *mut f32,
    q: *mut f32,
    /// Scores, and then weights, of all rows over one tile.
    weights: *mut f32,
    /// What each row's output so far is multiplied by.
    alpha: *mut f32,
    running: State,
    total: State,
}

/// Where the splits of one unit and KV head put their results: `[splits][rows]` of `out[value_dim], max, sum`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partials {
    pub(crate) start: *mut f32,
    /// Query rows of the unit.
    pub(crate) rows: usize,
}

impl Partials {
    /// Values that one row of one split takes: whole cache lines.
    pub(crate) const fn row_len(value_dim: usize) -> usize {
        value_dim + BLOCK
    }

    /// # Safety
    /// The split is one of those that the memory was reserved for.
    #[inline(always)]
    unsafe fn row(&self, value_dim: usize, split: usize, row: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe {
            self.start
                .add((split * self.rows + row) * Self::row_len(value_dim))
        }
    }
}

impl State {
    #[inline(always)]
    unsafe fn clear<S: Simd>(self, rows: usize, value_dim: usize) {
        // SAFETY: the state holds MAX_ROWS rows; `value_dim` is a whole number of vectors.
        unsafe {
            for i in (0..rows * value_dim).step_by(S::LANES) {
                S::store(self.out.add(i), S::splat(0.0));
            }
            for r in 0..rows {
                *self.max.add(r) = f32::NEG_INFINITY;
                *self.sum.add(r) = 0.0;
            }
        }
    }
}

/// `2^(x - max)` with `2^(-inf - -inf) = 0`.
#[inline(always)]
unsafe fn decay<S: Simd>(x: f32, max: f32) -> f32 {
    let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
    // SAFETY: the caller has the instruction set. All lanes are equal.
    unsafe { S::largest(exp2::<S>(S::splat(x - base))) }
}

/// Folds one row's split result into its total.
#[inline(always)]
unsafe fn fold<S: Simd>(total: State, row: usize, value_dim: usize, out: *const f32, max: f32, sum: f32) {
    // SAFETY: both rows hold `value_dim` values.
    unsafe {
        let old = *total.max.add(row);
        let new = if max > old { max } else { old };
        let (a, b) = (decay::<S>(old, new), decay::<S>(max, new));
        *total.max.add(row) = new;
        *total.sum.add(row) = *total.sum.add(row) * a + sum * b;
        let (a, b) = (S::splat(a), S::splat(b));
        let to = total.out.add(row * value_dim);
        for i in (0..value_dim).step_by(S::LANES) {
            S::store(
                to.add(i),
                S::fma(S::load(out.add(i)), b, S::mul(S::load(to.add(i)), a)),
            );
        }
    }
}

/// Divides by the sum and writes the rows' heads of the output.
#[inline(always)]
unsafe fn write_out<S: Simd>(layer: &AttentionLayer<'_>, rows: &QueryRows<'_>, kv_head: usize, total: State) {
    let (group, dim) = (layer.config.group(), layer.config.head_dim);
    for r in 0..rows.count {
        let (token, head) = (
            (rows.start + r) / group,
            kv_head * group + (rows.start + r) % group,
        );
        // SAFETY: the row and head are the entry's; no other task writes them.
        unsafe {
            let from = total.out.add(r * layer.cache.value_dim);
            let to = layer.out.row_ptr(rows.q_start + token).add(head * dim);
            let by = S::splat(1.0 / *total.sum.add(r));
            let mut i = 0;
            while i < dim {
                let v = S::mul(S::load(from.add(i)), by);
                if dim - i < S::LANES {
                    S::store_first(to.add(i), dim - i, v)
                } else {
                    S::store(to.add(i), v)
                }
                i += S::LANES;
            }
        }
    }
}

/// Copies the queries, multiplied by the scale and log2 e: weights are then powers of two.
#[inline(always)]
unsafe fn load_queries<S: Simd>(
    layer: &AttentionLayer<'_>,
    rows: &QueryRows<'_>,
    kv_head: usize,
    q: *mut f32,
) {
    let (group, dim) = (layer.config.group(), layer.config.head_dim);
    let scale = layer.config.scale * LOG2_E;
    for r in 0..rows.count {
        let (token, head) = (
            (rows.start + r) / group,
            kv_head * group + (rows.start + r) % group,
        );
        // SAFETY: the row and head are the entry's; `q` holds MAX_ROWS rows.
        unsafe {
            let from = layer.qkv.row_ptr(rows.q_start + token).add(head * dim);
            let to = q.add(r * dim);
            let by = S::splat(scale);
            let mut i = 0;
            while i < dim {
                if dim - i < S::LANES {
                    let n = dim - i;
                    S::store_first(to.add(i), n, S::mul(S::load_first(from.add(i), n), by));
                } else {
                    S::store(to.add(i), S::mul(S::load(from.add(i)), by));
                }
                i += S::LANES;
            }
        }
    }
}

/// Turns scores into weights, updates maximum and sum of `count` rows from `first` on, and sets their `alpha`.
#[inline(always)]
unsafe fn soften<S: Simd>(parts: &Parts, seen: &[(i32, i32)], first: usize) {
    let (vectors, count, state) = (TILE / S::LANES, seen.len(), parts.running);
    let none = f32::NEG_INFINITY;
    // One vector for all rows: every instruction set's groups are smaller than its vectors.
    let (mut new, mut sums) = ([none; BLOCK], [0.0; BLOCK]);
    // SAFETY: the scratch holds the rows, the arrays a vector.
    unsafe {
        for (r, &(lo, hi)) in seen.iter().enumerate() {
            let row = parts.weights.add((first + r) * TILE);
            let mut largest = S::splat(none);
            if lo <= 0 && hi >= TILE as i32 {
                for j in 0..vectors {
                    largest = S::max(S::load(row.add(j * S::LANES)), largest);
                }
            } else {
                for j in 0..vectors {
                    let (at, p) = ((j * S::LANES) as i32, row.add(j * S::LANES));
                    let v = S::keep_lanes(S::load(p), lo - at, hi - at, S::splat(none));
                    S::store(p, v);
                    largest = S::max(v, largest);
                }
            }
            new[r] = S::largest(largest);
        }
        let old = S::load_first(state.max.add(first), count);
        let largest = S::max(S::load(new.as_ptr()), old);
        // Rows that have seen nothing yet subtract a finite number: 2^(-inf - x) is 0, where -inf - -inf would be NaN.
        let base = S::max(largest, S::splat(f32::MIN));
        S::store_first(state.max.add(first), count, largest);
        S::store(new.as_mut_ptr(), base);
        let factors = exp2::<S>(S::sub(old, base));
        S::store_first(parts.alpha.add(first), count, factors);
        for (r, sum_of_row) in sums.iter_mut().enumerate().take(count) {
            let row = parts.weights.add((first + r) * TILE);
            let base = S::splat(new[r]);
            let mut sum = S::splat(0.0);
            for j in 0..vectors {
                let w = exp2::<S>(S::sub(S::load(row.add(j * S::LANES)), base));
                S::store(row.add(j * S::LANES), w);
                sum = S::add(sum, w);
            }
            *sum_of_row = S::sum(sum);
        }
        let sum = S::load_first(state.sum.add(first), count);
        let sum = S::fma(sum, factors, S::load(sums.as_ptr()));
        S::store_first(state.sum.add(first), count, sum);
    }
}

/// All rows of a task over one tile. Many rows take the keys and values of wide heads in halves, each half by all groups in turn,
/// so that it stays in the first-level cache; that changes no sum's order.
#[inline(always)]
unsafe fn rows_tile<S: Products, E: Stored>(
    layer: &AttentionLayer<'_>,
    rows: &QueryRows<'_>,
    parts: &Parts,
    tile: &Tile<E>,
    tile_start: usize,
) {
    let config = layer.config;
    let (group, dim, value_dim) = (config.group(), config.head_dim, layer.cache.value_dim);
    let position = |row: usize| rows.computed + (rows.start + row) / group;
    let lo = rows.positions(config).0.saturating_sub(tile_start);
    // Groups whose last row sees nothing of the tile come first: positions ascend.
    let mut start = 0;
    while start < rows.count {
        let count = S::group(rows.count - start);
        if position(start + count - 1) >= tile_start + lo {
            break;
        }
        start += count;
    }
    let pieces = if rows.count > MAX_GROUP && value_dim > WHOLE_DIM {
        2
    } else {
        1
    };
    // One past the last position of the tile that a group sees.
    let end = |first: usize, count: usize| (position(first + count - 1) + 1 - tile_start).min(TILE);
    // SAFETY: the caller's promise; the rows are within the scratch.
    unsafe {
        for piece in 0..pieces {
            let mut first = start;
            while first < rows.count {
                let count = S::group(rows.count - first);
                let out = parts.weights.add(first * TILE);
                let range = (
                    piece * TILE / pieces,
                    end(first, count)
                        .next_multiple_of(TILE / 2)
                        .min((piece + 1) * TILE / pieces),
                );
                S::scores(count, parts.q.add(first * dim), dim, tile, range, out);
                first += count;
            }
        }
        for piece in 0..pieces {
            let mut first = start;
            while first < rows.count {
                let count = S::group(rows.count - first);
                if piece == 0 {
                    let mut seen = [(0, 0); MAX_GROUP];
                    for (r, seen) in seen.iter_mut().enumerate().take(count) {
                        let p = position(first + r);
                        let from = config
                            .window
                            .map_or(0, |window| (p + 1).saturating_sub(window as usize));
                        // Positions fit in i32: as many keys would not fit in memory otherwise.
                        *seen = (
                            from as i32 - tile_start as i32,
                            (p + 1) as i32 - tile_start as i32,
                        );
                    }
                    soften::<S>(parts, &seen[..count], first);
                } else {
                    // The first piece has applied the factor.
                    std::slice::from_raw_parts_mut(parts.alpha.add(first), count).fill(1.0);
                }
                let hi = end(first, count).min((piece + 1) * TILE / pieces);
                let range = (lo.max(piece * TILE / pieces), hi);
                if piece == 0 || range.0 < range.1 {
                    let out = parts.running.out.add(first * value_dim);
                    let (weights, alpha) = (parts.weights.add(first * TILE), parts.alpha.add(first));
                    S::weighted_sum(count, weights, alpha, tile, range, value_dim, out);
                }
                first += count;
            }
        }
    }
}

/// Widens a tile of f16 into the scratch, same layout.
#[inline(always)]
unsafe fn widen<S: Simd>(
    tile: &Tile<u16>,
    blocks: usize,
    dim: usize,
    value_dim: usize,
    parts: &Parts,
) -> Tile<f32> {
    let mut wide = Tile {
        keys: [parts.keys.cast_const(); TILE / BLOCK],
        values: [parts.values.cast_const(); TILE / BLOCK],
        ahead: [0; TILE / BLOCK],
    };
    // SAFETY: blocks hold that many values and the scratch holds a tile.
    unsafe {
        for b in 0..blocks {
            let (keys, values) = (
                parts.keys.add(b * BLOCK * dim),
                parts.values.add(b * BLOCK * value_dim),
            );
            for i in (0..BLOCK * dim).step_by(S::LANES) {
                S::store(keys.add(i), S::load_f16(tile.keys[b].add(i)));
            }
            for i in (0..BLOCK * value_dim).step_by(S::LANES) {
                S::store(values.add(i), S::load_f16(tile.values[b].add(i)));
            }
            wide.keys[b] = keys;
            wide.values[b] = values;
        }
        // Blocks past the end are computed and masked: any readable memory serves.
        for b in blocks..TILE / BLOCK {
            wide.keys[b] = wide.keys[0];
            wide.values[b] = wide.values[0];
        }
    }
    wide
}

/// The blocks of the tile that starts at a position; those past `end` repeat the first.
#[inline(always)]
unsafe fn tile_of<E: Stored>(
    layer: &AttentionLayer<'_>,
    table: &[u32],
    kv_head: usize,
    tile_start: usize,
    end: usize,
) -> (Tile<E>, usize) {
    let blocks = (end - tile_start).min(TILE).div_ceil(BLOCK);
    // SAFETY: cells up to `end` are valid blocks by the caller's promise.
    unsafe {
        let at = |b: usize| {
            layer
                .cache
                .keys::<E>(table[tile_start / BLOCK + b], kv_head)
                .cast_const()
        };
        let mut tile = Tile {
            keys: [at(0); TILE / BLOCK],
            values: [at(0); TILE / BLOCK],
            ahead: [0; TILE / BLOCK],
        };
        for b in 0..blocks {
            tile.keys[b] = at(b);
            if E::AHEAD && tile_start + TILE + b * BLOCK < end {
                let distance = at(b + TILE / BLOCK).addr().wrapping_sub(at(b).addr());
                tile.ahead[b] = distance as isize / size_of::<E>() as isize;
            }
        }
        for b in 0..TILE / BLOCK {
            tile.values[b] = tile.keys[b].add(BLOCK * layer.cache.head_dim);
        }
        (tile, blocks)
    }
}

/// All tiles of one split into the running state.
#[inline(always)]
unsafe fn run_split<S: Products>(
    layer: &AttentionLayer<'_>,
    rows: &QueryRows<'_>,
    kv_head: usize,
    split: usize,
    parts: &Parts,
) {
    let (begin, end) = rows.positions(layer.config);
    let (dim, value_dim) = (layer.cache.head_dim, layer.cache.value_dim);
    // SAFETY: the caller's promise.
    unsafe {
        parts.running.clear::<S>(rows.count, value_dim);
        let from = (split * SPLIT).max(begin / TILE * TILE);
        let to = ((split + 1) * SPLIT).min(end);
        for tile_start in (from..to).step_by(TILE) {
            let wide = if layer.cache.dtype == Dtype::F16 {
                let (tile, blocks) = tile_of::<u16>(layer, rows.blocks, kv_head, tile_start, end);
                if rows.count < WIDEN_ROWS {
                    rows_tile::<S, u16>(layer, rows, parts, &tile, tile_start);
                    continue;
                }
                widen::<S>(&tile, blocks, dim, value_dim, parts)
            } else {
                tile_of::<f32>(layer, rows.blocks, kv_head, tile_start, end).0
            };
            rows_tile::<S, f32>(layer, rows, parts, &wide, tile_start);
        }
    }
}

#[inline(always)]
unsafe fn run_task_kernel<S: Products>(
    layer: &AttentionLayer<'_>,
    rows: &QueryRows<'_>,
    kv_head: usize,
    split: Option<(usize, Partials)>,
    scratch: &Scratch,
) {
    let parts = scratch.parts();
    let value_dim = layer.cache.value_dim;
    // SAFETY: the caller's promise.
    unsafe {
        load_queries::<S>(layer, rows, kv_head, parts.q);
        let (begin, end) = rows.positions(layer.config);
        let splits = match split {
            Some((split, _)) => split..split + 1,
            None => begin / SPLIT..end.div_ceil(SPLIT),
        };
        parts.total.clear::<S>(rows.count, value_dim);
        for split_index in splits {
            run_split::<S>(layer, rows, kv_head, split_index, &parts);
            for r in 0..rows.count {
                let from = parts.running.out.add(r * value_dim);
                let (max, sum) = (*parts.running.max.add(r), *parts.running.sum.add(r));
                if let Some((_, partials)) = split {
                    let to = partials.row(value_dim, split_index, r);
                    std::ptr::copy_nonoverlapping(from, to, value_dim);
                    *to.add(value_dim) = max;
                    *to.add(value_dim + 1) = sum;
                } else {
                    fold::<S>(parts.total, r, value_dim, from, max, sum);
                }
            }
        }
        if split.is_none() {
            write_out::<S>(layer, rows, kv_head, parts.total);
        }
    }
}
isa_entry! {
    /// Runs one task: all splits and the output, or one split into its partial result.
    ///
    /// The entry's cells of the block table are blocks of the cache, whose positions up to the rows' own are written; the
    /// matrices hold the entry's tokens; nobody else uses the scratch, writes these outputs or this partial result.
    fn run_task(
        layer: &AttentionLayer<'_>,
        rows: &QueryRows<'_>,
        kv_head: usize,
        split: Option<(usize, Partials)>,
        scratch: &Scratch,
    ) = run_task_kernel
}

#[inline(always)]
unsafe fn merge_splits_kernel<S: Simd>(
    layer: &AttentionLayer<'_>,
    rows: &QueryRows<'_>,
    kv_head: usize,
    partials: Partials,
    scratch: &Scratch,
) {
    let parts = scratch.parts();
    let value_dim = layer.cache.value_dim;
    let (begin, end) = rows.positions(layer.config);
    // SAFETY: the caller's promise.
    unsafe {
        parts.total.clear::<S>(rows.count, value_dim);
        for split in begin / SPLIT..end.div_ceil(SPLIT) {
            for r in 0..rows.count {
                let from = partials.row(value_dim, split, r);
                fold::<S>(
                    parts.total,
                    r,
                    value_dim,
                    from,
                    *from.add(value_dim),
                    *from.add(value_dim + 1),
                );
            }
        }
        write_out::<S>(layer, rows, kv_head, parts.total);
    }
}
isa_entry! {
    /// Folds the partial results of a unit whose splits were separate tasks, all finished, and writes the output.
    fn merge_splits(
        layer: &AttentionLayer<'_>,
        rows: &QueryRows<'_>,
        kv_head: usize,
        partials: Partials,
        scratch: &Scratch,
    ) = merge_splits_kernel
}
