//! What streaming costs: CPU time a token of this process, by thread, with the clients in a process of their own. Beside it
//! the floor: what a thread pays that does nothing but write as many bytes to as many sockets at the same pace.
//!
//! `cargo run --release -p agentlm-server --example stream_cost -- [connections] [tokens] [native|chat]`. Linux only.

mod mock_server;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, ExitCode};
use std::time::Instant;

use mock_server::{Failure, Role, STEP};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Steps of the floor.
const FLOOR_STEPS: u32 = 300;
/// About what a streamed token takes.
const FRAME_BYTES: usize = 128;

fn main() -> ExitCode {
    mock_server::run(measure, &[("--clients", clients as Role), ("--readers", readers)])
}

fn measure(arguments: &[String]) -> Result<(), Failure> {
    let connections: u32 = arguments.first().map_or(Ok(256), |text| text.parse())?;
    let tokens: u32 = arguments.get(1).map_or(Ok(500), |text| text.parse())?;
    let route = arguments.get(2).map_or("native", String::as_str);
    let (_engine, server) = mock_server::start(connections)?;
    let before = thread_times()?;
    let began = Instant::now();
    let status = Command::new(std::env::current_exe()?)
        .args(["--clients", &server.local_addr().to_string()])
        .args([connections.to_string(), tokens.to_string(), route.to_owned()])
        .status()?;
    let (wall, after) = (began.elapsed(), thread_times()?);
    if !status.success() {
        return Err("the clients failed".into());
    }
    let streamed = f64::from(connections) * f64::from(tokens);
    println!(
        "{connections} connections, {tokens} tokens each, {route}, {:.1} s",
        wall.as_secs_f64()
    );
    let mut total = 0.0;
    for (name, nanos) in &after {
        let spent = (nanos - before.get(name).unwrap_or(&0)) as f64 / 1000.0;
        total += spent;
        println!("{:>8.2} µs a token  {name}", spent / streamed);
    }
    println!("{:>8.2} µs a token  in all", total / streamed);
    println!("{:>8.2} µs a write  the floor", floor(connections)?);
    Ok(())
}

/// Microseconds of a thread that writes a frame to every socket at each step.
fn floor(connections: u32) -> Result<f64, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut readers = Command::new(std::env::current_exe()?)
        .args([
            "--readers",
            &listener.local_addr()?.to_string(),
            &connections.to_string(),
        ])
        .spawn()?;
    let mut sockets = Vec::new();
    for _ in 0..connections {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    let writer = std::thread::Builder::new()
        .name("floor".to_owned())
        .spawn(move || {
            let spent = |when: &str| {
                thread_times()
                    .map(|times| times.get("floor").copied().unwrap_or(0))
                    .map_err(|e| format!("{when}: {e}"))
            };
            let before = spent("before")?;
            for _ in 0..FLOOR_STEPS {
                let due = Instant::now() + STEP;
                for socket in &mut sockets {
                    socket
                        .write_all(&[b'x'; FRAME_BYTES])
                        .map_err(|error| error.to_string())?;
                }
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            Ok::<_, String>(spent("after")? - before)
        })?;
    let spent = writer.join().map_err(|_| "the writer panicked")??;
    readers.wait()?;
    Ok(spent as f64 / 1000.0 / f64::from(FLOOR_STEPS * connections))
}

/// The other side of the floor: one thread reads all sockets to their ends.
fn readers(arguments: &[String]) -> Result<(), Failure> {
    let [address, connections] = arguments else {
        return Err("wrong arguments".into());
    };
    let (address, connections): (SocketAddr, u32) = (address.parse()?, connections.parse()?);
    read_all((0..connections).map(|_| stream(address, String::new())), 0)
}

/// CPU nanoseconds of this process's threads, by thread name.
fn thread_times() -> Result<BTreeMap<String, u64>, Failure> {
    let mut times = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        let name = std::fs::read_to_string(task.join("comm"))?.trim().to_owned();
        let spent = std::fs::read_to_string(task.join("schedstat"))?;
        let spent: u64 = spent.split(' ').next().unwrap_or("0").parse()?;
        *times.entry(name).or_default() += spent;
    }
    Ok(times)
}

/// The other process: one thread reads all streams to their ends.
fn clients(arguments: &[String]) -> Result<(), Failure> {
    let [address, connections, tokens, route] = arguments else {
        return Err("wrong arguments".into());
    };
    let address: SocketAddr = address.parse()?;
    let (path, body) = match route.as_str() {
        "chat" => (
            "/v1/chat/completions",
            format!(
                r#"{{"messages":[{{"role":"user","content":"abc"}}],"stream":true,"max_tokens":{tokens}}}"#
            ),
        ),
        _ => (
            "/generate_stream",
            format!(r#"{{"inputs":"abc","parameters":{{"max_new_tokens":{tokens}}}}}"#),
        ),
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let least = 20 * tokens.parse::<u64>()?;
    let connections: u32 = connections.parse()?;
    read_all((0..connections).map(|_| stream(address, head.clone())), least)
}

/// Runs all streams on one thread; each must have had `least` bytes.
fn read_all(
    streams: impl Iterator<Item = impl Future<Output = std::io::Result<u64>> + Send + 'static>,
    least: u64,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let streams: Vec<_> = streams.map(tokio::spawn).collect();
        for stream in streams {
            let read = stream.await??;
            if read < least {
                return Err(format!("a stream had only {read} bytes").into());
            }
        }
        Ok(())
    })
}

/// Reads one stream to its end; the bytes it had.
async fn stream(address: SocketAddr, head: String) -> std::io::Result<u64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(head.as_bytes()).await?;
    let (mut buffer, mut read) = ([0; 4096], 0);
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(read),
            n => read += n as u64,
        }
    }
}
