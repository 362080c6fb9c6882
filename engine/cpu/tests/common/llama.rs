//! A small random Llama with a naive f64 forward pass, and the same model on a tape.

#![allow(clippy::allow_attributes, dead_code, reason = "each binary uses a part")]
#![expect(clippy::unwrap_used, reason = "a fixture: a failure is the test's")]
#![expect(
    clippy::needless_range_loop,
    reason = "the reference is written by its indexes"
)]

use std::sync::Arc;

use agentlm_core::{arena, results};
use agentlm_cpu::dtype::Dtype;
use agentlm_cpu::executor::{Executor, ExecutorConfig, RopeTables};
use agentlm_cpu::isa::Isa;
use agentlm_cpu::kv_cache::{KvCache, KvCacheConfig};
use agentlm_cpu::pool::Pool;
use agentlm_cpu::sampler::SamplerConfig;
use agentlm_cpu::tape::{AttentionConfig, EmbeddingTable, Tape, TapeBuilder};
use agentlm_cpu::weight::{PackedWeight, Source};

use super::value;

const EPS: f32 = 1e-5;

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub vocab: usize,
    pub hidden: usize,
    pub inter: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rotary_dim: usize,
    pub window: Option<u32>,
    /// Norms of query and key heads.
    pub head_norms: bool,
    /// Bias of the joint query, key and value projection.
    pub bias: bool,
}

/// Neither norms of heads nor biases nor a window.
pub const PLAIN: Shape = Shape {
    vocab: 97,
    hidden: 48,
    inter: 80,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    rotary_dim: 16,
    window: None,
    head_norms: false,
    bias: false,
};

#[derive(Clone, Debug)]
struct Layer {
    input_norm: Vec<f32>,
    qkv: Vec<f32>,
    bias: Option<Vec<f32>>,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    out: Vec<f32>,
    mlp_norm: Vec<f32>,
    gate_up: Vec<f32>,
    down: Vec<f32>,
}

#[derive(Clone, Debug)]
pub struct Llama {
    pub shape: Shape,
    embedding: Vec<f32>,
    layers: Vec<Layer>,
    final_norm: Vec<f32>,
    head: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

pub const ARENA: arena::Layout = arena::Layout {
    max_rows: 6,
    max_model_len: 400,
};
pub const RESULTS: results::Layout = results::Layout {
    max_rows: 6,
    top_cap: 5,
    max_scores: 32,
};
pub const MAX_TOKENS: usize = 512;

impl Llama {
    pub fn random(shape: Shape) -> Self {
        let mut seed = 0;
        let mut random = |n: usize, scale: f32, offset: f32| {
            seed += 1;
            (0..n)
                .map(|i| value(seed, i) * scale + offset)
                .collect::<Vec<f32>>()
        };
        let s = shape;
        let (h, qkv) = (s.hidden, (s.heads + 2 * s.kv_heads) * s.head_dim);
        let by = |k: usize| 1.7 / (k as f32).sqrt();
        let layers = (0..s.layers)
            .map(|_| Layer {
                input_norm: random(h, 0.3, 1.0),
                qkv: random(qkv * h, by(h), 0.0),
                bias: s.bias.then(|| random(qkv, 0.5, 0.0)),
                q_norm: random(s.head_dim, 0.3, 1.0),
                k_norm: random(s.head_dim, 0.3, 1.0),
                out: random(h * s.heads * s.head_dim, by(s.heads * s.head_dim), 0.0),
                mlp_norm: random(h, 0.3, 1.0),
                gate_up: random(2 * s.inter * h, by(h), 0.0),
                down: random(h * s.inter, by(s.inter), 0.0),
            })
            .collect();
        let half = s.rotary_dim / 2;
        let angle = |i: usize| (i / half) as f64 * 10_000f64.powf(-((i % half) as f64) / half as f64);
        let n = ARENA.max_model_len as usize * half;
        Self {
            shape,
            embedding: random(s.vocab * h, 1.0, 0.0),
            layers,
            final_norm: random(h, 0.3, 1.0),
            head: random(s.vocab * h, 3.0 * by(h), 0.0),
            cos: (0..n).map(|i| angle(i).cos() as f32).collect(),
            sin: (0..n).map(|i| angle(i).sin() as f32).collect(),
        }
    }

    /// Logits of every position, in f64.
    pub fn forward(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let s = &self.shape;
        let h = s.hidden;
        let mut residual: Vec<Vec<f64>> = tokens
            .iter()
            .map(|&t| wide(&self.embedding[t as usize * h..(t as usize + 1) * h]))
            .collect();
        for layer in &self.layers {
            let (mut keys, mut values) = (vec![], vec![]);
            for position in 0..tokens.len() {
                let x = norm(&residual[position], &layer.input_norm);
                let mut qkv = product(&x, &layer.qkv, layer.bias.as_deref());
                let (heads, kv_heads, d) = (s.heads, s.kv_heads, s.head_dim);
                for (i, head) in qkv.chunks_exact_mut(d).enumerate().take(heads + kv_heads) {
                    if s.head_norms {
                        let weight = if i < heads { &layer.q_norm } else { &layer.k_norm };
                        head.copy_from_slice(&norm(head, weight));
                    }
                    self.rotate(head, position);
                }
                keys.push(qkv[heads * d..(heads + kv_heads) * d].to_vec());
                values.push(qkv[(heads + kv_heads) * d..].to_vec());
                let first = s.window.map_or(0, |w| (position + 1).saturating_sub(w as usize));
                let mut attended = vec![0.0; heads * d];
                for head in 0..heads {
                    let at = head / (heads / kv_heads) * d;
                    let q = &qkv[head * d..(head + 1) * d];
                    let scores: Vec<f64> = (first..=position)
                        .map(|p| dot(q, &keys[p][at..at + d]) * (d as f64).powf(-0.5))
                        .collect();
                    let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                    let sum: f64 = scores.iter().map(|x| (x - largest).exp()).sum();
                    for (p, score) in (first..).zip(&scores) {
                        for j in 0..d {
                            attended[head * d + j] += (score - largest).exp() / sum * values[p][at + j];
                        }
                    }
                }
                add(&mut residual[position], &product(&attended, &layer.out, None));
                let x = norm(&residual[position], &layer.mlp_norm);
                let gate_up = product(&x, &layer.gate_up, None);
                let (gate, up) = gate_up.split_at(s.inter);
                let x: Vec<f64> = gate
                    .iter()
                    .zip(up)
                    .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                    .collect();
                add(&mut residual[position], &product(&x, &layer.down, None));
            }
        }
        residual
            .iter()
            .map(|x| product(&norm(x, &self.final_norm), &self.head, None))
            .collect()
    }

    fn rotate(&self, head: &mut [f64], position: usize) {
        let half = self.shape.rotary_dim / 2;
        for i in 0..half {
            let c = f64::from(self.cos[position * half + i]);
            let s = f64::from(self.sin[position * half + i]);
            let (a, b): (f64, f64) = (head[i], head[i + half]);
            head[i] = a * c - b * s;
            head[i + half] = b * c + a * s;
        }
    }

    pub fn tape(&self, pool: &Pool) -> Tape {
        let s = &self.shape;
        let pack = |weight: &[f32], k: usize, bias: Option<&[f32]>| {
            let bytes: Vec<u8> = weight.iter().flat_map(|x| x.to_le_bytes()).collect();
            let source = Source {
                bytes: &bytes,
                dtype: Dtype::F32,
                n: weight.len() / k,
            };
            Arc::new(PackedWeight::pack(pool, &[source], k, Dtype::F32, bias).unwrap())
        };
        let vector = |v: &[f32]| Arc::<[f32]>::from(v);
        let config = AttentionConfig {
            heads: s.heads,
            kv_heads: s.kv_heads,
            head_dim: s.head_dim,
            scale: (s.head_dim as f32).powf(-0.5),
            window: s.window,
            norm_eps: EPS,
        };
        let mut tape = TapeBuilder::new();
        let residual = tape
            .embed(EmbeddingTable::from_values(&self.embedding, s.hidden).unwrap())
            .unwrap();
        let mut x = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = match x {
                None => tape.rms_norm(residual, vector(&layer.input_norm), EPS).unwrap(),
                Some(x) => {
                    let y = tape
                        .add_rms_norm(residual, x, vector(&layer.input_norm), EPS)
                        .unwrap();
                    tape.release(x).unwrap();
                    y
                }
            };
            let qkv = tape
                .linear(normed, pack(&layer.qkv, s.hidden, layer.bias.as_deref()))
                .unwrap();
            tape.release(normed).unwrap();
            let q_norm = s.head_norms.then(|| vector(&layer.q_norm));
            let k_norm = s.head_norms.then(|| vector(&layer.k_norm));
            let attended = tape.attention(qkv, index, config, q_norm, k_norm).unwrap();
            tape.release(qkv).unwrap();
            let y = tape
                .linear(attended, pack(&layer.out, s.heads * s.head_dim, None))
                .unwrap();
            tape.release(attended).unwrap();
            let normed = tape
                .add_rms_norm(residual, y, vector(&layer.mlp_norm), EPS)
                .unwrap();
            tape.release(y).unwrap();
            let gate_up = tape.linear(normed, pack(&layer.gate_up, s.hidden, None)).unwrap();
            tape.release(normed).unwrap();
            let y = tape.swiglu(gate_up).unwrap();
            tape.release(gate_up).unwrap();
            x = Some(tape.linear(y, pack(&layer.down, s.inter, None)).unwrap());
            tape.release(y).unwrap();
        }
        let last = tape
            .add_rms_norm(residual, x.unwrap(), vector(&self.final_norm), EPS)
            .unwrap();
        let rows = tape.sample_rows(last).unwrap();
        let logits = tape.linear(rows, pack(&self.head, s.hidden, None)).unwrap();
        tape.finish(logits).unwrap()
    }

    pub fn executor(&self, isa: Isa, threads: usize, dtype: Dtype) -> Executor {
        let s = &self.shape;
        let pool = Arc::new(Pool::new(threads).unwrap());
        let tape = self.tape(&pool);
        let cache = KvCache::new(KvCacheConfig {
            layers: s.layers,
            num_blocks: 80,
            kv_heads: s.kv_heads,
            head_dim: s.head_dim,
            dtype,
        })
        .unwrap();
        let config = ExecutorConfig {
            isa,
            rope: Some(RopeTables::new(self.cos.clone(), self.sin.clone(), s.rotary_dim).unwrap()),
            arena: ARENA,
            results: RESULTS,
            max_tokens: MAX_TOKENS,
            sampler: SamplerConfig::new(vec![2], s.vocab),
        };
        Executor::new(tape, pool, cache, config).unwrap()
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| v.into()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &mut [f64], b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
}

fn norm(x: &[f64], weight: &[f32]) -> Vec<f64> {
    let by = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(EPS)).sqrt();
    x.iter()
        .zip(weight)
        .map(|(v, &w)| v * by * f64::from(w))
        .collect()
}

fn product(x: &[f64], weight: &[f32], bias: Option<&[f32]>) -> Vec<f64> {
    weight
        .chunks_exact(x.len())
        .enumerate()
        .map(|(i, row)| {
            let sum: f64 = row.iter().zip(x).map(|(&w, v)| f64::from(w) * v).sum();
            sum + bias.map_or(0.0, |bias| bias[i].into())
        })
        .collect()
}
