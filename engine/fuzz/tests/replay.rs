//! Every input of the corpus, and every one that ever failed, through its target's check.

use agentlm_fuzz::corpus::replay;

#[test]
fn the_corpus_holds() {
    for (name, check) in agentlm_fuzz::TARGETS {
        replay(name, check);
    }
}
