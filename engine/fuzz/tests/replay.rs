//! Every input of the corpus, and every one that ever failed, through its target's check.

use std::path::Path;

#[test]
fn the_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, check) in agentlm_fuzz::TARGETS {
        let folder = corpus.join(name);
        let mut inputs = 0;
        for entry in std::fs::read_dir(&folder).expect("each target has a corpus") {
            let path = entry.expect("a readable folder").path();
            let data = std::fs::read(&path).expect("a readable input");
            println!("{}", path.display());
            check(&data);
            inputs += 1;
        }
        assert!(inputs > 0, "{} is empty", folder.display());
    }
}
