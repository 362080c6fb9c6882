//! The tape: one forward pass as a recorded sequence of kernel calls, with the number of tokens left open.
//!
//! A decoder is run once against [`TapeBuilder`]; each call records an operation and gives the buffer it writes. Shapes
//! are checked here, once, so that a step checks nothing. Released buffers lend their memory to later ones.
//!
//! Refuses to know steps, rows and threads.

use std::sync::Arc;

use thiserror::Error;

pub use crate::kernels::attention::{AttentionConfig, AttentionError};
pub use crate::kernels::embed::{EmbeddingError, EmbeddingTable, SharedBytes};
use crate::memory::row_stride;
use crate::weight::PackedWeight;

/// What a buffer has one row for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Every token of a step.
    Tokens,
    /// Every sample of a step.
    Samples,
}

/// An activation `[tokens or samples, dim]`. Names are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(u32);

/// A call that does not fit what was recorded before.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum TapeError {
    /// The buffer belongs to another tape.
    #[error("{op}: buffer {given} is not one of this tape's {buffers} buffers")]
    Unknown {
        /// The operation.
        op: &'static str,
        /// The buffer's number.
        given: u32,
        /// Buffers recorded so far.
        buffers: usize,
    },
    /// The buffer was released before.
    #[error("{op}: buffer {given} was released; its memory may hold another one")]
    Released {
        /// The operation.
        op: &'static str,
        /// The buffer's number.
        given: u32,
    },
    /// A width that does not fit.
    #[error("{op}: {what} has {given} values; {expected} are needed")]
    Dim {
        /// The operation.
        op: &'static str,
        /// What is too wide or too narrow.
        what: &'static str,
        /// Values given.
        given: usize,
        /// Values needed.
        expected: usize,
    },
    /// Tokens where samples belong, or the other way round.
    #[error("{op}: {what} has one row for each of the {given:?}; {expected:?} are needed")]
    Axis {
        /// The operation.
        op: &'static str,
        /// Which buffer.
        what: &'static str,
        /// Its axis.
        given: Axis,
        /// The axis needed.
        expected: Axis,
    },
    /// Input and in-place operand are the same buffer.
    #[error("{op}: buffer {given} is both operands; the kernel needs two")]
    Alias {
        /// The operation.
        op: &'static str,
        /// The buffer's number.
        given: u32,
    },
    /// Heads that the kernels do not take.
    #[error("attention: {0}")]
    Attention(#[from] AttentionError),
    /// Layers with different heads.
    #[error(
        "attention: layer {layer} has {given:?} query heads, key/value heads and head values, another layer {expected:?}; \
         all layers share one cache and must agree"
    )]
    Heads {
        /// The layer.
        layer: usize,
        /// Its numbers.
        given: (usize, usize, usize),
        /// The other layers' numbers.
        expected: (usize, usize, usize),
    },
    /// An epsilon that would divide by zero.
    #[error("{op}: epsilon is {given}; it must be at least 0 and finite")]
    Eps {
        /// The operation.
        op: &'static str,
        /// The value given.
        given: f32,
    },
    /// A tape without an embedding cannot read tokens.
    #[error("finish: no embedding was recorded, so the tape does not depend on the tokens")]
    NoEmbedding,
}

#[derive(Debug)]
pub(crate) enum Op {
    Embed {
        table: EmbeddingTable,
        out: BufferId,
    },
    RmsNorm {
        x: BufferId,
        weight: Arc<[f32]>,
        eps: f32,
        out: BufferId,
    },
    AddRmsNorm {
        residual: BufferId,
        x: BufferId,
        weight: Arc<[f32]>,
        eps: f32,
        out: BufferId,
    },
    Linear {
        x: BufferId,
        weight: Arc<PackedWeight>,
        /// Its place among the linears.
        index: usize,
        out: BufferId,
    },
    Attention(Box<AttentionOp>),
    SwiGlu {
        x: BufferId,
        out: BufferId,
    },
    SampleRows {
        x: BufferId,
        out: BufferId,
    },
}

#[derive(Debug)]
pub(crate) struct AttentionOp {
    pub(crate) qkv: BufferId,
    pub(crate) layer: usize,
    pub(crate) config: AttentionConfig,
    pub(crate) q_norm: Option<Arc<[f32]>>,
    pub(crate) k_norm: Option<Arc<[f32]>>,
    pub(crate) out: BufferId,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) dim: usize,
    pub(crate) axis: Axis,
    /// Which piece of workspace it lies in.
    pub(crate) place: usize,
    live: bool,
}

/// A piece of workspace: `dim` values for each token or sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) dim: usize,
    pub(crate) axis: Axis,
    free: bool,
}

impl Place {
    /// Values from one row to the next. Samples, among them the logits, lie without gaps.
    pub(crate) fn stride(self) -> usize {
        match self.axis {
            Axis::Tokens => row_stride(self.dim),
            Axis::Samples => self.dim,
        }
    }
}

/// Records a forward pass.
#[derive(Debug, Default)]
pub struct TapeBuilder {
    ops: Vec<Op>,
    buffers: Vec<Buffer>,
    places: Vec<Place>,
    heads: Option<(usize, usize, usize)>,
    layers: usize,
    vocab: Option<usize>,
    max_k: usize,
    linears: usize,
}

impl TapeBuilder {
    /// An empty tape.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A new buffer of `dim` values a row. What it holds before it is written is undefined.
    pub fn buffer(&mut self, dim: usize, axis: Axis) -> BufferId {
        let free = |place: &&Place| place.free && place.axis == axis;
        let found = self
            .places
            .iter()
            .filter(free)
            .filter(|place| place.dim >= dim)
            .min_by_key(|place| place.dim)
            .or_else(|| self.places.iter().filter(free).max_by_key(|place| place.dim))
            .and_then(|found| self.places.iter().position(|place| std::ptr::eq(place, found)));
        let place = found.unwrap_or_else(|| {
            self.places.push(Place {
                dim,
                axis,
                free: true,
            });
            self.places.len() - 1
        });
        self.places[place].free = false;
        self.places[place].dim = self.places[place].dim.max(dim);
        self.buffers.push(Buffer {
            dim,
            axis,
            place,
            live: true,
        });
        BufferId(self.buffers.len() as u32 - 1)
    }

    /// Lets later buffers use this one's memory.
    ///
    /// # Errors
    /// [`TapeError::Unknown`] or [`TapeError::Released`].
    pub fn release(&mut self, buffer: BufferId) -> Result<(), TapeError> {
        let place = self.get("release", buffer)?.place;
        self.places[place].free = true;
        self.buffers[buffer.0 as usize].live = false;
        Ok(())
    }

    /// Values in a row of a buffer.
    ///
    /// # Errors
    /// [`TapeError::Unknown`] or [`TapeError::Released`].
    pub fn dim(&self, buffer: BufferId) -> Result<usize, TapeError> {
        Ok(self.get("dim", buffer)?.dim)
    }

    /// The embeddings of the step's tokens: `[tokens, table.dim()]`.
    ///
    /// # Errors
    /// None today; the signature is that of the other operations.
    pub fn embed(&mut self, table: EmbeddingTable) -> Result<BufferId, TapeError> {
        self.vocab = Some(self.vocab.map_or(table.rows(), |rows| rows.min(table.rows())));
        let out = self.buffer(table.dim(), Axis::Tokens);
        self.ops.push(Op::Embed { table, out });
        Ok(out)
    }

    /// `x / sqrt(mean(x^2) + eps) * weight` of every row.
    ///
    /// # Errors
    /// [`TapeError`] when `weight` is not as wide as `x`.
    pub fn rms_norm(&mut self, x: BufferId, weight: Arc<[f32]>, eps: f32) -> Result<BufferId, TapeError> {
        const OP: &str = "rms_norm";
        let Buffer { dim, axis, .. } = self.get(OP, x)?;
        same(OP, "the weight", weight.len(), dim)?;
        check_eps(OP, eps)?;
        let out = self.buffer(dim, axis);
        self.ops.push(Op::RmsNorm { x, weight, eps, out });
        Ok(out)
    }

    /// `residual += x` in place, then the norm of the residual.
    ///
    /// # Errors
    /// [`TapeError`] when widths or axes differ, or both are one buffer.
    pub fn add_rms_norm(
        &mut self,
        residual: BufferId,
        x: BufferId,
        weight: Arc<[f32]>,
        eps: f32,
    ) -> Result<BufferId, TapeError> {
        const OP: &str = "add_rms_norm";
        let Buffer { dim, axis, .. } = self.get(OP, residual)?;
        let given = self.get(OP, x)?;
        same(OP, "x", given.dim, dim)?;
        same_axis(OP, "x", given.axis, axis)?;
        same(OP, "the weight", weight.len(), dim)?;
        check_eps(OP, eps)?;
        if residual == x {
            return Err(TapeError::Alias { op: OP, given: x.0 });
        }
        let out = self.buffer(dim, axis);
        self.ops.push(Op::AddRmsNorm {
            residual,
            x,
            weight,
            eps,
            out,
        });
        Ok(out)
    }

    /// `x · Wᵀ + bias`: `[rows of x, weight.n()]`.
    ///
    /// # Errors
    /// [`TapeError`] when `x` is not as wide as the weight's inputs.
    pub fn linear(&mut self, x: BufferId, weight: Arc<PackedWeight>) -> Result<BufferId, TapeError> {
        const OP: &str = "linear";
        let Buffer { dim, axis, .. } = self.get(OP, x)?;
        same(OP, "x", dim, weight.k())?;
        self.max_k = self.max_k.max(weight.k());
        let out = self.buffer(weight.n(), axis);
        let index = self.linears;
        self.linears += 1;
        self.ops.push(Op::Linear {
            x,
            weight,
            index,
            out,
        });
        Ok(out)
    }

    /// Linears recorded so far: the next one's place among them.
    #[must_use]
    pub fn linears(&self) -> usize {
        self.linears
    }

    /// Norm of query and key heads where a weight `[head_dim]` is given, rotation, cache write and causal attention of
    /// `[queries | keys | values]` rows: `[tokens, heads * head_dim]`. Query and key parts of `qkv` are changed in place.
    ///
    /// # Errors
    /// [`TapeError`] when widths do not follow from `config`, or it differs from another layer's in its heads.
    pub fn attention(
        &mut self,
        qkv: BufferId,
        layer: usize,
        config: AttentionConfig,
        q_norm: Option<Arc<[f32]>>,
        k_norm: Option<Arc<[f32]>>,
    ) -> Result<BufferId, TapeError> {
        const OP: &str = "attention";
        config.check()?;
        let given = self.get(OP, qkv)?;
        same_axis(OP, "qkv", given.axis, Axis::Tokens)?;
        same(OP, "qkv", given.dim, config.qkv_dim())?;
        for weight in [&q_norm, &k_norm].into_iter().flatten() {
            same(OP, "the norm of heads", weight.len(), config.head_dim)?;
        }
        check_eps(OP, config.norm_eps)?;
        let heads = (config.heads, config.kv_heads, config.head_dim);
        let expected = *self.heads.get_or_insert(heads);
        if heads != expected {
            return Err(TapeError::Heads {
                layer,
                given: heads,
                expected,
            });
        }
        self.layers = self.layers.max(layer + 1);
        let out = self.buffer(config.out_dim(), Axis::Tokens);
        self.ops.push(Op::Attention(Box::new(AttentionOp {
            qkv,
            layer,
            config,
            q_norm,
            k_norm,
            out,
        })));
        Ok(out)
    }

    /// `silu(gate) * up` of `[gate | up]` rows: half as wide.
    ///
    /// # Errors
    /// [`TapeError::Dim`] when `x` has an odd width.
    pub fn swiglu(&mut self, x: BufferId) -> Result<BufferId, TapeError> {
        const OP: &str = "swiglu";
        let Buffer { dim, axis, .. } = self.get(OP, x)?;
        same(OP, "x", dim, dim / 2 * 2)?;
        let out = self.buffer(dim / 2, axis);
        self.ops.push(Op::SwiGlu { x, out });
        Ok(out)
    }

    /// The rows of the tokens whose successors are sampled.
    ///
    /// # Errors
    /// [`TapeError::Axis`] when `x` is already by samples.
    pub fn sample_rows(&mut self, x: BufferId) -> Result<BufferId, TapeError> {
        const OP: &str = "sample_rows";
        let Buffer { dim, axis, .. } = self.get(OP, x)?;
        same_axis(OP, "x", axis, Axis::Tokens)?;
        let out = self.buffer(dim, Axis::Samples);
        self.ops.push(Op::SampleRows { x, out });
        Ok(out)
    }

    /// The finished tape, whose result is `logits`, `[samples, vocabulary]`.
    ///
    /// # Errors
    /// [`TapeError`] when the logits are not by samples, or nothing was embedded.
    pub fn finish(self, logits: BufferId) -> Result<Tape, TapeError> {
        let buffer = self.get("finish", logits)?;
        same_axis("finish", "the logits", buffer.axis, Axis::Samples)?;
        Ok(Tape {
            vocab: self.vocab.ok_or(TapeError::NoEmbedding)?,
            ops: self.ops,
            buffers: self.buffers,
            places: self.places,
            heads: self.heads,
            layers: self.layers,
            max_k: self.max_k,
            logits,
        })
    }

    fn get(&self, op: &'static str, id: BufferId) -> Result<Buffer, TapeError> {
        match self.buffers.get(id.0 as usize) {
            Some(buffer) if buffer.live => Ok(*buffer),
            Some(_) => Err(TapeError::Released { op, given: id.0 }),
            None => Err(TapeError::Unknown {
                op,
                given: id.0,
                buffers: self.buffers.len(),
            }),
        }
    }
}

fn same(op: &'static str, what: &'static str, given: usize, expected: usize) -> Result<(), TapeError> {
    if given == expected {
        Ok(())
    } else {
        Err(TapeError::Dim {
            op,
            what,
            given,
            expected,
        })
    }
}

fn same_axis(op: &'static str, what: &'static str, given: Axis, expected: Axis) -> Result<(), TapeError> {
    if given == expected {
        Ok(())
    } else {
        Err(TapeError::Axis {
            op,
            what,
            given,
            expected,
        })
    }
}

fn check_eps(op: &'static str, given: f32) -> Result<(), TapeError> {
    if given >= 0.0 && given.is_finite() {
        Ok(())
    } else {
        Err(TapeError::Eps { op, given })
    }
}

/// A finished forward pass.
#[derive(Debug)]
pub struct Tape {
    pub(crate) ops: Vec<Op>,
    buffers: Vec<Buffer>,
    pub(crate) places: Vec<Place>,
    /// Query heads, KV heads and head dimension of every layer; `None` without attention.
    pub(crate) heads: Option<(usize, usize, usize)>,
    /// Layers that attend.
    pub(crate) layers: usize,
    /// Ids that the embedding table has.
    pub(crate) vocab: usize,
    /// Most inputs of a linear.
    pub(crate) max_k: usize,
    pub(crate) logits: BufferId,
}

impl Tape {
    /// Recorded operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether nothing was recorded; a finished tape has at least an embedding.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Values of a row of logits.
    #[must_use]
    pub fn logits_dim(&self) -> usize {
        self.buffer(self.logits).dim
    }

    /// Bytes of workspace for each token and each sample of a step.
    #[must_use]
    pub fn workspace_bytes(&self) -> (usize, usize) {
        let sum = |axis| {
            let strides = self
                .places
                .iter()
                .filter(|place| place.axis == axis)
                .map(|place| place.stride());
            strides.sum::<usize>() * size_of::<f32>()
        };
        (sum(Axis::Tokens), sum(Axis::Samples))
    }

    /// Inputs and outputs of a linear that is computed for every token, by its place among the linears.
    pub(crate) fn token_linear(&self, linear: usize) -> Option<(usize, usize)> {
        self.ops.iter().find_map(|op| match op {
            Op::Linear { x, weight, index, .. }
                if *index == linear && self.buffer(*x).axis == Axis::Tokens =>
            {
                Some((weight.k(), weight.n()))
            }
            _ => None,
        })
    }

    pub(crate) fn buffer(&self, id: BufferId) -> Buffer {
        self.buffers[id.0 as usize]
    }
}

#[cfg(test)]
mod tests;
