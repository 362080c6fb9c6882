//! How much later the first token comes over HTTP than through the in-process handle, while other streams run.
//!
//! `cargo run --release -p agentlm-server --example first_token -- [streams] [probes]`. The streams' clients are a process
//! of their own; the probes are sent one at a time, by turns through the handle and over a fresh connection, at moments
//! that have nothing to do with the mock's steps.

mod mock_server;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, ExitCode};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use agentlm_core::params::SamplingParams;
use agentlm_host::{AdapterRef, EngineHandle, Finished, RequestError, Sink, Submission, Token};
use mock_server::{Failure, Role, STEP};
use tokio::io::AsyncReadExt;

/// Tokens of a background stream; when it ends, its client opens the next.
const TOKENS: u32 = 2000;
/// Time for the streams to start.
const WARM_UP: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    mock_server::run(measure, &[("--streams", streams as Role)])
}

fn measure(arguments: &[String]) -> Result<(), Failure> {
    let background: u32 = arguments.first().map_or(Ok(128), |text| text.parse())?;
    let probes: u32 = arguments.get(1).map_or(Ok(1000), |text| text.parse())?;
    let (engine, server) = mock_server::start(background + 1)?;
    let address = server.local_addr();
    let mut clients = Command::new(std::env::current_exe()?)
        .args(["--streams", &address.to_string(), &background.to_string()])
        .spawn()?;
    let measured = probe(&engine, address, probes);
    clients.kill()?;
    clients.wait()?;
    let (mut handle, mut http) = measured?;
    println!("{background} streams, {probes} probes each way, steps of {STEP:?}");
    let (handle, http) = (percentiles(&mut handle), percentiles(&mut http));
    for (name, [half, most]) in [("handle", handle), ("HTTP", http)] {
        println!("{name:>7}: first token after {half:6.2} ms (median), {most:6.2} ms (99 %)");
    }
    println!(
        "HTTP is later by {:.2} ms (median), {:.2} ms (99 %)",
        http[0] - handle[0],
        http[1] - handle[1]
    );
    Ok(())
}

/// Milliseconds to the first token through the handle and over HTTP.
fn probe(engine: &EngineHandle, address: SocketAddr, probes: u32) -> Result<(Vec<f64>, Vec<f64>), Failure> {
    std::thread::sleep(WARM_UP);
    let (mut handle, mut http) = (Vec::new(), Vec::new());
    let mut state = 1u32;
    let mut pause = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(STEP * (state >> 8) / (1 << 23));
    };
    for _ in 0..probes {
        pause();
        handle.push(through_handle(engine)?);
        pause();
        http.push(over_http(address)?);
    }
    Ok((handle, http))
}

/// Says when the first token came.
struct First(Sender<Result<Instant, String>>);

impl Sink for First {
    fn token(&mut self, _token: &Token<'_>, _end: Option<&Finished>) {
        // The probe waits, or has failed.
        let _ = self.0.send(Ok(Instant::now()));
    }

    fn fail(&mut self, error: &RequestError) {
        // As above.
        let _ = self.0.send(Err(error.to_string()));
    }
}

fn through_handle(engine: &EngineHandle) -> Result<f64, Failure> {
    let (sender, first) = channel();
    let began = Instant::now();
    let _request = engine.submit(Submission {
        prompt: vec![0, 1, 2],
        params: SamplingParams {
            max_new_tokens: Some(1),
            ..SamplingParams::default()
        },
        keep_stop: false,
        adapter: AdapterRef::default(),
        grammar: None,
        sink: Box::new(First(sender)),
    })?;
    let came = first.recv()??;
    Ok((came - began).as_secs_f64() * 1e3)
}

fn over_http(address: SocketAddr) -> Result<f64, Failure> {
    let began = Instant::now();
    let mut stream = open(address, 1)?;
    let (mut buffer, mut seen) = ([0; 4096], Vec::new());
    let mut came = None;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => seen.extend_from_slice(&buffer[..n]),
        }
        if came.is_none() && seen.windows(5).any(|bytes| bytes == b"data:") {
            came = Some(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    came.ok_or_else(|| format!("no token came: {}", String::from_utf8_lossy(&seen)).into())
}

/// Sends a request and leaves the answer to be read.
fn open(address: SocketAddr, tokens: u32) -> std::io::Result<TcpStream> {
    let body = format!(r#"{{"inputs":"abc","parameters":{{"max_new_tokens":{tokens}}}}}"#);
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    write!(
        stream,
        "POST /generate_stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    Ok(stream)
}

/// The median and the 99th percentile.
fn percentiles(values: &mut [f64]) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [50, 99].map(|percent| values[(values.len() * percent / 100).min(values.len() - 1)])
}

/// The other process: reads streams, and opens each anew when it ends.
fn streams(arguments: &[String]) -> Result<(), Failure> {
    let [address, count] = arguments else {
        return Err("wrong arguments".into());
    };
    let (address, count): (SocketAddr, u32) = (address.parse()?, count.parse()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let readers: Vec<_> = (0..count).map(|_| tokio::spawn(read_for_ever(address))).collect();
        for reader in readers {
            reader.await??;
        }
        Ok(())
    })
}

async fn read_for_ever(address: SocketAddr) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let stream = open(address, TOKENS)?;
        stream.set_nonblocking(true)?;
        let mut stream = tokio::net::TcpStream::from_std(stream)?;
        while stream.read(&mut buffer).await? > 0 {}
    }
}
