"""`agentlm generate`: prompts from a file, their order, their lines, those that fail, a chat template of one's own."""

import json
import subprocess
import sys

import pytest

from agentlm import LLM, SamplingParams
from tests.cli.commands import SECONDS, agentlm
from tests.model import families
from tests.model.small import make_small


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def mock(model):
    return ("--model", model, "--backend", "mock", "--mock-step-time", "0.001")


def test_a_prompt_is_answered_on_standard_output_alone(mock):
    ran = agentlm("generate", "tell me", "--max-new-tokens", 6, *mock)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.strip()
    piped = agentlm("generate", "--max-new-tokens", 6, *mock, stdin="tell me\n")
    assert piped.stdout == ran.stdout


def test_a_number_of_new_tokens_must_fit_only_if_it_is_named(mock):
    ran = agentlm("generate", "tell me", "--max-total-tokens", 64, *mock)
    assert (ran.returncode, ran.stderr) == (0, "")
    named = agentlm("generate", "tell me", "--max-total-tokens", 64, "--max-new-tokens", 256, *mock)
    assert named.returncode == 1
    assert "must be <= 64" in named.stderr


def test_a_file_has_a_prompt_a_line_or_json(mock, tmp_path):
    source = tmp_path / "prompts.jsonl"
    source.write_text(
        'first prompt\n\n{"prompt": "second", "max_new_tokens": 2}\nthird ☃\n', encoding="utf-8"
    )
    output = tmp_path / "answers.jsonl"
    ran = agentlm("generate", "--file", source, "--output", output, "--jsonl", "--max-new-tokens", 5, *mock)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [answer["prompt"] for answer in answers] == ["first prompt", "second", "third ☃"]
    assert [answer["completion_tokens"] for answer in answers] == [5, 2, 5]
    assert {answer["finish_reason"] for answer in answers} == {"length"}
    through = agentlm(
        "generate", "--file", "-", "--jsonl", "--max-new-tokens", 5, *mock, stdin=source.read_bytes()
    )
    assert [json.loads(line) for line in through.stdout.splitlines()] == answers


def test_a_chat_prompt_goes_through_the_template(mock):
    plain = agentlm("generate", "hello", "--jsonl", "--max-new-tokens", 2, *mock)
    chat = agentlm("generate", "hello", "--chat", "--jsonl", "--max-new-tokens", 2, *mock)
    assert json.loads(chat.stdout)["prompt_tokens"] > json.loads(plain.stdout)["prompt_tokens"]


@pytest.mark.parametrize("chosen", [(), ("--model-id", "agentlm-nano")], ids=["none", "by name"])
def test_without_a_model_the_bundled_one_answers_and_says_what_it_is(tmp_path, chosen):
    arguments = (
        "generate",
        "Hello!",
        "--chat",
        "--temperature",
        0,
        "--max-new-tokens",
        40,
        "--threads",
        1,
        *chosen,
    )
    ran = agentlm(*arguments, "--huggingface-hub-cache", tmp_path)
    assert ran.returncode == 0
    assert "Hello!" in ran.stdout
    assert ("agentlm-nano, a demonstration model" in ran.stderr) == (not chosen), "who named it knows"
    assert not list(tmp_path.iterdir())


def test_the_mock_backend_is_not_said_to_be_the_bundled_model():
    ran = agentlm("generate", "Hello!", "--backend", "mock", "--mock-step-time", 0, "--max-new-tokens", 2)
    assert ran.returncode == 0
    assert (
        ran.stderr
        == "note: no model was given: the mock backend makes tokens up, of agentlm-nano's vocabulary\n"
    )


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ('{"prompt": "x"\n', "1"),
        ('fine\n{"text": "x"}\n', "2"),
        ('{"prompt": 5}\n', "`prompt` must be text"),
        ('{"prompt": "x", "warmth": 2}\n', "warmth"),
        ('{"prompt": "x", "temperature": -2}\n', "`temperature`"),
        ("\n\n", "holds no prompt"),
        (b"\xff\xfe\n", "UTF-8"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(mock, lines, named):
    ran = agentlm("generate", "--file", "-", *mock, stdin=lines)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert len(ran.stderr.splitlines()) == 1
    assert named in ran.stderr


# where a prompt ends


def test_only_a_line_feed_ends_a_prompt(mock, tmp_path):
    source = tmp_path / "prompts.txt"
    source.write_bytes(
        'one\rtwo\r\nthree\u2028four\x0bfive\x85six\n{"prompt": "seven\u2028"}\nlast\r'.encode()
    )
    ran = agentlm("generate", "--file", source, "--jsonl", "--max-new-tokens", 2, *mock)
    assert (ran.returncode, ran.stderr) == (0, "")
    prompts = [json.loads(line)["prompt"] for line in ran.stdout.removesuffix("\n").split("\n")]
    assert prompts == ["one\rtwo", "three\u2028four\x0bfive\x85six", "seven\u2028", "last\r"]


@pytest.mark.parametrize(
    ("said", "prompt"),
    [
        ("a\rb\r\nc\n", "a\rb\r\nc"),
        ("a\r\n", "a"),
        ("a\n\n", "a\n"),
        ("a\r", "a\r"),
        ("a\u2028b", "a\u2028b"),
    ],
)
def test_standard_input_is_one_prompt_without_the_end_of_its_last_line(mock, said, prompt):
    ran = agentlm("generate", "--jsonl", "--max-new-tokens", 2, *mock, stdin=said)
    assert json.loads(ran.stdout)["prompt"] == prompt


@pytest.mark.parametrize("through", ["file", "standard input"])
def test_a_byte_order_mark_is_none_of_a_prompt(mock, tmp_path, through):
    data = '{"prompt": "first", "max_new_tokens": 2}\n'.encode("utf-8-sig")
    (tmp_path / "prompts.jsonl").write_bytes(data)
    source = tmp_path / "prompts.jsonl" if through == "file" else "-"
    ran = agentlm("generate", "--file", source, "--jsonl", *mock, stdin=data)
    [answer] = map(json.loads, ran.stdout.splitlines())
    assert (answer["prompt"], answer["completion_tokens"]) == ("first", 2)


# log-probabilities


def test_log_probabilities_are_written_with_their_tokens(model, mock):
    asked = {"prompt": "a ☃", "max_new_tokens": 3, "top_n_tokens": 2, "prompt_logprobs": True}
    ran = agentlm("generate", "--file", "-", "--jsonl", *mock, stdin=json.dumps(asked))
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    with LLM(model, backend="mock", mock_step_time=0.001, progress=False) as llm:
        asked.pop("prompt")
        [done] = llm.generate("a ☃", SamplingParams.from_dict(asked))
        ids = llm.tokenize("a ☃")

    def pairs(tokens):
        assert all(token.keys() == {"id", "text", "logprob"} for token in tokens)
        return tuple((token["id"], token["logprob"]) for token in tokens)

    assert pairs(answer["logprobs"]) == tuple(zip(done.token_ids, done.logprobs, strict=True))
    assert tuple(map(pairs, answer["top_logprobs"])) == done.top_logprobs
    assert pairs(answer["prompt_logprobs"]) == tuple(zip(ids, done.prompt_logprobs, strict=True))
    assert tuple(map(pairs, answer["prompt_top_logprobs"])) == done.prompt_top_logprobs
    texts = [token["text"] for token in answer["prompt_logprobs"]]
    assert texts == ["<|begin|>", "a", " ", "\ufffd", "\ufffd", "\ufffd"]


def test_log_probabilities_that_nobody_asked_for_are_not_there(mock):
    ran = agentlm("generate", "hello", "--jsonl", "--max-new-tokens", 2, *mock)
    assert not [name for name in json.loads(ran.stdout) if "logprobs" in name]


@pytest.mark.parametrize("asked", [{"logprobs": True}, {"top_n_tokens": 1}, {"prompt_logprobs": True}])
def test_log_probabilities_need_lines_of_json(mock, asked):
    ran = agentlm("generate", "--file", "-", *mock, stdin=json.dumps({"prompt": "x"} | asked))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: standard input:1: `{next(iter(asked))}` needs --jsonl")


# what is refused, and where


@pytest.mark.parametrize(
    ("lines", "told", "arguments"),
    [
        ('fine\n\n{"text": "x"}\n', ":3 is not a JSON object with `prompt`", ()),
        ('fine\n{"prompt": "x"\n', ":2 is not a JSON object with `prompt`", ()),
        ('fine\n{"prompt": 5}\n', ":2: `prompt` must be text", ()),
        ('fine\n\n{"prompt": "x", "temperature": -2}\n', ":3: `temperature` must be", ()),
        ('{"prompt": "x", "warmth": 2}\n', ":1: unknown sampling parameters", ()),
        ('fine\n{"prompt": "x", "stop": ["a", "b", "c", "d", "e"]}\nfine\n', ":2: `stop`", ()),
        ('fine\n{"prompt": "x", "stop": ["\\ud800"]}\n', ":2: `stop` must be valid Unicode", ()),
        ('fine\n{"prompt": "x", "top_p": ' + "1" * 400 + "}\n", ":2: `top_p` must be a number", ()),
        ('fine\n{"prompt": "x", "seed": ' + "1" * 5001 + "}\n", ":2 is not a JSON object", ()),
        ('fine\n{"prompt": "x", "stop": ' + "[" * 100_000 + "\n", ":2 is not a JSON object", ()),
        ('{"prompt": "x", "logit_bias": {"' + "1" * 5000 + '": 1}}\n', ":1: `logit_bias` must name", ()),
        ("fine\n" + "x" * 5000 + "\nfine\n", ":2: `inputs`", ()),
        # A file with one prompt: streamed as text, or an object.
        ("\n" + "x" * 5000 + "\n", ":2: `inputs`", ()),
        ("\n" + "x" * 5000 + "\n", ":2: `inputs`", ("--jsonl",)),
    ],
    ids=range(14),
)
def test_a_refusal_names_the_line(mock, tmp_path, lines, told, arguments):
    source = tmp_path / "prompts.txt"
    source.write_text(lines)
    ran = agentlm("generate", "--file", source, *arguments, *mock)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert f"rror: {source}{told}" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_standard_input_is_called_so(mock):
    ran = agentlm("generate", "--file", "-", *mock, stdin='fine\n{"prompt": 5}\n')
    assert ran.stderr.startswith("Error: standard input:2: `prompt` must be text")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ("--temperature", "inf"),
            "error: `--temperature` must be a number >= 0, and if not 0 from 1e-15 to 1e+15. Given: inf",
        ),
        (("--top-k", "0"), "error: `--top-k` must be an integer from 1"),
        (("--stop", "\udcff"), "error: `--stop` must be valid Unicode"),
        (("--max-new-tokens", "9999"), "error: PROMPT: `inputs` tokens + `--max-new-tokens` must be <= 4096"),
    ],
)
def test_a_refused_flag_is_named(mock, flags, told):
    ran = agentlm("generate", "x", *flags, *mock)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(told)
    assert len(ran.stderr.splitlines()) == 1


def test_a_line_s_own_parameter_is_not_called_a_flag(mock):
    asked = '{"prompt": "x", "max_new_tokens": 9999}'
    ran = agentlm("generate", "--file", "-", "--max-new-tokens", 2, *mock, stdin=asked)
    assert "standard input:1: `inputs` tokens + `max_new_tokens` must be <= 4096" in ran.stderr


@pytest.mark.parametrize(
    ("redirected", "arguments", "told"),
    [
        ("<&-", ("generate",), "Error: standard input is closed"),
        ("<&-", ("generate", "--file", "-"), "Error: standard input is closed"),
        ("<&-", ("chat",), "Error: standard input is closed"),
        (">&-", ("generate", "hi"), "standard output is closed"),
    ],
)
def test_a_closed_stream_is_told(mock, redirected, arguments, told):
    ran = subprocess.run(
        [
            "sh",
            "-c",
            f'exec "$0" -m agentlm "$@" {redirected}',
            sys.executable,
            *map(str, (*arguments, *mock)),
        ],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert ran.returncode == 2
    assert told in ran.stderr.decode().splitlines()[-1]


def test_a_file_that_is_not_there_is_a_usage_error(mock, tmp_path):
    ran = agentlm("generate", "--file", tmp_path / "nowhere", *mock)
    assert ran.returncode == 2
    assert "nowhere" in ran.stderr


# prompts that fail while they are computed


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A model whose logits are no numbers behind `#`."""
    directory = families.poison(families.write(tmp_path_factory.mktemp("broken"), "llama2", seed=0), ord("#"))
    return ("--model", directory, "--dtype", "float32", "--threads", 1, "--max-total-tokens", 64)


FAILED = "the model's logits for this request hold no finite number"


def test_a_failed_prompt_of_a_batch_leaves_the_others_their_answers(broken, tmp_path):
    source = tmp_path / "prompts.txt"
    source.write_text("first\n\nfails #\nthird\nfails too #\n")
    arguments = ("generate", "--file", source, "--max-new-tokens", 1, *broken)
    ran = agentlm(*arguments, "--jsonl")
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        f"{source}:3: {FAILED}",
        f"{source}:5: {FAILED}",
        "Error: 2 of 4 prompts failed; the others are written",
    ]
    answers = [json.loads(line) for line in ran.stdout.removesuffix("\n").split("\n")]
    assert [answer["prompt"] for answer in answers] == ["first", "fails #", "third", "fails too #"]
    assert [answer.get("error") for answer in answers] == [None, FAILED, None, FAILED]
    assert [answer.get("completion_tokens") for answer in answers] == [1, None, 1, None]
    # As text, a failed one is an empty line.
    text = agentlm(*arguments)
    assert text.stdout == "".join(answer.get("text", "") + "\n" for answer in answers)
    assert (text.stderr, text.returncode) == (ran.stderr, 1)


def test_one_prompt_that_fails_is_told_with_its_line(broken, tmp_path):
    source = tmp_path / "prompts.txt"
    source.write_text("\nfails #\n")
    ran = agentlm("generate", "--file", source, "--max-new-tokens", 1, *broken)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"error: {source}:2: {FAILED}\n"


def test_an_answer_is_written_before_a_slower_one_ends(mock, tmp_path):
    source = tmp_path / "prompts.jsonl"
    source.write_text(
        '{"prompt": "quick", "max_new_tokens": 2}\n'
        '{"prompt": "slow", "max_new_tokens": 4000, "ignore_eos": true}\n'
    )
    command = ("generate", "--file", source, "--jsonl", *mock, "--mock-step-time", "0.01")
    with subprocess.Popen(
        [sys.executable, "-m", "agentlm", *map(str, command)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            still_running = process.poll() is None
        finally:
            process.kill()
            process.wait(SECONDS)
    assert json.loads(first)["prompt"] == "quick"
    assert still_running


# chat templates


def test_a_given_template_renders_the_prompts(mock, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text("always the same")
    arguments = ("generate", "--file", "-", "--chat", "--jsonl", "--max-new-tokens", 2, *mock)
    for more, env in ((("--chat-template", template), {}), ((), {"CHAT_TEMPLATE": str(template)})):
        ran = agentlm(*arguments, *more, env=env, stdin="a\nsomething much longer\n")
        one, other = (json.loads(line) for line in ran.stdout.removesuffix("\n").split("\n"))
        assert (one.pop("prompt"), other.pop("prompt")) == ("a", "something much longer")
        assert one == other


def test_a_template_that_refuses_names_the_line(mock, tmp_path):
    template = tmp_path / "mine.jinja"
    template.write_text(
        "{% if messages[0].content == 'bad' %}{{ raise_exception('not this') }}{% endif %}{{ messages[0].content }}"
    )
    arguments = ("generate", "--file", "-", "--chat", "--chat-template", template, *mock)
    for lines, line in (("fine\n\nbad\nfine\n", 3), ("bad\n", 1)):
        ran = agentlm(*arguments, stdin=lines)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr == f"error: standard input:{line}: not this\n"


def test_without_a_template_no_line_is_to_blame(model, tmp_path):
    bare = families.without_chat_template(model, tmp_path / "bare")
    ran = agentlm("generate", "hello", "--chat", "--model", bare, "--backend", "mock")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: {bare}: the checkpoint has no chat template")


def test_a_template_that_is_not_there_is_a_usage_error(mock, tmp_path):
    ran = agentlm("generate", "hello", "--chat", "--chat-template", tmp_path / "nowhere.jinja", *mock)
    assert ran.returncode == 2
    assert "nowhere.jinja" in ran.stderr
