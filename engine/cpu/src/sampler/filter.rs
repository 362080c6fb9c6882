//! Which tokens may be sampled: top-k, top-p, min-p and typical-p, in this order, each on what the one before left over.
//! No pass sorts the vocabulary. Refuses to know where logits come from.

use super::scan::{Candidate, collect, descending, exp_sum, select_top};
use crate::isa::Isa;
use crate::rows::SamplingRecord;

/// Whether any filter is on for a vocabulary of `vocab` ids.
pub(super) fn any(record: &SamplingRecord, vocab: usize) -> bool {
    top_k(record, vocab).is_some() || record.top_p < 1.0 || record.min_p > 0.0 || record.typical_p < 1.0
}

fn top_k(record: &SamplingRecord, vocab: usize) -> Option<usize> {
    let k = record.top_k as usize;
    (k > 0 && k < vocab).then_some(k)
}

fn mass_of(kept: &[Candidate]) -> f64 {
    kept.iter().map(mass).sum()
}

fn mass(candidate: &Candidate) -> f64 {
    f64::from(candidate.value).exp()
}

/// Fills `kept` with the tokens that the record's filters leave, in no order.
///
/// `zs` are scaled logits whose largest is 0. At least one token is kept.
///
/// # Safety
/// `isa` is available; `kept` has room for the whole row.
pub(super) unsafe fn keep(isa: Isa, zs: &[f32], record: &SamplingRecord, kept: &mut Vec<Candidate>) {
    // Of the distribution before top-p: also the tokens that are not collected because top-p drops them for certain.
    let total;
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(k) = top_k(record, zs.len()) {
            select_top(isa, zs, k, kept);
            total = mass_of(kept);
        } else if record.top_p < 1.0 {
            // All tokens below this hold less than 1 - p together, even if there were a whole vocabulary of them.
            let certain = ((1.0 - f64::from(record.top_p)) / zs.len() as f64).ln() as f32 - 1e-3;
            collect(isa, zs, certain.min(0.0), kept);
            total = exp_sum(isa, zs, 0.0);
        } else {
            let threshold = if record.min_p > 0.0 {
                record.min_p.ln().min(0.0)
            } else {
                f32::NEG_INFINITY
            };
            collect(isa, zs, threshold, kept);
            total = 0.0;
        }
    }
    if record.top_p < 1.0 {
        let n = prefix(kept, f64::from(record.top_p) * total, descending, mass);
        kept.truncate(n);
    }
    if record.min_p > 0.0 {
        let threshold = record.min_p.ln().min(0.0);
        kept.retain(|candidate| candidate.value >= threshold);
    }
    if record.typical_p < 1.0 {
        typical(kept, f64::from(record.typical_p));
    }
}

/// Keeps the tokens whose surprise is closest to the entropy until they hold `target` of the mass (Meister et al., 2022).
fn typical(kept: &mut Vec<Candidate>, target: f64) {
    let total = mass_of(kept);
    let log_total = total.ln();
    let surprise = |c: &Candidate| log_total - f64::from(c.value);
    let entropy: f64 = kept.iter().map(|c| mass(c) / total * surprise(c)).sum();
    let distance = |c: &Candidate| (surprise(c) - entropy).abs();
    let n = prefix(
        kept,
        target * total,
        |a, b| distance(a).total_cmp(&distance(b)).then(a.id.cmp(&b.id)),
        mass,
    );
    // Ties with the last one kept stay.
    let reach = distance(&kept[n - 1]);
    kept.retain(|c| distance(c) <= reach);
}

/// Moves the shortest prefix, in the given order, whose mass reaches `target` to the front, and gives its length, at
/// least 1. Halves by selection rather than sorting: linear time.
fn prefix(
    all: &mut [Candidate],
    target: f64,
    order: impl Fn(&Candidate, &Candidate) -> std::cmp::Ordering,
    mass: impl Fn(&Candidate) -> f64,
) -> usize {
    let (mut lo, mut hi, mut before) = (0, all.len(), 0.0);
    while hi - lo > 32 {
        let middle = (hi - lo) / 2;
        all[lo..hi].select_nth_unstable_by(middle, &order);
        let half: f64 = all[lo..lo + middle].iter().map(&mass).sum();
        if before + half >= target {
            hi = lo + middle;
        } else {
            before += half;
            lo += middle;
        }
    }
    all[lo..hi].sort_unstable_by(&order);
    while lo < hi {
        before += mass(&all[lo]);
        lo += 1;
        if before >= target {
            break;
        }
    }
    lo.max(1).min(all.len())
}
