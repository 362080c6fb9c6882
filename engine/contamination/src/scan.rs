//! Streams training files over the evaluation set: one thread reads, others compare, the caller's watches.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde_json::{Map, Value};

use crate::ScanError;
use crate::coverage::{self, SampleReport};
use crate::index::Index;
use crate::matcher::{Matcher, Origin, Overlaps, merge};
use crate::parts::{self, Part};
use crate::pieces::{self, Cut, Piece};
use crate::settings::{Form, Settings, Source, TokenKind};
use crate::words::{Encode, Token, Tokens, Vocabulary};

/// How often the caller hears how far the scan is.
const TICK: Duration = Duration::from_millis(100);

/// How far a scan is, or how far it got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the files.
    pub bytes: u64,
    /// JSON lines, or pieces of running text.
    pub records: u64,
    /// Tokens compared; what two pieces of running text have in common counts once.
    pub tokens: u64,
}

#[derive(Default)]
struct Counters {
    bytes: AtomicU64,
    records: AtomicU64,
    tokens: AtomicU64,
}

impl Counters {
    fn read(&self) -> Progress {
        Progress {
            bytes: self.bytes.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            tokens: self.tokens.load(Ordering::Relaxed),
        }
    }
}

/// An evaluation set and what was found of it.
pub struct Scan {
    pub(crate) samples: Vec<Vec<String>>,
    pub(crate) tokens: Tokens,
    pub(crate) index: Index,
    pub(crate) overlaps: Overlaps,
    pub(crate) sources: Vec<Source>,
    pub(crate) fields: Vec<String>,
    pub(crate) cut: Cut,
    /// Stretches of the evaluation set that do not count.
    pub(crate) shared: Vec<(u32, u32)>,
    settings: Settings,
}

impl Scan {
    /// Indexes an evaluation set whose samples are lists of texts, cut into words.
    pub fn of_words(
        samples: Vec<Vec<String>>,
        kind: TokenKind,
        settings: Settings,
    ) -> Result<Self, ScanError> {
        Self::new(samples, Tokens::Words(Vocabulary::new(kind)), settings)
    }

    /// Indexes an evaluation set by a checkpoint's tokens.
    pub fn of_model(
        samples: Vec<Vec<String>>,
        model: Box<dyn Encode>,
        settings: Settings,
    ) -> Result<Self, ScanError> {
        Self::new(samples, Tokens::Model(model), settings)
    }

    fn new(samples: Vec<Vec<String>>, mut tokens: Tokens, settings: Settings) -> Result<Self, ScanError> {
        let settings = settings.validate()?;
        let index = Index::new(&samples, &mut tokens, settings)?;
        let longest = samples.iter().flatten().map(String::len).max().unwrap_or(0);
        let cut = Cut::new(longest, matches!(tokens, Tokens::Model(_)));
        Ok(Self {
            samples,
            tokens,
            index,
            overlaps: Overlaps::default(),
            sources: Vec::new(),
            fields: Vec::new(),
            cut,
            shared: Vec::new(),
            settings,
        })
    }

    /// Tokens of the evaluation set.
    pub fn evaluation_tokens(&self) -> usize {
        let length = |text: &crate::index::Text| (text.end - text.first) as usize;
        self.index.texts.iter().map(length).sum()
    }

    /// Leaves tokens out of the count that lie in n-grams which more than `share` of their set's samples hold (a task's
    /// template, which any tuning data for the task holds too). `sets` names each sample's set by a number. Overlaps still run
    /// over them.
    pub fn ignore_shared(&mut self, sets: &[u32], share: f64) -> Result<(), ScanError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(ScanError::Share { share });
        }
        if sets.len() != self.samples.len() {
            return Err(ScanError::Sets {
                sets: sets.len(),
                samples: self.samples.len(),
            });
        }
        self.shared = self.index.shared(sets, share);
        Ok(())
    }

    /// Scans files, replacing what an earlier scan found. `fields` are where JSON lines hold their text; without any, it is
    /// in their messages or in `text` or `content`. `watch` is called about ten times a second, on the caller's thread; the
    /// scan stops once it returns false.
    pub fn read(
        &mut self,
        sources: Vec<Source>,
        fields: Vec<String>,
        threads: usize,
        watch: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Progress, ScanError> {
        self.overlaps = Overlaps::default();
        self.sources = sources;
        self.fields = fields;
        let (scan, counters, stop) = (&*self, Counters::default(), AtomicBool::new(false));
        let (send_piece, take_piece) = bounded::<Piece>(2 * threads);
        let (send_end, take_end) = bounded::<Result<Overlaps, ScanError>>(threads + 1);
        let overlaps = thread::scope(|scope| {
            let (stop, counters) = (&stop, &counters);
            let end = send_end.clone();
            scope.spawn(move || {
                let read = scan
                    .produce(&mut |piece| !stop.load(Ordering::Relaxed) && send_piece.send(piece).is_ok());
                let _ = end.send(read.map(|()| Overlaps::default()));
            });
            for _ in 0..threads {
                let (pieces, end) = (take_piece.clone(), send_end.clone());
                scope.spawn(move || {
                    let found = scan.consume(&pieces, stop, counters);
                    let _ = end.send(found);
                });
            }
            drop((take_piece, send_end));
            let watched = Self::watch(&take_end, counters, watch);
            stop.store(true, Ordering::Relaxed);
            watched
        })?;
        self.overlaps = overlaps;
        Ok(counters.read())
    }

    /// Waits for the reader and the workers; an error or the caller's wish ends the wait.
    fn watch(
        ends: &Receiver<Result<Overlaps, ScanError>>,
        counters: &Counters,
        watch: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Overlaps, ScanError> {
        let mut overlaps = Overlaps::default();
        loop {
            match ends.recv_timeout(TICK) {
                Ok(found) => merge(&mut overlaps, found?),
                Err(RecvTimeoutError::Timeout) => {}
                // All have ended. A thread that panicked makes the scope panic, so that nothing is missing here.
                Err(RecvTimeoutError::Disconnected) => {
                    watch(counters.read());
                    return Ok(overlaps);
                }
            }
            if !watch(counters.read()) {
                return Err(ScanError::Stopped);
            }
        }
    }

    fn produce(&self, each: &mut dyn FnMut(Piece) -> bool) -> Result<(), ScanError> {
        for (file, source) in self.sources.iter().enumerate() {
            if !pieces::read(file as u32, source, self.cut, each)? {
                break;
            }
        }
        Ok(())
    }

    fn consume(
        &self,
        pieces: &Receiver<Piece>,
        stop: &AtomicBool,
        counters: &Counters,
    ) -> Result<Overlaps, ScanError> {
        let mut worker = Worker {
            scan: self,
            matcher: Matcher::new(&self.index, self.settings),
            scratch: Vec::new(),
            tokens: Vec::new(),
            counters,
        };
        while let Ok(piece) = pieces.recv() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            match self.sources[piece.file as usize].form {
                Form::JsonLines => worker.lines(&piece, stop)?,
                Form::Text => worker.text(&piece)?,
            }
            counters.bytes.fetch_add(piece.own as u64, Ordering::Relaxed);
        }
        Ok(worker.matcher.overlaps)
    }

    /// What was found of each sample, with at most `overlaps` overlaps of each, the longest first. Reads the training files again
    /// where these stand.
    pub fn report(&self, overlaps: usize) -> Result<Vec<SampleReport>, ScanError> {
        coverage::report(self, overlaps)
    }
}

struct Worker<'a> {
    scan: &'a Scan,
    matcher: Matcher<'a>,
    scratch: Vec<u8>,
    tokens: Vec<Token>,
    counters: &'a Counters,
}

impl Worker<'_> {
    fn lines(&mut self, piece: &Piece, stop: &AtomicBool) -> Result<(), ScanError> {
        let scan = self.scan;
        let path = &scan.sources[piece.file as usize].path;
        let mut start = 0;
        let mut line = piece.line;
        while start < piece.own && !stop.load(Ordering::Relaxed) {
            let end = memchr::memchr(b'\n', &piece.data[start..piece.own]).map_or(piece.own, |at| start + at);
            let data = &piece.data[start..end];
            if let Some(record) = parse(data, path, line)? {
                let origin = Origin {
                    file: piece.file,
                    offset: piece.offset + start as u64,
                    part: 0,
                    window: 0,
                };
                for (part, found) in texts(&record, &scan.fields, path, line)?.into_iter().enumerate() {
                    for (window, range) in scan.cut.windows(&found.text).enumerate() {
                        let origin = Origin {
                            part: part as u32,
                            window: window as u32,
                            ..origin
                        };
                        let own = range.own - range.start;
                        self.compare(&found.text[range.start..range.end], own, origin, line)?;
                    }
                }
                self.counters.records.fetch_add(1, Ordering::Relaxed);
            }
            start = end + 1;
            line += 1;
        }
        Ok(())
    }

    fn text(&mut self, piece: &Piece) -> Result<(), ScanError> {
        let path = &self.scan.sources[piece.file as usize].path;
        // Only at the file's end is nothing read ahead: there, a character that is cut is an error.
        let whole = if piece.own == piece.data.len() {
            piece.data.len()
        } else {
            pieces::whole_characters(&piece.data)
        };
        let text = running_text(&piece.data[..whole], path, piece.line)?;
        let origin = Origin {
            file: piece.file,
            offset: piece.offset,
            part: 0,
            window: 0,
        };
        self.counters.records.fetch_add(1, Ordering::Relaxed);
        self.compare(text, piece.own, origin, piece.line)
    }

    fn compare(&mut self, text: &str, own: usize, origin: Origin, line: u64) -> Result<(), ScanError> {
        self.tokens.clear();
        self.scan
            .tokens
            .split(text, &mut self.scratch, &mut self.tokens)?;
        let own = self.tokens.partition_point(|token| (token.start as usize) < own);
        self.matcher.take(&self.tokens, own, origin, line);
        self.counters.tokens.fetch_add(own as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// A line's object; None of an empty line.
pub(crate) fn parse(data: &[u8], path: &Path, line: u64) -> Result<Option<Map<String, Value>>, ScanError> {
    let data = match data.strip_prefix(b"\xEF\xBB\xBF") {
        Some(rest) if line == 1 => rest,
        _ => data,
    };
    if data.trim_ascii().is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(data)
        .map(Some)
        .map_err(|error| ScanError::Json {
            path: path.to_owned(),
            line,
            reason: error.to_string(),
        })
}

/// The texts of a line's object.
pub(crate) fn texts<'a>(
    record: &'a Map<String, Value>,
    fields: &'a [String],
    path: &Path,
    line: u64,
) -> Result<Vec<Part<'a>>, ScanError> {
    parts::parts(record, fields).ok_or_else(|| {
        let quoted = |names: Vec<&str>| {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            names.join(", ")
        };
        let wanted = match fields {
            [] => parts::DEFAULT_FIELDS.to_vec(),
            _ => fields.iter().map(String::as_str).collect(),
        };
        ScanError::NoText {
            path: path.to_owned(),
            line,
            wanted: quoted(wanted),
            keys: quoted(record.keys().map(String::as_str).collect()),
        }
    })
}

/// A piece of running text, of which `line` is the first.
pub(crate) fn running_text<'a>(data: &'a [u8], path: &Path, line: u64) -> Result<&'a str, ScanError> {
    std::str::from_utf8(data).map_err(|error| {
        let before = &data[..error.valid_up_to()];
        ScanError::NotUtf8 {
            path: path.to_owned(),
            line: line + memchr::memchr_iter(b'\n', before).count() as u64,
        }
    })
}
