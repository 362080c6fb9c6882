"""Sampling parameters and grammars: what is refused, with what words, and how plain dictionaries are read."""

import json
import math
from dataclasses import replace

import pytest

from agentlm import Grammar, SamplingParams
from agentlm.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"temperature": -0.5}, ["`temperature`", "-0.5", ">= 0"]),
        ({"temperature": math.nan}, ["`temperature`", "nan"]),
        ({"temperature": math.inf}, ["`temperature`", "inf"]),
        ({"temperature": "hot"}, ["`temperature`", "'hot'"]),
        ({"top_p": 0}, ["`top_p`", "> 0 and <= 1", "0"]),
        ({"top_p": 1.5}, ["`top_p`", "1.5"]),
        ({"min_p": 1.0}, ["`min_p`", "1.0"]),
        ({"typical_p": 2}, ["`typical_p`", "2"]),
        ({"top_k": 0}, ["`top_k`", "from 1", "0"]),
        ({"top_k": 2.5}, ["`top_k`", "2.5"]),
        ({"repetition_penalty": 0}, ["`repetition_penalty`", "> 0"]),
        ({"frequency_penalty": 3}, ["`frequency_penalty`", "from -2 to 2", "3"]),
        ({"presence_penalty": -3}, ["`presence_penalty`", "-3"]),
        ({"max_new_tokens": 0}, ["`max_new_tokens`", "from 1", "0"]),
        ({"max_new_tokens": True}, ["`max_new_tokens`", "True"]),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, ["`min_new_tokens`", "9", "3"]),
        ({"seed": -1}, ["`seed`", "-1"]),
        ({"seed": 2**64}, ["`seed`", str(2**64)]),
        ({"stop": [""]}, ["`stop`", "empty"]),
        ({"stop": 5}, ["`stop`", "5"]),
        ({"logprobs": 1}, ["`logprobs`", "1"]),
        ({"prompt_logprobs": 1}, ["`prompt_logprobs`", "1"]),
        ({"watermark": "yes"}, ["`watermark`", "'yes'"]),
        ({"grammar": "[a-z]+"}, ["`grammar`", "Grammar.regex", "'[a-z]+'"]),
        ({"logit_bias": [(5, 1.0)]}, ["`logit_bias`", "mapping"]),
        ({"logit_bias": {"a": 1}}, ["`logit_bias`", "token ids", "'a'"]),
        ({"logit_bias": {True: 1}}, ["`logit_bias`", "token ids", "True"]),
        ({"logit_bias": {-1: 1}}, ["`logit_bias`", "from 0", "-1"]),
        ({"logit_bias": {2**32: 1}}, ["`logit_bias`", str(2**32)]),
        ({"logit_bias": {5: 100.5}}, ["`logit_bias`", "from -100 to 100", "100.5", "token 5"]),
        ({"logit_bias": {5: math.nan}}, ["`logit_bias`", "nan", "token 5"]),
        ({"logit_bias": {5: "much"}}, ["`logit_bias`", "'much'"]),
        ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, ["`logit_bias`", "1024", "1025"]),
        ({"warmth": 1}, ["warmth", "temperature"]),
        ({"warmth": 1, 2: 3}, ["'warmth'", "2", "temperature"]),
        (None, ["mapping", "None"]),
        ([("temperature", 1)], ["mapping", "[('temperature', 1)]"]),
        *[
            ({name: 10**400}, [f"`{name}`", "must be a number", "1000"])
            for name in (
                "temperature",
                "top_p",
                "min_p",
                "typical_p",
                "repetition_penalty",
                "frequency_penalty",
                "presence_penalty",
            )
        ],
        ({"temperature": math.inf}, ["1e+15"]),
        ({"temperature": 10**5000}, ["`temperature`", "type int"]),
        ({"top_k": 10**5000}, ["`top_k`", "type int"]),
        ({"logit_bias": {5: 10**400}}, ["`logit_bias`", "from -100 to 100", "token 5"]),
        ({"logit_bias": {"9" * 5000: 1}}, ["`logit_bias`", "token ids", "9999"]),
        ({"stop": "\ud800"}, ["`stop`", "valid Unicode", "\\ud800"]),
        ({"stop": ["fine", "half \udcff"]}, ["`stop`", "character 5", "\\udcff"]),
        ({"grammar": {"regex": "\ud800"}}, ["regex", "valid Unicode"]),
    ],
)
def test_a_parameter_out_of_range_is_refused_with_its_range(values, named):
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams.from_dict(values)
    for word in named:
        assert word in str(caught.value)


def test_biases_are_copied_as_plain_numbers_and_leave_parameters_hashable():
    numpy = pytest.importorskip("numpy")
    given = {numpy.int64(5): numpy.float32(2.5), 6: -100}
    params = SamplingParams(logit_bias=given)
    given[7] = 1.0
    assert params.logit_bias == {5: 2.5, 6: -100.0}
    assert [type(part) for pair in params.logit_bias.items() for part in pair] == [int, float] * 2
    assert hash(params) == hash(replace(params, logit_bias=None))
    assert params != replace(params, logit_bias=None)


def test_a_plain_dictionary_is_read_as_json_gives_it():
    plain = json.loads(
        '{"max_new_tokens": 3, "logit_bias": {"5": 1.5, "06": -2}, "grammar": {"choice": ["yes", "no"]}}'
    )
    read = SamplingParams.from_dict(plain)
    assert read.logit_bias == {5: 1.5, 6: -2.0}
    assert read.grammar == Grammar.choice(["yes", "no"])
    assert SamplingParams.from_dict({"grammar": None, "logit_bias": None}) == SamplingParams()


@pytest.mark.parametrize(
    ("plain", "made", "kind", "text"),
    [
        (
            {"json_schema": {"type": "object"}},
            Grammar.json_schema({"type": "object"}),
            "json_schema",
            '{"type": "object"}',
        ),
        ({"json_schema": True}, Grammar.json_schema(True), "json_schema", "true"),
        ({"json_object": True}, Grammar.json_object(), "json_object", ""),
        ({"regex": "[a-z]+"}, Grammar.regex("[a-z]+"), "regex", "[a-z]+"),
        ({"choice": ["yes", "no"]}, Grammar.choice(("yes", "no")), "choice", '["yes", "no"]'),
        ({"lark": 'start: "a"'}, Grammar.lark('start: "a"'), "lark", 'start: "a"'),
    ],
)
def test_a_grammar_is_its_kind_and_its_text(plain, made, kind, text):
    assert Grammar.from_dict(plain) == made
    assert (made.kind, made.text) == (kind, text)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Grammar.json_schema("object"), ["json_schema", "mapping", "'object'"]),
        (lambda: Grammar.json_schema({"enum": {1, 2}}), ["json_schema", "JSON", "set"]),
        (lambda: Grammar.json_schema({"maximum": math.inf}), ["json_schema", "JSON"]),
        (lambda: Grammar.regex(5), ["regex", "text", "5"]),
        (lambda: Grammar.lark(None), ["lark", "text", "None"]),
        (lambda: Grammar.choice("yes"), ["choice", "list", "'yes'"]),
        (lambda: Grammar.choice([]), ["choice", "at least one", "[]"]),
        (lambda: Grammar.choice(["yes", 5]), ["choice", "text", "5"]),
        (lambda: Grammar.regex("a\ud800"), ["regex", "valid Unicode", "character 1", "\\ud800"]),
        (lambda: Grammar.lark("\ud800"), ["lark", "valid Unicode"]),
        (lambda: Grammar.choice(["yes", "\ud800"]), ["choice", "valid Unicode"]),
        (lambda: Grammar.json_schema({"const": "\ud800"}), ["json_schema", "valid Unicode"]),
        (lambda: Grammar.from_dict(5), ["`grammar`", "json_schema", "5"]),
        (lambda: Grammar.from_dict({}), ["`grammar`", "json_schema", "regex", "{}"]),
        (lambda: Grammar.from_dict({"json_object": False}), ["`grammar`", "json_object", "False"]),
        (lambda: Grammar.from_dict({"ebnf": "x"}), ["`grammar`", "lark", "ebnf"]),
        (lambda: Grammar.from_dict({"regex": "a", "choice": ["b"]}), ["`grammar`", "one of", "regex"]),
    ],
)
def test_what_is_no_grammar_is_refused(call, named):
    with pytest.raises(InvalidRequestError) as caught:
        call()
    for word in named:
        assert word in str(caught.value)
