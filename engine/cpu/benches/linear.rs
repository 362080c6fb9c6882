//! Linear layers against what the machine can do: measured read bandwidth and multiply-add peak.
//!
//! `cargo bench -p agentlm-cpu --bench linear -- [--isa avx2] [--threads 2] [--dtype f16,f32] [--m 1,16] [--shape 2048x2560]
//! [--repeat 40] [--clock cpu] [--work 1000000000]`. Weights are rotated so that none is in a cache when its turn comes. Times are the best of the
//! repetitions, and so are the limits; repetitions are a few milliseconds long, so that on a shared machine some of them
//! run undisturbed. The last line says what share of the repetitions was within 10 % of the best: how quiet it was.
//!
//! The clock moves with load and heat, and a best limit may be one that the machine holds for a millisecond only. So each
//! repetition runs between two measurements of the limits; "beside" is the median of its share of their mean.

use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use agentlm_cpu::dtype::Dtype;
use agentlm_cpu::isa::Isa;
use agentlm_cpu::linear::{Rows, RowsMut, Scratch, linear};
use agentlm_cpu::memory::row_stride;
use agentlm_cpu::pool::Pool;
use agentlm_cpu::weight::{PackedWeight, Source};

/// Bytes of the buffer whose reading gives the bandwidth.
const READ_BYTES: usize = 2 << 30;
/// Bytes of weights in rotation: several times the largest last-level cache a machine of two to eight cores shares.
const ROTATION_BYTES: usize = 512 << 20;

struct Options {
    isas: Vec<Isa>,
    threads: usize,
    dtypes: Vec<Dtype>,
    rows: Vec<usize>,
    /// (k, n)
    shapes: Vec<(usize, usize)>,
    repeat: usize,
    /// Flop of a repetition; weights that are read count 15 flop a value.
    work: f64,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self {
            isas: vec![Isa::detect()],
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            dtypes: vec![Dtype::F16, Dtype::F32],
            rows: vec![1, 4, 8, 16, 64, 512, 2048],
            shapes: vec![
                (2048, 2560),
                (2048, 2048),
                (2048, 11264),
                (5632, 2048),
                (2048, 32000),
            ],
            repeat: 40,
            work: 1e9,
        };
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(format!("{name} needs a value"))?;
            match name.as_str() {
                "--isa" => options.isas = list(&value, |v| v.parse().map_err(|e| format!("{e}")))?,
                "--threads" => options.threads = number(&value)?,
                "--dtype" => options.dtypes = list(&value, |v| v.parse().map_err(|e| format!("{e}")))?,
                "--m" => options.rows = list(&value, number)?,
                "--repeat" => options.repeat = number(&value)?,
                "--work" => options.work = number(&value)? as f64,
                "--clock" => CPU_CLOCK.store(value == "cpu", Ordering::Relaxed),
                "--shape" => {
                    options.shapes = list(&value, |v| {
                        let (k, n) = v.split_once('x').ok_or(format!("{v} is not KxN"))?;
                        Ok((number(k)?, number(n)?))
                    })?;
                }
                _ => return Err(format!("{name} is unknown; see the head of this file")),
            }
        }
        Ok(options)
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn list<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(parse).collect()
}

/// Best bandwidth of some passes over windows of a large buffer, in bytes a second.
fn read_bandwidth(pool: &Pool, buffer: &[u64], passes: usize) -> f64 {
    let (piece, window) = (1 << 15, 1 << 23);
    let mut turn = 0;
    let best = best_seconds(passes, || {
        turn += 1;
        let part = &buffer[turn * window % buffer.len()..][..window];
        let _ = pool.run(&|worker| {
            worker.parallel_for(window / piece, |i| {
                black_box(read_all(&part[i * piece..(i + 1) * piece]));
            });
        });
    });
    (window * 8) as f64 / best
}

fn read_all(values: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512.is_available() {
        // SAFETY: checked just before.
        return unsafe { x86::read_avx512(values) };
    } else if Isa::Avx2.is_available() {
        // SAFETY: checked just before.
        return unsafe { x86::read_avx2(values) };
    }
    values.iter().fold(0, |sum, v| sum ^ v)
}

/// Multiply-adds in registers, in flop a second over all workers; `None` where the loop would not be honest.
fn multiply_add_peak(pool: &Pool, isa: Isa, passes: usize) -> Option<f64> {
    let rounds = 100_000;
    #[cfg(target_arch = "x86_64")]
    let kernel: (unsafe fn(usize) -> f32, f64) = match isa {
        Isa::Portable | Isa::Neon => return None,
        Isa::Avx2 => (x86::peak_avx2, 12.0 * 8.0 * 2.0),
        Isa::Avx512 | Isa::Amx => (x86::peak_avx512, 24.0 * 16.0 * 2.0),
    };
    #[cfg(target_arch = "x86_64")]
    {
        let best = best_seconds(passes, || {
            let _ = pool.run(&|_| {
                // SAFETY: the caller asks only for what this machine can run.
                black_box(unsafe { kernel.0(rounds) });
            });
        });
        Some(pool.count() as f64 * rounds as f64 * kernel.1 / best)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (pool, isa, passes, rounds);
        None
    }
}

fn best_seconds(passes: usize, mut f: impl FnMut()) -> f64 {
    let timed = |_| {
        let start = now();
        f();
        now() - start
    };
    (0..passes).map(timed).fold(f64::INFINITY, f64::min)
}

/// Seconds on the wall clock, or (`--clock cpu`, for one thread) those that this thread spent on a core.
fn now() -> f64 {
    #[cfg(unix)]
    if CPU_CLOCK.load(Ordering::Relaxed) {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: a valid out-pointer.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        return time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9;
    }
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

static START: OnceLock<Instant> = OnceLock::new();
static CPU_CLOCK: AtomicBool = AtomicBool::new(false);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub fn read_avx512(values: &[u64]) -> u64 {
        let mut sums = [_mm512_setzero_si512(); 4];
        for chunk in values.chunks_exact(32) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a chunk has 4 x 8 values.
                *sum =
                    unsafe { _mm512_xor_si512(*sum, _mm512_loadu_si512(chunk.as_ptr().add(8 * i).cast())) };
            }
        }
        let sum = sums
            .into_iter()
            .fold(_mm512_setzero_si512(), |a, b| _mm512_xor_si512(a, b));
        _mm512_reduce_or_epi64(sum) as u64
    }

    #[target_feature(enable = "avx2")]
    pub fn read_avx2(values: &[u64]) -> u64 {
        let mut sums = [_mm256_setzero_si256(); 4];
        for chunk in values.chunks_exact(16) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a chunk has 4 x 4 values.
                *sum =
                    unsafe { _mm256_xor_si256(*sum, _mm256_loadu_si256(chunk.as_ptr().add(4 * i).cast())) };
            }
        }
        let sum = sums
            .into_iter()
            .fold(_mm256_setzero_si256(), |a, b| _mm256_xor_si256(a, b));
        _mm256_extract_epi64::<0>(sum) as u64
    }

    #[target_feature(enable = "avx512f")]
    pub fn peak_avx512(rounds: usize) -> f32 {
        let (a, b) = (
            _mm512_set1_ps(std::hint::black_box(0.5)),
            _mm512_set1_ps(std::hint::black_box(1.0)),
        );
        let mut sums = [b; 24];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, *sum, b);
            }
        }
        _mm512_reduce_add_ps(sums.into_iter().fold(b, |x, y| _mm512_add_ps(x, y)))
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn peak_avx2(rounds: usize) -> f32 {
        let (a, b) = (
            _mm256_set1_ps(std::hint::black_box(0.5)),
            _mm256_set1_ps(std::hint::black_box(1.0)),
        );
        let mut sums = [b; 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(a, *sum, b);
            }
        }
        _mm256_cvtss_f32(sums.into_iter().fold(b, |x, y| _mm256_add_ps(x, y)))
    }
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::new(options.threads)?;
    let mut buffer = vec![0u64; READ_BYTES / 8];
    buffer.iter_mut().enumerate().for_each(|(i, v)| *v = i as u64);
    let mut bandwidth = read_bandwidth(&pool, &buffer, 60);
    let (mut undisturbed, mut repetitions) = (0, 0);
    println!("threads {}  read {:.1} GB/s", options.threads, bandwidth / 1e9);
    for &isa in &options.isas {
        let mut peak = multiply_add_peak(&pool, isa, 60);
        println!(
            "{isa}: multiply-add peak {:.1} GFLOP/s",
            peak.unwrap_or(f64::NAN) / 1e9
        );
        println!("isa dtype     k      n     m |       µs    GB/s  GFLOP/s | share of limit, beside");
        for &dtype in &options.dtypes {
            for &(k, n) in &options.shapes {
                let bytes = vec![0x11u8; n * k * dtype.size()];
                let copies = (ROTATION_BYTES / bytes.len()).max(2);
                let source = [Source {
                    bytes: &bytes,
                    dtype,
                    n,
                }];
                let weights = (0..copies)
                    .map(|_| PackedWeight::pack(&pool, &source, k, dtype, None))
                    .collect::<Result<Vec<_>, _>>()?;
                drop(bytes);
                let mut turn = 0;
                for &m in &options.rows {
                    let stride = row_stride(k);
                    let x = vec![0.5f32; m * stride];
                    let mut out = vec![0f32; m * n];
                    let scratch = Scratch::new(options.threads, k)?;
                    let x = Rows::new(&x, m, k, stride)?;
                    let out = RowsMut::new(&mut out, m, n, n)?;
                    // Some milliseconds a repetition, in one region as a step is one.
                    let flops = 2.0 * (m * n * k) as f64;
                    let calls = ((options.work / flops.max(15.0 * (n * k) as f64)) as usize).clamp(1, 200);
                    // The clock and the neighbours vary: the limits are measured beside each figure.
                    if let Some(peak) = &mut peak {
                        *peak = peak.max(multiply_add_peak(&pool, isa, 10).unwrap_or(0.0));
                    }
                    bandwidth = bandwidth.max(read_bandwidth(&pool, &buffer, 10));
                    let stored = (n * k * dtype.size()) as f64;
                    let limits_now = || {
                        let peak = multiply_add_peak(&pool, isa, 1);
                        (stored / read_bandwidth(&pool, &buffer, 1))
                            .max(peak.map_or(0.0, |peak| flops / peak))
                    };
                    let mut before = limits_now();
                    let mut shares = Vec::new();
                    let mut times = Vec::new();
                    for _ in 0..options.repeat {
                        let first = turn;
                        turn += calls;
                        let start = now();
                        let _ = pool.run(&|worker| {
                            for call in first..first + calls {
                                // SAFETY: one region, the same arguments on all workers, `out` and `scratch` are ours.
                                let outcome = unsafe {
                                    linear(worker, isa, x, &weights[call % copies], &out, &scratch)
                                };
                                black_box(outcome.is_ok());
                            }
                        });
                        let took = now() - start;
                        let after = limits_now();
                        shares.push(calls as f64 * (before + after) / 2.0 / took);
                        times.push(took);
                        before = after;
                    }
                    shares.sort_by(f64::total_cmp);
                    let best = times.iter().copied().fold(f64::INFINITY, f64::min);
                    repetitions += times.len();
                    undisturbed += times.iter().filter(|&&time| time < 1.1 * best).count();
                    let seconds = best / calls as f64;
                    let limit = (stored / bandwidth).max(peak.map_or(0.0, |peak| flops / peak));
                    println!(
                        "{isa} {:>4} {k:>6} {n:>6} {m:>5} | {:>9.1} {:>6.1} {:>8.1} | {:>5.1} %  {:>5.1} %",
                        dtype.name(),
                        seconds * 1e6,
                        stored / seconds / 1e9,
                        flops / seconds / 1e9,
                        100.0 * limit / seconds,
                        100.0 * shares[shares.len() / 2]
                    );
                }
            }
        }
    }
    println!("read {:.1} GB/s, best of all", bandwidth / 1e9);
    println!(
        "{:.0} % of the repetitions undisturbed",
        100.0 * undisturbed as f64 / repetitions as f64
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&Options::parse()?)
}
