"""A conversation with tools: the trainer sees what the server asks with, and both give it the same log-probabilities."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentlm import LLM, SamplingParams
from agentlm._engine import ChatTemplate, Tokenizer
from agentlm.tuning.config import SourceSection
from agentlm.tuning.rendering import render
from tests.server.live import Live
from tests.tuning.runs import load, write_base, write_records
from tests.tuning.test_model import batch

TEMPLATE = (
    "{{- bos_token }}{%- if tools %}{{- 'Tools: ' + (tools | tojson) + '\\n' }}{%- endif %}{%- for m in messages %}"
    "{{- '<' + m.role + '>' + m.content }}{%- for c in m.tool_calls %}{{- '<call>' + (c.function | tojson) }}{%- endfor %}"
    "{%- if m.role == 'assistant' %}{{- eos_token }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<assistant>' }}{%- endif %}"
)
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
RECORD: dict[str, Any] = {
    "id": "1",
    "source": "tools",
    "tools": [
        {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    ],
    "messages": [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "It is 3."},
    ],
}


def test_trainer_and_server_agree_on_a_conversation_with_tools(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    file = tmp_path / "template.jinja"
    file.write_text(TEMPLATE, encoding="utf-8")
    records = write_records(tmp_path / "tools.jsonl", [RECORD])
    rendered = render(
        [SourceSection(name="tools", path=str(records))],
        base,
        template=str(file),
        length=512,
        over_length="refuse",
        cache=tmp_path / "kept",
    )
    assert rendered.left_out == ({},)
    ids, mask = rendered.tokens(0)
    live = Live("--model", base, "--chat-template", file, "--threads", 1)
    try:
        live.wait_ready()
        for until in (1, 3):
            body = {"model": "m", "messages": RECORD["messages"][:until], "tools": RECORD["tools"]}
            status, reply = live.call("POST", "/chat_tokenize", body)
            assert status == 200, reply
            prompt = [token["id"] for token in reply["tokenize_response"]]
            # Up to there it is what the server is asked with, and there training begins.
            assert ids[: len(prompt)].tolist() == prompt
            assert mask[len(prompt)]
            assert not mask[len(prompt) - 1]
    finally:
        live.stop()
    tokenizer = Tokenizer(base)
    trained = tokenizer.decode(ids[mask].tolist(), skip_special_tokens=True)
    assert trained == '<call>{"name": "add", "arguments": {"a": 1, "b": 2}}It is 3.'
    # Audit, trainer and server have one renderer.
    text, whole, _ = ChatTemplate(base, tokenizer, file).conversation(
        json.dumps(RECORD["messages"]), json.dumps(RECORD["tools"])
    )
    assert whole == ids.tolist()
    assert "Tools: [" in text
    model = load(base)
    with torch.no_grad():
        logprobs = model(batch(ids.astype(np.int64), [len(ids)], np.ones(len(ids), dtype=bool)), 1.0)[1]
    with LLM(str(base), dtype="float32", kv_cache_dtype="float32", threads=1, backend="cpu") as llm:
        (answer,) = llm.generate([ids.tolist()], SamplingParams(max_new_tokens=1, prompt_logprobs=True))
    assert answer.prompt_logprobs is not None
    np.testing.assert_allclose(
        logprobs.numpy(), np.asarray(answer.prompt_logprobs[1:], dtype=np.float32), atol=2e-4
    )


def test_each_piece_of_a_long_conversation_offers_the_tools(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    file = tmp_path / "template.jinja"
    file.write_text(TEMPLATE, encoding="utf-8")
    turns: list[dict[str, Any]] = RECORD["messages"]
    record = RECORD | {"messages": turns * 4}
    rendered = render(
        [SourceSection(name="tools", path=str(write_records(tmp_path / "tools.jsonl", [record])))],
        base,
        template=str(file),
        length=300,
        over_length="split",
        cache=tmp_path / "kept",
    )
    assert rendered.left_out == ({},)
    tokenizer = Tokenizer(base)
    pieces = [tokenizer.decode(rendered.tokens(one)[0].tolist()) for one in range(len(rendered))]
    assert len(pieces) > 1
    assert all(piece.count("Tools: [") == 1 for piece in pieces)
    assert sum(piece.count("<call>") for piece in pieces) == 4
