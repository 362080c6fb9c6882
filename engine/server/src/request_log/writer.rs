//! The thread that writes the log. Whoever has a line hands it over and never waits: when the thread is behind, as it is before
//! a pipe that nobody reads, or cannot write, as on a full disk, lines are lost and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::BytesMut;

use super::line::Line;
use crate::config::{LogConfig, LogLevel};

/// Lines that may wait for the thread.
const WAITING: usize = 4096;
/// A buffer that a long line has left is not kept.
const KEPT: usize = 64 * 1024;

enum Message {
    Line(Box<Line>),
    /// Everything before it is written.
    Flush(SyncSender<()>),
}

/// The way to the thread, which lives as long as this.
pub(crate) struct Log {
    config: LogConfig,
    /// None if nothing is logged.
    lines: Option<SyncSender<Message>>,
    dropped: Arc<AtomicU64>,
}

impl Log {
    /// A log on standard error.
    ///
    /// # Errors
    /// The system gave no thread.
    pub(crate) fn start(config: LogConfig) -> io::Result<Self> {
        Self::on(config, io::stderr())
    }

    fn on(config: LogConfig, out: impl Write + Send + 'static) -> io::Result<Self> {
        let dropped = Arc::new(AtomicU64::new(0));
        let mut lines = None;
        if config.level != LogLevel::Off {
            let (sender, messages) = sync_channel(WAITING);
            let lost = dropped.clone();
            std::thread::Builder::new()
                .name("agentlm-log".into())
                .spawn(move || run(&messages, config.json, out, &lost))?;
            lines = Some(sender);
        }
        Ok(Self {
            config,
            lines,
            dropped,
        })
    }

    /// Whether lines of this level are written.
    pub(crate) fn wants(&self, level: LogLevel) -> bool {
        level <= self.config.level
    }

    /// Whether lines hold the requests' bodies.
    pub(crate) fn shows_prompts(&self) -> bool {
        self.config.prompts && self.lines.is_some()
    }

    /// Lines that were lost.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn write(&self, line: Line) {
        if let Some(lines) = &self.lines
            && lines.try_send(Message::Line(Box::new(line))).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the lines so far are written, or for `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        let Some(lines) = &self.lines else { return };
        let (done, written) = sync_channel(1);
        if lines.try_send(Message::Flush(done)).is_ok() {
            // A thread that hangs in a write is left behind.
            let _ = written.recv_timeout(patience);
        }
    }
}

fn run(messages: &Receiver<Message>, json: bool, mut out: impl Write, dropped: &AtomicU64) {
    let mut text = BytesMut::new();
    while let Ok(message) = messages.recv() {
        match message {
            Message::Line(line) => {
                text.clear();
                line.write(json, &mut text);
                if out.write_all(&text).and_then(|()| out.flush()).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
                if text.capacity() > KEPT {
                    text = BytesMut::new();
                }
            }
            Message::Flush(done) => {
                // Whoever asked may have gone.
                let _ = done.try_send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use parking_lot::Mutex;

    use super::super::line::tests::answered;
    use super::*;

    const CONFIG: LogConfig = LogConfig {
        level: LogLevel::Info,
        json: false,
        prompts: false,
    };
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A file whose disk may be full.
    #[derive(Clone, Default)]
    struct Disk {
        text: Arc<Mutex<Vec<u8>>>,
        full: Arc<Mutex<bool>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if *self.full.lock() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.text.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_the_log_goes_on() {
        let disk = Disk::default();
        let log = Log::on(CONFIG, disk.clone()).unwrap();
        log.write(answered());
        log.flush(PATIENCE);
        *disk.full.lock() = true;
        log.write(answered());
        log.flush(PATIENCE);
        assert_eq!(log.dropped(), 1);
        *disk.full.lock() = false;
        log.write(answered());
        log.flush(PATIENCE);
        assert_eq!(log.dropped(), 1);
        let text = String::from_utf8(disk.text.lock().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_writer_that_hangs_holds_nobody_up() {
        let disk = Disk::default();
        let log = Log::on(CONFIG, disk.clone()).unwrap();
        let hangs = disk.full.lock();
        let begun = Instant::now();
        // One line is in the thread's hands, or still in the queue.
        for _ in 0..WAITING + 10 {
            log.write(answered());
        }
        assert!((9..=10).contains(&log.dropped()), "{}", log.dropped());
        log.flush(Duration::from_millis(10));
        assert!(begun.elapsed() < PATIENCE);
        drop(hangs);
        while disk.text.lock().is_empty() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn levels_choose_and_off_has_no_thread() {
        let disk = Disk::default();
        let log = Log::on(CONFIG, disk.clone()).unwrap();
        assert!(log.wants(LogLevel::Error) && log.wants(LogLevel::Info) && !log.wants(LogLevel::Debug));
        let off = LogConfig {
            level: LogLevel::Off,
            prompts: true,
            ..CONFIG
        };
        let log = Log::on(off, disk).unwrap();
        assert!(!log.wants(LogLevel::Error) && !log.shows_prompts() && log.lines.is_none());
        log.write(answered());
        assert_eq!(log.dropped(), 0);
    }
}
