//! What a stream is on the wire: frames that pass hyper by and frames that do not are one stream of chunks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::client::{Reply, narrow, receive};
use crate::fixture::{Fixture, Setup};

const TOKENS: usize = 3000;

fn server(step_time: Duration) -> Fixture {
    Setup {
        step_time,
        max_total_tokens: 4000,
        says: (u32::from(b'a')..=u32::from(b'z')).collect(),
        ..Setup::default()
    }
    .start()
}

fn request(version: &str, tokens: usize) -> String {
    let body = format!(r#"{{"inputs":"hi","parameters":{{"max_new_tokens":{tokens},"top_n_tokens":5}}}}"#);
    format!(
        "POST /generate_stream {version}\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Every token once and in order, and an end whose text is theirs.
fn assert_complete(reply: &Reply, tokens: usize) {
    let events = reply.events();
    assert_eq!(events.len(), tokens);
    let mut text = String::new();
    for (i, event) in events.iter().enumerate() {
        let event: Value = serde_json::from_str(event).unwrap();
        assert_eq!(event["index"], i + 1);
        text.push_str(event["token"]["text"].as_str().unwrap());
        let last = i + 1 == tokens;
        assert_eq!(event["generated_text"].is_null(), !last);
        if last {
            assert_eq!(event["generated_text"], text);
        }
    }
}

#[test]
fn a_client_that_reads_slowly_gets_every_frame_once_and_in_order() {
    for step_time in [Duration::ZERO, Duration::from_micros(100)] {
        let server = server(step_time);
        let mut stream = narrow(server.address);
        stream
            .write_all(
                request("HTTP/1.1", TOKENS)
                    .replace("host", "connection: close\r\nhost")
                    .as_bytes(),
            )
            .unwrap();
        // Longer than all steps: what the socket does not take has to wait in the server.
        while server.engine.snapshot().unfinished > 0 || server.engine.snapshot().core.finished_length == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        assert_complete(&receive(stream), TOKENS);
        server.wait_idle();
    }
}

#[test]
fn streams_and_answers_follow_each_other_on_one_connection() {
    let server = server(Duration::from_micros(200));
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    for tokens in [1, 40, 2, 300] {
        writer.write_all(request("HTTP/1.1", tokens).as_bytes()).unwrap();
        assert_complete(&chunked(&mut reader), tokens);
        writer
            .write_all(b"GET /info HTTP/1.1\r\nhost: test\r\n\r\n")
            .unwrap();
        let info = sized(&mut reader);
        assert!(info.contains("test/model"), "{info}");
    }
}

#[test]
fn version_1_0_has_no_chunks() {
    let server = server(Duration::from_micros(200));
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request("HTTP/1.0", 50).as_bytes()).unwrap();
    let reply = receive(stream);
    assert_eq!(reply.header("transfer-encoding"), None);
    assert_complete(&reply, 50);
}

#[test]
fn a_head_waits_for_its_first_event_but_not_long() {
    for (step_time, together) in [(Duration::from_millis(10), true), (Duration::from_secs(1), false)] {
        let server = server(step_time);
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(request("HTTP/1.1", 2).as_bytes()).unwrap();
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        let first = std::str::from_utf8(&bytes[..count]).unwrap();
        assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
        assert_eq!(first.contains("data: "), together, "{first}");
    }
}

fn head(reader: &mut BufReader<TcpStream>) -> Vec<String> {
    let lines = reader.lines().map(|line| line.unwrap());
    lines.take_while(|line| !line.is_empty()).collect()
}

/// A chunked answer; the connection stays open.
fn chunked(reader: &mut BufReader<TcpStream>) -> Reply {
    let head = head(reader);
    assert!(head[0].contains("200"), "{head:?}");
    assert!(
        head.iter().any(|line| line == "transfer-encoding: chunked"),
        "{head:?}"
    );
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        assert!(size.ends_with("\r\n"), "{size:?}");
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).unwrap();
        assert_eq!(&chunk[size..], b"\r\n");
        if size == 0 {
            break;
        }
        body.extend_from_slice(&chunk[..size]);
    }
    Reply {
        status: 200,
        headers: Vec::new(),
        body: String::from_utf8(body).unwrap(),
    }
}

/// An answer of known length.
fn sized(reader: &mut BufReader<TcpStream>) -> String {
    let head = head(reader);
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}
