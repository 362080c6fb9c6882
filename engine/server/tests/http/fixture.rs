//! A tokenizer of single bytes, an engine on the mock runner, and a server before them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentlm_core::CoreConfig;
use agentlm_core::params::Limits;
use agentlm_host::{Ends, EngineConfig, EngineHandle, MockConfig, Snapshot, spawn_mock};
use agentlm_server::{RunningServer, ServerConfig, serve};
use agentlm_text::{ChatTemplate, Renderer, SpecialTokens, TemplateSource, Tokenizer};
use serde_json::{Map, Value, json};

use crate::script;

/// `<s>`, put before each prompt.
pub const BOS: u32 = 256;
/// `</s>`.
pub const EOS: u32 = 257;
/// KV blocks of the engine.
pub const BLOCKS: u32 = 256;

/// Ids are byte values; `markers` are further special tokens, from 258 on.
fn tokenizer(markers: &[&str]) -> Tokenizer {
    let shown = |byte: u32| (33..=126).contains(&byte) || (161..=172).contains(&byte) || byte >= 174;
    let (mut vocab, mut next) = (Map::new(), 256);
    for byte in 0..256u32 {
        let code = if shown(byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        vocab.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let mut added = vec![special(BOS, "<s>"), special(EOS, "</s>")];
    added.extend((EOS + 1..).zip(markers).map(|(id, marker)| special(id, marker)));
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": added,
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}}
        },
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": []}
    });
    Tokenizer::from_json(json.to_string().as_bytes(), SpecialTokens::default()).expect("the fixture is valid")
}

/// `[role]content` of each message, and `[assistant]` for the answer. The role "bad" is refused.
const TEMPLATE: &str = "{% for message in messages %}{% if message.role == 'bad' %}\
    {{ raise_exception('roles must alternate') }}{% endif %}[{{ message.role }}]{{ message.content }}{% endfor %}\
    {% if style %}({{ style }}){% endif %}{% if add_generation_prompt %}[assistant]{% endif %}";

fn renderer(tokenizer: Arc<Tokenizer>, template: &str) -> Renderer {
    let source = TemplateSource::Explicit("the tests".to_owned());
    let template =
        ChatTemplate::new(template, &SpecialTokens::default(), source).expect("the template is valid");
    Renderer::new(tokenizer, Arc::new(template))
}

/// What a test wants other than usual.
pub struct Setup {
    pub config: ServerConfig,
    /// The bytes that the mock samples from.
    pub says: Vec<u32>,
    /// What every answer without a grammar is instead, before its end.
    pub script: Option<Vec<u32>>,
    /// Further special tokens, from id 258 on.
    pub markers: &'static [&'static str],
    pub template: &'static str,
    pub step_time: Duration,
    pub max_total_tokens: u32,
}

impl Default for Setup {
    fn default() -> Self {
        let config = ServerConfig {
            hostname: "127.0.0.1".to_owned(),
            port: 0,
            ..ServerConfig::new("test/model")
        };
        Self {
            config,
            says: vec![u32::from(b'a')],
            script: None,
            markers: &[],
            template: TEMPLATE,
            step_time: Duration::ZERO,
            max_total_tokens: 200,
        }
    }
}

/// A server and its engine.
pub struct Fixture {
    pub server: RunningServer,
    pub engine: EngineHandle,
    pub address: SocketAddr,
}

impl Setup {
    pub fn start(self) -> Fixture {
        let tokenizer = Arc::new(tokenizer(self.markers));
        let limits = Limits {
            max_input_tokens: self.max_total_tokens - 1,
            max_total_tokens: self.max_total_tokens,
            max_stop_sequences: 4,
            max_top_n_tokens: 5,
            max_best_of: 2,
        };
        let core = CoreConfig {
            num_blocks: BLOCKS,
            max_running: 32,
            max_step_tokens: 512,
            limits,
            steps_in_flight: 1,
            prefix_cache: true,
            eos_token_ids: vec![EOS],
            top_cap: 5,
            max_scores: 32,
            vocab_size: EOS + 1 + u32::try_from(self.markers.len()).unwrap(),
            hash_key: [7; 32],
        };
        let config = EngineConfig {
            core,
            max_unfinished: 1024,
            step_timeout: None,
        };
        let mock = MockConfig {
            step_time: self.step_time,
            token_ids: self.says,
            ends: Ends::default(),
        };
        let engine = match self.script {
            None => spawn_mock(config, mock, tokenizer.clone()).unwrap(),
            Some(script) => script::spawn(config, mock, tokenizer.clone(), script),
        };
        let renderer = Arc::new(renderer(tokenizer.clone(), self.template));
        let server = serve(self.config, engine.clone(), tokenizer, Some(renderer)).unwrap();
        let address = server.local_addr();
        Fixture {
            server,
            engine,
            address,
        }
    }
}

/// The usual server.
pub fn start() -> Fixture {
    Setup::default().start()
}

impl Fixture {
    /// Waits until nothing runs and no block is held; panics if that does not come about.
    pub fn wait_idle(&self) -> Snapshot {
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            let snapshot = self.engine.snapshot();
            let blocks = &snapshot.core.blocks;
            let free = blocks.free + blocks.cached == BLOCKS;
            if snapshot.unfinished == 0 && free && snapshot.core.running + snapshot.core.queued == 0 {
                return snapshot;
            }
            assert!(
                Instant::now() < patience,
                "the engine still holds something: {snapshot:?}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.server.begin_shutdown(Duration::ZERO);
        self.server.wait();
        self.engine.shutdown(false);
    }
}

/// Replaces what differs from run to run.
pub fn normalised(mut value: Value) -> Value {
    if let Some(id) = value.get_mut("id") {
        assert!(id.is_string());
        *id = json!("ID");
    }
    if let Some(created) = value.get_mut("created") {
        assert!(created.as_u64().is_some_and(|seconds| seconds > 1_600_000_000));
        *created = json!(0);
    }
    value
}
