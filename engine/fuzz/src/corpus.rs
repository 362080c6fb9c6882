//! A target's committed inputs, one after the other through its check. It knows no target.

use std::path::Path;

/// Names the input at hand if its check panics.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}

/// Checks every input of a target's corpus.
///
/// # Panics
/// What the check panics with, and when there is no input.
pub fn replay(target: &str, check: fn(&[u8])) {
    // From the folder of any crate beside this one, whose tests include this file.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).expect("each target has a corpus") {
        let path = entry.expect("a readable folder").path();
        let _named = Named(&path);
        check(&std::fs::read(&path).expect("a readable input"));
        inputs += 1;
    }
    assert!(inputs > 0, "{} is empty", folder.display());
}
