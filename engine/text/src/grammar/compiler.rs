//! From a grammar to the state of a text under it, by way of a cache.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use llguidance::{Matcher, ParserFactory};

use super::cache::Cache;
use super::{Grammar, GrammarError, GrammarState, source, vocabulary};
use crate::tokenizer::Tokenizer;

/// Grammars that are kept compiled.
const KEPT: usize = 64;
/// Stack of a compilation, of which only what is used takes memory. The library descends along chains of references and of
/// rules, as long as the longest text can hold: with 2 MB a request could end the process.
const STACK: usize = 256 << 20;

/// A grammar at its start, or what is wrong with it; nothing until somebody has compiled it.
type Compiled = Mutex<Option<Result<Matcher, GrammarError>>>;

/// Compiles grammars for one vocabulary and keeps those that were used last.
pub struct GrammarCompiler {
    tokenizer: Arc<Tokenizer>,
    eos: Arc<[u32]>,
    vocab_size: usize,
    /// Made with the first grammar: a trie of the vocabulary takes memory and time.
    parsers: OnceLock<Result<ParserFactory, GrammarError>>,
    cache: Mutex<Cache<Compiled>>,
}

impl GrammarCompiler {
    /// For a model whose logits have `vocab_size` ids, of which `eos_token_ids` end a text. Cheap: what a grammar needs is
    /// made when the first one comes.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, eos_token_ids: Vec<u32>, vocab_size: usize) -> Self {
        let mut eos = eos_token_ids;
        eos.retain(|&id| (id as usize) < vocab_size);
        Self {
            tokenizer,
            eos: eos.into(),
            vocab_size,
            parsers: OnceLock::new(),
            cache: Mutex::new(Cache::new(KEPT)),
        }
    }

    /// The state of a text that has not begun. May take long: compiles the grammar, or waits for somebody who does, unless
    /// it is kept.
    ///
    /// # Errors
    /// All of [`GrammarError`] but those about tokens and masks.
    pub fn start(&self, grammar: &Grammar) -> Result<GrammarState, GrammarError> {
        self.compiled(grammar, |matcher| {
            // The lexer's growing tables are copied too: a text that is too much for them ends alone.
            GrammarState::new(
                matcher.deep_clone(),
                self.eos.clone(),
                self.vocab_size.div_ceil(32),
            )
        })
    }

    /// Compiles the grammar, if it is not kept, and begins no text.
    ///
    /// # Errors
    /// As [`GrammarCompiler::start`].
    pub fn check(&self, grammar: &Grammar) -> Result<(), GrammarError> {
        self.compiled(grammar, |_| ())
    }

    fn compiled<T>(&self, grammar: &Grammar, use_it: impl FnOnce(&Matcher) -> T) -> Result<T, GrammarError> {
        let entry = lock(&self.cache).entry(source::key(grammar)?);
        let mut compiled = lock(&entry);
        let matcher = compiled.get_or_insert_with(|| self.compile(grammar));
        matcher.as_ref().map(use_it).map_err(Clone::clone)
    }

    fn compile(&self, grammar: &Grammar) -> Result<Matcher, GrammarError> {
        if self.eos.is_empty() {
            return Err(GrammarError::NoEnd);
        }
        on_deep_stack(|| {
            let parsers = self
                .parsers
                .get_or_init(|| vocabulary::parsers(&self.tokenizer, &self.eos, self.vocab_size))
                .as_ref()
                .map_err(Clone::clone)?;
            let parser = parsers
                .create_parser(source::top_level(grammar)?)
                .map_err(|error| GrammarError::said(&format!("{error:#}")))?;
            let mut matcher = Matcher::new(Ok(parser));
            // Finds out whether any token can begin, and warms what every text under the grammar begins with.
            matcher
                .compute_mask()
                .map_err(|error| GrammarError::said(&error.to_string()))?;
            Ok(matcher)
        })
    }
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarCompiler")
            .field("vocab_size", &self.vocab_size)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

/// What a panic left behind is whole: nothing is changed in steps under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` to its end on a thread of [`STACK`].
fn on_deep_stack<T: Send>(work: impl FnOnce() -> Result<T, GrammarError> + Send) -> Result<T, GrammarError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("agentlm-compile".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, work)
            .map_err(|error| GrammarError::Invalid(format!("no thread to compile it on: {error}")))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(GrammarError::Invalid("its compilation panicked".to_owned())))
    })
}
