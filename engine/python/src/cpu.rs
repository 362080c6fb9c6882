//! The CPU backend as Python sees it: bind weights, record a tape, run steps.

use std::sync::Arc;

use agentlm_cpu::adapter::{Adapter, AdapterError, LowRank};
use agentlm_cpu::dtype::Dtype;
use agentlm_cpu::executor::{Executor, ExecutorConfig, RopeTables};
use agentlm_cpu::isa::Isa;
use agentlm_cpu::kv_cache::{KvCache, KvCacheConfig};
use agentlm_cpu::pool::Pool;
use agentlm_cpu::rounding::F16Rounding;
use agentlm_cpu::sampler::{Masks, SamplerConfig};
use agentlm_cpu::tape::{AttentionConfig, BufferId, EmbeddingTable};
use agentlm_cpu::weight::{PackedWeight, Source};
use agentlm_host::MaskSlot;
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::engine::Engine;
use crate::errors;

/// Where a tensor lies: address, element type (safetensors' name), shape.
type Place = (usize, String, Vec<usize>);
/// One layer's attention: query heads, key-value heads, head dimension, scale, window.
type Attention = (usize, usize, usize, f32, Option<u32>);

/// Compute threads and the instruction set of the kernels.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct CpuBackend {
    pool: Arc<Pool>,
    isa: Isa,
}

#[pymethods]
impl CpuBackend {
    /// `isa` is "auto", "portable", "neon", "avx2", "avx512" or "amx".
    #[new]
    fn new(threads: usize, isa: &str) -> PyResult<Self> {
        let isa = match isa {
            "auto" => Isa::detect(),
            named => named
                .parse()
                .map_err(|error| errors::raise("BackendError", error))?,
        };
        if !isa.is_available() {
            let have: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
            let why = format!("this machine does not have {isa}; it has {}", have.join(", "));
            return Err(errors::raise("BackendError", why));
        }
        let pool = Pool::new(threads).map_err(|error| errors::raise("BackendError", error))?;
        Ok(Self {
            pool: Arc::new(pool),
            isa,
        })
    }

    /// Instruction sets of this machine, from the least to the most demanding.
    #[staticmethod]
    fn available_isas() -> Vec<&'static str> {
        Isa::available().into_iter().map(Isa::name).collect()
    }

    /// Whether a tensor can be stored as float16 without harm; see `agentlm_cpu::rounding`. The memory behind the
    /// place must stay mapped during the call.
    #[staticmethod]
    fn f16_is_harmless(py: Python<'_>, place: Place) -> PyResult<bool> {
        py.detach(|| {
            // SAFETY: the Python side holds the checkpoint's map during the call.
            let tensor = unsafe { Tensor::new(&place) }?;
            let rounding = F16Rounding::measure(tensor.bytes, tensor.dtype)
                .map_err(|error| errors::raise("TensorDtypeError", error))?;
            Ok(rounding.is_harmless())
        })
    }

    /// The instruction set in use.
    #[getter]
    fn isa(&self) -> &'static str {
        self.isa.name()
    }

    /// Compute threads.
    #[getter]
    fn threads(&self) -> usize {
        self.pool.count()
    }
}

/// A tensor's bytes, as long as the checkpoint's memory map lives.
struct Tensor<'a> {
    bytes: &'a [u8],
    dtype: Dtype,
    shape: &'a [usize],
}

impl<'a> Tensor<'a> {
    /// # Safety
    /// The caller's map must outlive the value and hold the shape's elements at the address.
    unsafe fn new(place: &'a Place) -> PyResult<Self> {
        let (address, dtype, shape) = place;
        let dtype: Dtype = dtype
            .parse()
            .map_err(|error| errors::raise("TensorDtypeError", error))?;
        let len = shape.iter().product::<usize>() * dtype.size();
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts(*address as *const u8, len) };
        Ok(Self { bytes, dtype, shape })
    }

    fn matrix(&self) -> PyResult<(usize, usize)> {
        match *self.shape {
            [rows, columns] => Ok((rows, columns)),
            ref other => Err(errors::raise(
                "TensorShapeError",
                format!("a matrix is needed, not shape {other:?}"),
            )),
        }
    }

    fn values(&self) -> PyResult<Vec<f32>> {
        let mut values = vec![0.0; self.bytes.len() / self.dtype.size()];
        self.dtype
            .decode(self.bytes, &mut values)
            .map_err(|error| errors::raise("TensorDtypeError", error))?;
        Ok(values)
    }
}

struct Recording {
    builder: agentlm_cpu::tape::TapeBuilder,
    linears: Vec<Arc<PackedWeight>>,
    vectors: Vec<Arc<[f32]>>,
    tables: Vec<Option<EmbeddingTable>>,
    buffers: Vec<BufferId>,
    /// Each bound linear's place among those recorded.
    places: Vec<Option<usize>>,
}

impl Recording {
    fn buffer(&self, buffer: usize) -> PyResult<BufferId> {
        self.buffers
            .get(buffer)
            .copied()
            .ok_or_else(|| unknown("buffer", buffer))
    }

    fn vector(&self, vector: usize) -> PyResult<Arc<[f32]>> {
        self.vectors
            .get(vector)
            .cloned()
            .ok_or_else(|| unknown("vector", vector))
    }

    fn keep(&mut self, recorded: Result<BufferId, agentlm_cpu::tape::TapeError>) -> PyResult<usize> {
        self.buffers.push(recorded.map_err(tape_error)?);
        Ok(self.buffers.len() - 1)
    }
}

fn unknown(what: &str, given: usize) -> PyErr {
    errors::raise(
        "BackendError",
        format!("{what} {given} was not given out by this tape"),
    )
}

fn tape_error(error: agentlm_cpu::tape::TapeError) -> PyErr {
    errors::raise("UnsupportedModelError", error)
}

/// Records one forward pass; see `agentlm.ops.tape`.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct TapeBuilder {
    pool: Arc<Pool>,
    isa: Isa,
    attention: Vec<Attention>,
    dtype: Dtype,
    recording: Mutex<Option<Recording>>,
}

impl TapeBuilder {
    fn with<R>(&self, f: impl FnOnce(&mut Recording) -> PyResult<R>) -> PyResult<R> {
        let mut recording = self.recording.lock();
        f(recording
            .as_mut()
            .ok_or_else(|| errors::raise("BackendError", "this tape is finished"))?)
    }
}

#[pymethods]
impl TapeBuilder {
    /// `attention` holds (heads, kv heads, head dimension, scale, window) of each layer; `dtype` stores matrices.
    #[new]
    fn new(backend: &CpuBackend, attention: Vec<Attention>, dtype: &str) -> PyResult<Self> {
        let dtype = dtype
            .parse()
            .map_err(|error| errors::raise("ConfigError", error))?;
        let recording = Recording {
            builder: agentlm_cpu::tape::TapeBuilder::new(),
            linears: Vec::new(),
            vectors: Vec::new(),
            tables: Vec::new(),
            buffers: Vec::new(),
            places: Vec::new(),
        };
        Ok(Self {
            pool: backend.pool.clone(),
            isa: backend.isa,
            attention,
            dtype,
            recording: Mutex::new(Some(recording)),
        })
    }

    /// Packs matrices `[n_i, k]` as one. The memory behind the places must stay mapped during the call.
    fn bind_linear(&self, py: Python<'_>, weights: Vec<Place>, biases: Vec<Place>) -> PyResult<usize> {
        py.detach(|| {
            // SAFETY: the Python side holds the checkpoint's map during the call.
            let tensors = weights
                .iter()
                .map(|place| unsafe { Tensor::new(place) })
                .collect::<PyResult<Vec<_>>>()?;
            let mut sources = Vec::with_capacity(tensors.len());
            let mut k = 0;
            for tensor in &tensors {
                let (n, columns) = tensor.matrix()?;
                k = columns;
                sources.push(Source {
                    bytes: tensor.bytes,
                    dtype: tensor.dtype,
                    n,
                });
            }
            let mut bias = Vec::new();
            for place in &biases {
                // SAFETY: as above.
                bias.extend(unsafe { Tensor::new(place) }?.values()?);
            }
            let bias = (!biases.is_empty()).then_some(bias.as_slice());
            let packed = PackedWeight::pack(&self.pool, &sources, k, self.dtype, bias)
                .map_err(|error| errors::raise("CheckpointError", error))?;
            self.with(|recording| {
                recording.linears.push(Arc::new(packed));
                recording.places.push(None);
                Ok(recording.linears.len() - 1)
            })
        })
    }

    /// Copies a vector.
    fn bind_vector(&self, weight: Place) -> PyResult<usize> {
        // SAFETY: the Python side holds the checkpoint's map during the call.
        let values = unsafe { Tensor::new(&weight) }?.values()?;
        self.with(|recording| {
            recording.vectors.push(values.into());
            Ok(recording.vectors.len() - 1)
        })
    }

    /// Copies an embedding table `[vocab, hidden]`.
    fn bind_table(&self, py: Python<'_>, weight: Place) -> PyResult<usize> {
        py.detach(|| {
            // SAFETY: the Python side holds the checkpoint's map during the call.
            let tensor = unsafe { Tensor::new(&weight) }?;
            let (rows, dim) = tensor.matrix()?;
            let bytes = Arc::new(tensor.bytes.to_vec());
            let table = EmbeddingTable::new(bytes, 0, rows, dim, tensor.dtype)
                .map_err(|error| errors::raise("CheckpointError", error))?;
            self.with(|recording| {
                recording.tables.push(Some(table));
                Ok(recording.tables.len() - 1)
            })
        })
    }

    /// Lets later buffers use this one's memory. Nothing happens once the tape is finished.
    fn release(&self, buffer: usize) -> PyResult<()> {
        let mut recording = self.recording.lock();
        let Some(recording) = recording.as_mut() else {
            return Ok(());
        };
        let id = recording.buffer(buffer)?;
        recording.builder.release(id).map_err(tape_error)
    }

    /// The rows of the step's token ids. A table is embedded once.
    fn embed(&self, table: usize) -> PyResult<usize> {
        self.with(|recording| {
            let table = recording
                .tables
                .get_mut(table)
                .and_then(Option::take)
                .ok_or_else(|| unknown("table", table))?;
            let out = recording.builder.embed(table);
            recording.keep(out)
        })
    }

    /// The norm of `x`.
    fn rms_norm(&self, x: usize, weight: usize, eps: f32) -> PyResult<usize> {
        self.with(|recording| {
            let (x, weight) = (recording.buffer(x)?, recording.vector(weight)?);
            let out = recording.builder.rms_norm(x, weight, eps);
            recording.keep(out)
        })
    }

    /// Adds `x` to `residual`, and gives the norm of the sum.
    fn add_rms_norm(&self, residual: usize, x: usize, weight: usize, eps: f32) -> PyResult<usize> {
        self.with(|recording| {
            let (residual, x) = (recording.buffer(residual)?, recording.buffer(x)?);
            let weight = recording.vector(weight)?;
            let out = recording.builder.add_rms_norm(residual, x, weight, eps);
            recording.keep(out)
        })
    }

    /// `x @ weightᵀ + bias`.
    fn linear(&self, x: usize, linear: usize) -> PyResult<usize> {
        self.with(|recording| {
            let weight = recording
                .linears
                .get(linear)
                .cloned()
                .ok_or_else(|| unknown("linear", linear))?;
            let x = recording.buffer(x)?;
            recording.places[linear] = Some(recording.builder.linears());
            let out = recording.builder.linear(x, weight);
            recording.keep(out)
        })
    }

    /// Head norms, rotary embedding, cache write and paged causal attention of a layer.
    fn attention(
        &self,
        qkv: usize,
        layer: usize,
        q_norm: Option<usize>,
        k_norm: Option<usize>,
        eps: f32,
    ) -> PyResult<usize> {
        let &(heads, kv_heads, head_dim, scale, window) =
            self.attention.get(layer).ok_or_else(|| unknown("layer", layer))?;
        let config = AttentionConfig {
            heads,
            kv_heads,
            head_dim,
            scale,
            window,
            norm_eps: eps,
        };
        self.with(|recording| {
            let qkv = recording.buffer(qkv)?;
            let q_norm = q_norm.map(|vector| recording.vector(vector)).transpose()?;
            let k_norm = k_norm.map(|vector| recording.vector(vector)).transpose()?;
            let out = recording.builder.attention(qkv, layer, config, q_norm, k_norm);
            recording.keep(out)
        })
    }

    /// `silu(gate) * up` of `[gate | up]`.
    fn swiglu(&self, gate_up: usize) -> PyResult<usize> {
        self.with(|recording| {
            let x = recording.buffer(gate_up)?;
            let out = recording.builder.swiglu(x);
            recording.keep(out)
        })
    }

    /// The rows whose next token is wanted.
    fn sample_rows(&self, x: usize) -> PyResult<usize> {
        self.with(|recording| {
            let x = recording.buffer(x)?;
            let out = recording.builder.sample_rows(x);
            recording.keep(out)
        })
    }

    /// Ends the recording with the buffer that holds the logits.
    fn finish(&self, logits: usize) -> PyResult<Tape> {
        let mut guard = self.recording.lock();
        let recording = guard
            .take()
            .ok_or_else(|| errors::raise("BackendError", "this tape is finished"))?;
        let logits = recording.buffer(logits)?;
        let tape = recording.builder.finish(logits).map_err(tape_error)?;
        Ok(Tape {
            tape: Mutex::new(Some(tape)),
            pool: self.pool.clone(),
            isa: self.isa,
            attention: self.attention.clone(),
            places: recording.places,
        })
    }
}

/// A recorded forward pass with its weights; an executor takes it.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct Tape {
    tape: Mutex<Option<agentlm_cpu::tape::Tape>>,
    pool: Arc<Pool>,
    isa: Isa,
    attention: Vec<Attention>,
    places: Vec<Option<usize>>,
}

impl Tape {
    fn cache_config(&self, num_blocks: usize, dtype: &str) -> PyResult<KvCacheConfig> {
        let dtype = dtype
            .parse()
            .map_err(|error| errors::raise("ConfigError", error))?;
        let &(_, kv_heads, head_dim, ..) = self
            .attention
            .first()
            .ok_or_else(|| errors::raise("ConfigError", "the model has no layer"))?;
        Ok(KvCacheConfig {
            layers: self.attention.len(),
            num_blocks,
            kv_heads,
            head_dim,
            dtype,
        })
    }
}

#[pymethods]
impl Tape {
    /// Bytes of keys and values that one block takes, all layers together.
    fn bytes_per_block(&self, kv_dtype: &str) -> PyResult<usize> {
        Ok(self.cache_config(1, kv_dtype)?.bytes_per_block())
    }
}

/// A step's masks, as the executor asks for them.
struct StepMasks<'a>(&'a MaskSlot);

impl Masks for StepMasks<'_> {
    fn of_sample(&self, index: usize) -> &[u32] {
        self.0.of_sample(index)
    }
}

/// Runs planned steps on the CPU.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct CpuExecutor {
    engine: Py<Engine>,
    executor: Mutex<Executor>,
    /// Each bound linear's place on the tape.
    places: Vec<Option<usize>>,
}

#[pymethods]
impl CpuExecutor {
    /// Takes the tape. `cos` and `sin` are `[positions, rotary / 2]`; their memory must stay valid during the call.
    #[new]
    #[pyo3(signature = (engine, tape, *, num_blocks, kv_dtype, max_step_tokens, vocab_size, cos, sin,
                        watermark_gamma = 0.5, watermark_delta = 2.0))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments")]
    fn new(
        engine: Py<Engine>,
        tape: &Tape,
        num_blocks: usize,
        kv_dtype: &str,
        max_step_tokens: usize,
        vocab_size: usize,
        cos: Place,
        sin: Place,
        watermark_gamma: f32,
        watermark_delta: f32,
    ) -> PyResult<Self> {
        let backend_error = |error: &dyn std::fmt::Display| errors::raise("BackendError", error);
        let cache = KvCache::new(tape.cache_config(num_blocks, kv_dtype)?)
            .map_err(|error| errors::raise("OutOfMemoryError", error))?;
        let recorded = tape
            .tape
            .lock()
            .take()
            .ok_or_else(|| backend_error(&"this tape is in use"))?;
        // SAFETY: the Python side holds both arrays during the call.
        let (cos, sin) = unsafe { (Tensor::new(&cos)?, Tensor::new(&sin)?) };
        let (_, half) = cos.matrix()?;
        let rope =
            RopeTables::new(cos.values()?, sin.values()?, 2 * half).map_err(|error| backend_error(&error))?;
        let core = engine.get().handle().core_config();
        let config = ExecutorConfig {
            isa: tape.isa,
            rope: Some(rope),
            arena: core.arena_layout(),
            results: core.results_layout(),
            max_tokens: max_step_tokens,
            sampler: SamplerConfig {
                eos_ids: core.eos_token_ids.clone(),
                vocab: vocab_size,
                watermark_gamma,
                watermark_delta,
            },
        };
        let executor = Executor::new(recorded, tape.pool.clone(), cache, config)
            .map_err(|error| backend_error(&error))?;
        Ok(Self {
            engine,
            executor: Mutex::new(executor),
            places: tape.places.clone(),
        })
    }

    /// Computes the step planned in `slot`, with the GIL released.
    fn run(&self, py: Python<'_>, slot: usize) -> PyResult<()> {
        let engine = self.engine.get();
        py.detach(|| {
            let mut executor = self.executor.lock();
            engine
                .with_slot(slot, |arena, results, masks| {
                    executor.step(arena, results, &StepMasks(masks))
                })?
                .map_err(|error| errors::raise("EngineFailedError", error))
        })
    }

    /// Puts an adapter at `number`: of each matrix pair the bound linear, A `[rank, k]`, B `[n, rank]`, the scale and the first
    /// output. The memory behind the places must stay mapped during the call.
    fn load_adapter(
        &self,
        py: Python<'_>,
        number: u32,
        parts: Vec<(usize, Place, Place, f32, usize)>,
    ) -> PyResult<()> {
        let unfit = |error: AdapterError| errors::raise("AdapterError", error);
        py.detach(|| {
            let mut adapter = Adapter::default();
            for (linear, a, b, scale, offset) in &parts {
                let place = self.places.get(*linear).copied().flatten();
                let place = place.ok_or_else(|| unknown("linear", *linear))?;
                // SAFETY: the Python side holds the adapter's map during the call.
                let (a, b) = unsafe { (Tensor::new(a)?, Tensor::new(b)?) };
                let (rank, _) = a.matrix()?;
                let low_rank =
                    LowRank::new(a.values()?, &b.values()?, rank, *scale, *offset).map_err(unfit)?;
                adapter.add(place, low_rank);
            }
            let mut executor = self.executor.lock();
            executor
                .set_adapter(number, Some(Arc::new(adapter)))
                .map_err(unfit)
        })
    }

    /// Takes the adapter at `number` away.
    fn unload_adapter(&self, number: u32) -> PyResult<()> {
        let mut executor = self.executor.lock();
        executor
            .set_adapter(number, None)
            .map_err(|error| errors::raise("AdapterError", error))
    }

    /// The logits of the last step, `[samples + scores, vocab]`, flat; for tests and diagnosis.
    fn logits(&self) -> Vec<f32> {
        self.executor.lock().logits().to_vec()
    }
}
