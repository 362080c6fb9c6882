//! The contamination scan as Python sees it.
//!
//! Errors are `ValueError` here: `agentlm.tuning.contamination` gives them their class.

use std::path::PathBuf;
use std::sync::Arc;

use agentlm_contamination::{Encode, Form, Scan, Settings, Source, Token, TokenKind};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::tokenizer::Tokenizer;

/// An evaluation set and what was found of it in training files.
#[pyclass(frozen, module = "agentlm._engine")]
pub struct ContaminationScan {
    scan: Mutex<Scan>,
}

#[pymethods]
impl ContaminationScan {
    /// Indexes samples, each a list of texts; by a checkpoint's tokens where one is given.
    #[new]
    #[pyo3(signature = (samples, *, ngram, skip_budget, tokens="words", tokenizer=None))]
    fn new(
        py: Python<'_>,
        samples: Vec<Vec<String>>,
        ngram: usize,
        skip_budget: usize,
        tokens: &str,
        tokenizer: Option<&Tokenizer>,
    ) -> PyResult<Self> {
        let settings = Settings { ngram, skip_budget };
        let kind = match tokens {
            "words" => TokenKind::Words,
            "whitespace" => TokenKind::Whitespace,
            other => {
                let why = format!("tokens is {other:?}; it must be \"words\" or \"whitespace\"");
                return Err(PyValueError::new_err(why));
            }
        };
        let model = tokenizer.map(|tokenizer| Box::new(Model(tokenizer.inner.clone())) as Box<dyn Encode>);
        let scan = py
            .detach(|| match model {
                Some(model) => Scan::of_model(samples, model, settings),
                None => Scan::of_words(samples, kind, settings),
            })
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self {
            scan: Mutex::new(scan),
        })
    }

    /// Tokens of the evaluation set.
    #[getter]
    fn evaluation_tokens(&self, py: Python<'_>) -> usize {
        py.detach(|| self.scan.lock().evaluation_tokens())
    }

    /// Leaves tokens out of the count that more than a share of their set's samples hold; `sets` has each sample's set.
    fn ignore_shared(&self, py: Python<'_>, sets: Vec<u32>, share: f64) -> PyResult<()> {
        py.detach(|| self.scan.lock().ignore_shared(&sets, share))
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }

    /// Scans training files; bytes, records and tokens that were read. `progress` hears of bytes about ten times a second;
    /// a signal, such as Ctrl-C, ends the scan.
    #[pyo3(signature = (sources, *, fields, threads, progress=None))]
    fn read(
        &self,
        py: Python<'_>,
        sources: Vec<(PathBuf, String)>,
        fields: Vec<String>,
        threads: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(u64, u64, u64)> {
        if threads == 0 {
            return Err(PyValueError::new_err("threads is 0; it must be at least 1"));
        }
        let sources = sources.into_iter().map(source).collect::<PyResult<Vec<_>>>()?;
        let mut interrupted = None;
        let read = py.detach(|| {
            self.scan.lock().read(sources, fields, threads, &mut |at| {
                let heard = Python::attach(|py| {
                    py.check_signals()?;
                    match &progress {
                        Some(progress) => progress.call1(py, (at.bytes,)).map(|_| ()),
                        None => Ok(()),
                    }
                });
                interrupted = heard.err();
                interrupted.is_none()
            })
        });
        match (interrupted, read) {
            (Some(error), _) => Err(error),
            (None, Ok(read)) => Ok((read.bytes, read.records, read.tokens)),
            (None, Err(error)) => Err(PyValueError::new_err(error.to_string())),
        }
    }

    /// What was found of each sample, as JSON, with at most `overlaps` overlaps of each.
    fn report(&self, py: Python<'_>, overlaps: usize) -> PyResult<String> {
        py.detach(|| {
            let report = self
                .scan
                .lock()
                .report(overlaps)
                .map_err(|error| error.to_string())?;
            serde_json::to_string(&report).map_err(|error| error.to_string())
        })
        .map_err(PyValueError::new_err)
    }
}

fn source((path, form): (PathBuf, String)) -> PyResult<Source> {
    let form = match form.as_str() {
        "jsonl" => Form::JsonLines,
        "text" => Form::Text,
        other => {
            let why = format!("a form is {other:?}; it must be \"jsonl\" or \"text\"");
            return Err(PyValueError::new_err(why));
        }
    };
    Ok(Source { path, form })
}

/// A checkpoint's tokenizer as the scan takes it.
struct Model(Arc<agentlm_text::Tokenizer>);

impl Encode for Model {
    fn encode(&self, text: &str, tokens: &mut Vec<Token>) -> Result<(), String> {
        let encoding = self.0.encode(text, false).map_err(|error| error.to_string())?;
        tokens.reserve(encoding.ids.len());
        for (&id, &(start, end)) in encoding.ids.iter().zip(&encoding.offsets) {
            // A token may be a part of a character: what is shown of it is the whole.
            let floor = |mut at: usize| {
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let ceiling = |mut at: usize| {
                while !text.is_char_boundary(at) {
                    at += 1;
                }
                at
            };
            tokens.push(Token {
                id,
                start: floor(start) as u32,
                end: ceiling(end) as u32,
            });
        }
        Ok(())
    }
}
