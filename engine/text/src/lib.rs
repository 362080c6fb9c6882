//! Tokenizer, chat templates, renderer with loss masks, and the output stage's text state.
