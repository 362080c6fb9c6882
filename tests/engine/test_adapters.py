"""LoRA adapters and exchanged weights on the CPU backend, against the same arithmetic merged into the weights."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from agentlm import LLM, SamplingParams
from agentlm.config import EngineConfig
from agentlm.errors import AdapterError, ConfigError, ControlError
from tests.engine.adapters import write_adapter, write_merged
from tests.model.small import make_small

GREEDY = SamplingParams(max_new_tokens=24, temperature=0, ignore_eos=True)
PROMPT = "The quick brown fox"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_small(tmp_path_factory.mktemp("base"))


def text_of(llm: LLM, adapter: str | None = None) -> list[int]:
    from agentlm._engine import Mailbox

    engine = llm._running.engine
    mailbox = Mailbox()
    ids = llm._running.tokenizer.encode(PROMPT)
    request = engine.submit(ids, GREEDY, mailbox, 1, adapter=adapter)
    events = mailbox.take(60.0)
    del request
    assert len(events) == 1
    return list(events[0].token_ids)


def test_an_adapter_computes_what_merging_it_would(base, tmp_path):
    deltas = {name: write_adapter(base, tmp_path / name, seed) for seed, name in enumerate(("one", "two"))}
    merged = {}
    for name in deltas:
        with LLM(write_merged(base, tmp_path / f"{name}-merged", deltas[name]), dtype="float32") as llm:
            merged[name] = text_of(llm)
    with LLM(base, dtype="float32") as llm:
        engine = llm._running.engine
        plain = text_of(llm)
        for name in deltas:
            engine.ask("load_adapter", name=name, path=str(tmp_path / name))
        assert [name for name, _ in engine.adapters()] == ["one", "two"]
        assert {name: text_of(llm, name) for name in deltas} == merged
        assert text_of(llm) == plain
        assert len({tuple(ids) for ids in (plain, *merged.values())}) == 3, (
            "the adapters must make a difference"
        )
        engine.ask("unload_adapter", name="one")
        with pytest.raises(AdapterError, match="no adapter is called"):
            text_of(llm, "one")
        assert text_of(llm, "two") == merged["two"]


def test_weights_are_exchanged_and_adapters_stay(base, tmp_path):
    deltas = write_adapter(base, tmp_path / "one", 1)
    other = write_merged(base, tmp_path / "other", deltas)
    with LLM(other, dtype="float32") as llm:
        changed = text_of(llm)
    with LLM(base, dtype="float32") as llm:
        engine = llm._running.engine
        plain = text_of(llm)
        engine.ask("load_adapter", name="one", path=str(tmp_path / "one"))
        adapted = text_of(llm, "one")
        engine.ask("reload_weights", path=str(other))
        assert text_of(llm) == changed != plain
        engine.ask("reload_weights", path=str(base))
        assert (text_of(llm), text_of(llm, "one")) == (plain, adapted)
        engine.ask("sleep")
        engine.ask("wake")
        assert (text_of(llm), text_of(llm, "one")) == (plain, adapted)
        with pytest.raises(ControlError, match="nowhere"):
            engine.ask("reload_weights", path=str(tmp_path / "nowhere"))
        assert text_of(llm) == plain, "what cannot be loaded changes nothing"


def test_llm_chooses_adapters_by_name(base, tmp_path):
    write_adapter(base, tmp_path / "one", 1)
    with LLM(base, dtype="float32") as llm:
        plain = llm.generate(PROMPT, GREEDY)[0].token_ids
        llm.load_adapter("one", tmp_path / "one")
        assert llm.adapters() == {"one": str(tmp_path / "one")}
        adapted = llm.generate([PROMPT, PROMPT], GREEDY, adapter="one")
        assert [one.token_ids for one in adapted] == [tuple(text_of(llm, "one"))] * 2
        assert llm.generate(PROMPT, GREEDY)[0].token_ids == plain != adapted[0].token_ids
        *_, last = llm.stream(PROMPT, GREEDY, adapter="one")
        assert last.completion.token_ids == adapted[0].token_ids
        assert asyncio.run(llm.agenerate(PROMPT, GREEDY, adapter="one")).token_ids == adapted[0].token_ids
        with pytest.raises(AdapterError, match=r"no adapter is called 'two'; loaded: \['one'\]"):
            llm.generate(PROMPT, GREEDY, adapter="two")
        for name in ("", "tgi", "one"):
            with pytest.raises(AdapterError):
                llm.load_adapter(name, tmp_path / "one")
        llm.unload_adapter("one")
        assert llm.adapters() == {}


def test_llm_exchanges_its_weights(base, tmp_path):
    other = write_merged(base, tmp_path / "other", write_adapter(base, tmp_path / "one", 1))
    with LLM(base, dtype="float32") as llm:
        plain = text_of(llm)
        assert llm.reload_weights(other) == 1
        assert text_of(llm) != plain
        assert llm.reload_weights(base, abort=True) == 2
        llm.sleep()
        llm.wake()
        assert text_of(llm) == plain
        with pytest.raises(ControlError, match="nowhere"):
            llm.reload_weights(tmp_path / "nowhere")


def test_a_watermark_is_as_strong_as_its_settings_say(base):
    marked = SamplingParams(max_new_tokens=24, temperature=0, ignore_eos=True, watermark=True)
    texts = {}
    for gamma, delta in ((0.5, 0.0), (0.5, 50.0), (0.1, 50.0)):
        with LLM(base, dtype="float32", watermark_gamma=gamma, watermark_delta=delta) as llm:
            texts[gamma, delta] = llm.generate(PROMPT, marked)[0].token_ids
            plain = llm.generate(PROMPT, GREEDY)[0].token_ids
    assert texts[0.5, 0.0] == plain, "nothing is added"
    assert len({tuple(ids) for ids in texts.values()}) == 3


@pytest.mark.parametrize(
    "settings",
    [{"watermark_gamma": 0}, {"watermark_gamma": 1.0}, {"watermark_delta": 101}, {"watermark_delta": "2"}],
)
def test_a_watermark_out_of_range_is_refused_by_name(settings):
    with pytest.raises(ConfigError, match=f"`{next(iter(settings))}` must be "):
        EngineConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"peft_type": "IA3"}, "of type 'IA3'"),
        ({"use_dora": True}, "'use_dora' to True"),
        ({"bias": "all"}, "'bias' to 'all'"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save'"),
        ({"lora_alpha": "much"}, "'lora_alpha' to 'much'"),
    ],
)
def test_an_adapter_that_is_not_served_is_refused_with_the_reason(base, tmp_path, settings, told):
    write_adapter(base, tmp_path / "one", 1, **settings)
    with LLM(base) as llm, pytest.raises(ControlError, match=told):
        llm._running.engine.ask("load_adapter", name="one", path=str(tmp_path / "one"))


def test_an_adapter_of_another_model_is_refused(base, tmp_path):
    write_adapter(base, tmp_path / "one", 1)
    file = tmp_path / "one" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("q_proj.lora_A.weight"))
    tensors[name] = np.ascontiguousarray(tensors[name][:, :-1])
    save_file(tensors, file)
    with LLM(base) as llm, pytest.raises(ControlError, match="belongs to another model"):
        llm._running.engine.ask("load_adapter", name="one", path=str(tmp_path / "one"))
    with LLM(base) as llm, pytest.raises(ControlError, match=r"adapter_config\.json"):
        llm._running.engine.ask("load_adapter", name="one", path=str(base))
