"""The shell in memory does what a shell would do, and never more than its bounds."""

import pytest

from agentlm_evals.environments.shell import MOST_BYTES, MOST_ENTRIES, Tree, run


@pytest.fixture
def tree():
    return Tree(
        files={"/a/x.txt": "sun moon\nsun\nsea\n", "/a/y.log": "rain\n", "/b/z.txt": ""},
        folders={"/", "/a", "/b"},
    )


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("ls", "a\nb"),
        ("ls /a", "x.txt\ny.log"),
        ("ls /a | wc -l", "2"),
        ("cat /a/x.txt | wc -w", "4"),
        ("wc -l /a/x.txt", "3 /a/x.txt"),
        ("cd /a && pwd && ls *.txt", "/a\nx.txt"),
        ("cat /a/*", "sun moon\nsun\nsea\nrain"),
        ("grep sun /a/x.txt", "sun moon\nsun"),
        ("grep -c sun /a/x.txt", "2"),
        ("grep -v sun /a/x.txt", "sea"),
        ("grep -r -l rain /a", "/a/y.log"),
        ("head -n 1 /a/x.txt", "sun moon"),
        ("tail -1 /a/x.txt", "sea"),
        ("sort -r /a/x.txt | head -n 1", "sun moon"),
        ("find / -name *.txt", "/a/x.txt\n/b/z.txt"),
        ("find /a -type d", "/a"),
        ("echo 'a  b' c", "a  b c"),
        ("cat nothing", "cat: nothing: No such file or directory"),
        ("cat /a", "cat: /a: Is a directory"),
        ("sudo ls", "bash: sudo: command not found"),
        ("rm /a", "rm: /a: Is a directory"),
        ("echo 'x", "bash: syntax error: No closing quotation"),
        ("ls | | wc", "bash: syntax error near '|'"),
        ("mkdir /a", "mkdir: /a: File exists"),
        ("", ""),
    ],
)  # fmt: skip
def test_output(tree, line, shown):
    assert run(tree, line) == shown


@pytest.mark.parametrize(
    ("line", "files"),
    [
        ("echo one two > /b/n", {"/b/n": "one two\n"}),
        ("echo one > /b/n; echo two >> /b/n", {"/b/n": "one\ntwo\n"}),
        ("mv /a/y.log /b", {"/b/y.log": "rain\n", "/a/y.log": None}),
        ("cp /a/y.log /b/w", {"/b/w": "rain\n", "/a/y.log": "rain\n"}),
        ("mv /a/y.log /nowhere/q", {"/a/y.log": "rain\n"}),
        ("rm -r /a", {"/a/x.txt": None, "/a/y.log": None}),
        ("rm -rf /", {"/a/x.txt": None, "/b/z.txt": None}),
        ("touch /b/t && cd /b && rm z.txt", {"/b/t": "", "/b/z.txt": None}),
        ("mkdir -p /c/d/e && touch /c/d/e/f", {"/c/d/e/f": ""}),
    ],
)
def test_changes(tree, line, files):
    run(tree, line)
    assert {path: tree.files.get(path) for path in files} == files


def test_a_tree_cannot_grow_without_end(tree):
    for _ in range(40):
        run(tree, "cat /a/x.txt >> /a/x.txt")
    assert sum(map(len, tree.files.values())) <= MOST_BYTES
    assert "No space left" in run(tree, "cat /a/x.txt /a/x.txt > /b/big")
    for number in range(MOST_ENTRIES):
        run(tree, f"mkdir /m{number}")
    assert len(tree.folders) + len(tree.files) <= MOST_ENTRIES
