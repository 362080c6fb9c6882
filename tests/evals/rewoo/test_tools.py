"""The local tools on cases worked out by hand, strangers' text, and the originals' services played by a local server."""

import asyncio
import json
import time

import httpx
import pytest

from agentlm_evals.errors import EnvironmentFault
from agentlm_evals.tasks.hotpotqa.reading import Article
from agentlm_evals.tasks.rewoo.algebra import AlgebraError, solve, solve_apart
from agentlm_evals.tasks.rewoo.calculator import ExpressionError, calculate, written
from agentlm_evals.tasks.rewoo.tools import live_tools, local_tools, passages


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) x 3", "9"),
        ("5 × 4 ÷ 2", "10"),
        ("2^10", "1024"),
        ("1,234,567 + 1", "1234568"),
        ("$12.50 * 4 =", "50"),
        ("20% * 150", "30"),
        ("17 % 5", "2"),
        ("[3] * [4.5]", "13.5"),
        ("sqrt(2)", "1.41421356237"),
        ("−3 – 4", "-7"),
        ("10 / 4", "2.5"),
        ("1/3", "0.333333333333"),
        ("max(3, 7) + factorial(4)", "31"),
        ("0.1 + 0.2", "0.3"),
    ],
)
def test_arithmetic(text, value):
    assert written(calculate(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "how many apples",
        "__import__('os').system('touch /tmp/agentlm-was-here')",
        "(1).__class__",
        "open('/etc/passwd')",
        "9**9**9**9",
        "2**100000",
        "factorial(100000)",
        "1/0",
        "(-8)**0.5",
        "(" * 400,
        "1+" * 240 + "1" + "+1" * 100,
        "lambda: 1",
        "[1 for x in y]",
        "'a' * 1000000000",
        "True",
    ],
)
def test_what_is_no_arithmetic_is_refused_at_once(text):
    begun = time.monotonic()
    with pytest.raises(ExpressionError):
        calculate(text)
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    ("text", "solution"),
    [
        ("3x + 7 = 40", "x = 11"),
        ("solve x^2 = 4 for x", "x = -2 or x = 2"),
        ("x + y = 5, x - y = 1", "x = 3, y = 2"),
        ("2(a + b) - 2a", "2*b"),
        ("What is x/2 = 0.25?", "x = 1/2"),
    ],
)
def test_algebra(text, solution):
    assert solve(text) == solution


@pytest.mark.parametrize(
    "text", ["x = x + 1", "", "eval('1')", "x == 2", "f(x) = 3", "x^100000 + 1", "the cat"]
)
def test_what_cannot_be_solved_is_said(text):
    with pytest.raises(AlgebraError):
        solve(text)


def test_algebra_runs_apart_and_has_its_time():
    assert solve_apart("3x + 7 = 40") == "x = 11"
    with pytest.raises(AlgebraError, match="two sides"):
        solve_apart("x = 2 = y")


def test_a_long_algebra_is_stopped(monkeypatch):
    monkeypatch.setattr("agentlm_evals.tasks.rewoo.algebra.SECONDS", 0.05)
    with pytest.raises(AlgebraError, match=r"not solved in 0\.05 s"):
        solve_apart("x = 1")


def use(tools, name, text):
    return asyncio.run(tools[name](text))


def test_local_tools_answer_from_documents():
    articles = [
        Article("Vesk", "The Vesk is a river of 212 km.", ()),
        Article("Orr", "The Orr is a river of 96 km.", ()),
        Article("Lowmarch", "Lowmarch has glassworks.", ()),
    ]
    tools = local_tools(articles, "The roads are bad.\n\nThe budget closes with a surplus.")
    assert use(tools, "Wikipedia", "vesk") == "The Vesk is a river of 212 km."
    assert use(tools, "Wikipedia", "long river").startswith("Could not find [long river]. Similar: [")
    assert "Lowmarch: Lowmarch has glassworks." in use(tools, "Google", "town with glassworks")
    assert "surplus" in use(tools, "SearchSOTU", "budget surplus")
    assert use(tools, "Calculator", "6 * 7") == "42"
    assert use(tools, "Calculator", "six").startswith("It cannot be worked out: ")
    assert use(tools, "WolframAlpha", "6 * 7") == "42"
    assert use(tools, "WolframAlpha", "2y = 5") == "y = 5/2"
    assert use(tools, "WolframAlpha", "the weather").startswith("It cannot be worked out: ")


def test_tools_without_documents_say_so():
    tools = local_tools([], "")
    assert use(tools, "Google", "x") == "No good result found"
    assert use(tools, "SearchSOTU", "x") == "No passage matches"


def test_a_document_falls_into_passages_of_whole_paragraphs():
    text = "\n\n".join(f"Paragraph {n}. " + "word " * 60 for n in range(10))
    found = passages(text)
    assert 2 <= len(found) <= 5
    assert all(article.text.startswith("Paragraph") for article in found)


def services(request: httpx.Request) -> httpx.Response:
    if request.url.host == "google.serper.dev":
        assert request.headers["X-API-KEY"] == "s-key"
        query = json.loads(request.content)["q"]
        if query == "broken":
            return httpx.Response(500, text="oops")
        if query == "box":
            return httpx.Response(200, json={"answerBox": {"answer": "42"}})
        return httpx.Response(200, json={"organic": [{"snippet": "first"}, {"snippet": "second"}]})
    assert dict(request.url.params) == {"i": request.url.params["i"], "appid": "w-key"}
    if request.url.params["i"] == "nonsense":
        return httpx.Response(501, text="did not understand")
    return httpx.Response(200, text="x = 2")


def test_the_originals_services_are_asked_with_their_keys(tmp_path):
    (tmp_path / "serper.key").write_text("s-key\n")
    (tmp_path / "wolfram.key").write_text("w-key\n")

    async def ask():
        async with httpx.AsyncClient(transport=httpx.MockTransport(services)) as client:
            tools = live_tools(client, tmp_path, None)
            assert await tools["Google"]("box") == "42"
            assert await tools["Google"]("other") == "first second"
            assert await tools["WolframAlpha"]("x + 1 = 3") == "x = 2"
            assert await tools["WolframAlpha"]("nonsense") == "Wolfram Alpha wasn't able to answer it"
            with pytest.raises(EnvironmentFault, match="answered 500"):
                await tools["Google"]("broken")

    asyncio.run(ask())
