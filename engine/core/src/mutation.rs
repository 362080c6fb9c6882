//! Seeded mistakes of the scheduler, by which the test-suite proves that it can fail.
//!
//! Without the feature `mutations` nothing of this exists in the crate: `mutated!` is the literal `false`.

/// One mistake, switched on for a whole [`crate::Core`].
#[cfg(feature = "mutations")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Blocks freed while a step is in flight are reusable at once.
    SkipBlockLimbo,
    /// Rows freed while a step is in flight are reusable at once.
    SkipRowLimbo,
    /// An abort gives the request's first block back twice.
    FreeTwiceOnAbort,
    /// A block enters the prefix cache when it is planned, not when it is committed.
    CacheUncommitted,
    /// Tokens past a stop string stay in the prefix cache.
    CachePastStop,
    /// A grown block table is sent one cell too far.
    BlockStartOffByOne,
    /// The prefix hash does not know the cache seed.
    ForgetCacheSeed,
    /// The overlapped sample of an ended request is reported.
    KeepTokenAfterEos,
    /// A full prefix hit computes nothing.
    PrefixHitComputesNothing,
    /// Preemption keeps the count of computed tokens.
    PreemptKeepsComputed,
    /// The token budget of a step is ignored.
    IgnoreTokenBudget,
    /// A re-used row is not initialised.
    RowWithoutInit,
    /// The head of the queue is overtaken when it does not fit.
    OvertakeHead,
    /// End-of-sequence is checked before the length.
    EosBeforeLength,
    /// A prefill is cut anywhere.
    CutOffBorder,
    /// A prompt that is to be scored is taken from the prefix cache.
    ScoreFromCache,
}

#[cfg(feature = "mutations")]
impl Mutation {
    /// Every mistake.
    pub const ALL: [Self; 16] = [
        Self::SkipBlockLimbo,
        Self::SkipRowLimbo,
        Self::FreeTwiceOnAbort,
        Self::CacheUncommitted,
        Self::CachePastStop,
        Self::BlockStartOffByOne,
        Self::ForgetCacheSeed,
        Self::KeepTokenAfterEos,
        Self::PrefixHitComputesNothing,
        Self::PreemptKeepsComputed,
        Self::IgnoreTokenBudget,
        Self::RowWithoutInit,
        Self::OvertakeHead,
        Self::EosBeforeLength,
        Self::CutOffBorder,
        Self::ScoreFromCache,
    ];
}

#[cfg(feature = "mutations")]
macro_rules! mutated {
    ($owner:expr, $name:ident) => {
        $owner.mutation == Some($crate::mutation::Mutation::$name)
    };
}

#[cfg(not(feature = "mutations"))]
macro_rules! mutated {
    ($owner:expr, $name:ident) => {
        false
    };
}
