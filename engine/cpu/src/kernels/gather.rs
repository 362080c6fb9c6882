//! Picks rows of a matrix. Refuses to know why.

/// Copies one row.
pub(crate) fn copy_row(from: &[f32], to: &mut [f32]) {
    to.copy_from_slice(from);
}
