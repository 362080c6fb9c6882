"""A tiny shell over a file tree in memory: nothing is executed and nothing outside is touched. After AgentBench's OS task.

Refuses to know tasks; `shell_tasks.py` has them. Commands: ls, cat, wc, head, tail, sort, grep, find, echo, mkdir, touch,
rm, mv, cp, cd, pwd; pipes, `>`, `>>` and `&&`.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial

from agentlm_evals.errors import EvalError

MOST_BYTES = 65_536
"""Of all files together: output of a command beyond it is an error, so that no agent can grow the tree without end."""
MOST_ENTRIES = 256


class ShellError(EvalError):
    """What a command says on its standard error."""


Options = set[str]
Command = Callable[["Tree", Options, list[str], str], str]


@dataclass(slots=True)
class Tree:
    """Files by absolute path, folders as a set, and where the shell stands."""

    files: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=lambda: {"/"})
    here: str = "/"

    def copy(self) -> "Tree":
        """A tree that changes apart from this one."""
        return Tree(dict(self.files), set(self.folders), self.here)

    def path(self, name: str) -> str:
        """The absolute path of a name, `.` and `..` resolved."""
        parts: list[str] = []
        for part in (name if name.startswith("/") else f"{self.here}/{name}").split("/"):
            if part == "..":
                parts = parts[:-1]
            elif part not in ("", "."):
                parts.append(part)
        return "/" + "/".join(parts)

    def children(self, folder: str) -> list[str]:
        """Names in a folder, sorted."""
        prefix = folder.rstrip("/") + "/"
        inside = {
            path.removeprefix(prefix).split("/")[0]
            for path in (*self.files, *self.folders)
            if path.startswith(prefix)
        }
        return sorted(inside - {""})

    def read(self, name: str, command: str) -> str:
        """A file's text."""
        path = self.path(name)
        if path in self.folders:
            raise ShellError(f"{command}: {name}: Is a directory")
        if path not in self.files:
            raise ShellError(f"{command}: {name}: No such file or directory")
        return self.files[path]

    def write(self, name: str, text: str, command: str) -> None:
        """Creates or replaces a file; its folder must exist."""
        path = self.path(name)
        if path in self.folders:
            raise ShellError(f"{command}: {name}: Is a directory")
        if path.rsplit("/", 1)[0] not in self.folders | {""}:
            raise ShellError(f"{command}: {name}: No such file or directory")
        size = sum(map(len, self.files.values())) + len(text)
        if size > MOST_BYTES or len(self.files) + len(self.folders) >= MOST_ENTRIES:
            raise ShellError(f"{command}: {name}: No space left on device")
        self.files[path] = text

    def under(self, path: str) -> tuple[list[str], list[str]]:
        """Files and folders at a path and below."""
        prefix = path.rstrip("/") + "/"
        return (
            [file for file in self.files if file == path or file.startswith(prefix)],
            [folder for folder in self.folders if folder == path or folder.startswith(prefix)],
        )


def run(tree: Tree, line: str) -> str:
    """Runs a command line on the tree and returns what a terminal would show. No input raises."""
    shown: list[str] = []
    for one in map(str.strip, re.split(r"&&|;|\n", line)):
        if not one:
            continue
        try:
            shown.append(_pipeline(tree, one))
        except ShellError as error:
            shown.append(f"{error}\n")
            break
    return "".join(shown).rstrip("\n")


def _pipeline(tree: Tree, line: str) -> str:
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|>")
        lexer.whitespace_split = True
        tokens = list(lexer)
    except ValueError as error:
        raise ShellError(f"bash: syntax error: {error}") from error
    target, mode = "", ""
    if len(tokens) >= 2 and tokens[-2] in (">", ">>"):
        target, mode, tokens = tokens[-1], tokens[-2], tokens[:-2]
    text = ""
    for part in _split(tokens, "|"):
        if not part:
            raise ShellError("bash: syntax error near '|'")
        text = _command(tree, part, text)
    if not target:
        return text
    before = tree.files.get(tree.path(target), "") if mode == ">>" else ""
    tree.write(target, before + text, "bash")
    return ""


def _split(tokens: Sequence[str], at: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token == at:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _command(tree: Tree, words: list[str], stdin: str) -> str:
    name, *rest = words
    if name not in COMMANDS:
        raise ShellError(f"bash: {name}: command not found")
    options, names = set(), []
    takes = "n" if name in ("head", "tail") else ""
    for word in rest:
        if name == "find" or not word.startswith("-") or len(word) == 1:
            names.append(word)
        elif takes and word[1:].isdigit():
            names.insert(0, word[1:])
            options.add("n")
        else:
            options |= set(word[1:])
    expanded = (
        [match for word in names for match in _expand(tree, word)] if name not in ("find", "grep") else names
    )
    return COMMANDS[name](tree, options, expanded, stdin)


def _expand(tree: Tree, word: str) -> list[str]:
    """Names that match a pattern in the last part of a path; the word itself where none does."""
    folder, slash, pattern = word.rpartition("/")
    if "*" not in pattern:
        return [word]
    base = tree.path(folder or ("/" if slash else "."))
    found = [f"{folder}{slash}{child}" for child in tree.children(base) if fnmatchcase(child, pattern)]
    return found or [word]


def _inputs(tree: Tree, names: Sequence[str], stdin: str, command: str) -> str:
    return "".join(tree.read(name, command) for name in names) if names else stdin


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _ls(tree: Tree, _options: Options, names: list[str], _stdin: str) -> str:
    shown: list[str] = []
    for name in names or ["."]:
        path = tree.path(name)
        if path in tree.files:
            shown.append(name)
        elif path in tree.folders:
            shown += tree.children(path)
        else:
            raise ShellError(f"ls: {name}: No such file or directory")
    return _lines(shown)


def _cat(tree: Tree, _options: Options, names: list[str], stdin: str) -> str:
    return _inputs(tree, names, stdin, "cat")


def _wc(tree: Tree, options: Options, names: list[str], stdin: str) -> str:
    text = _inputs(tree, names, stdin, "wc")
    counts = {"l": text.count("\n"), "w": len(text.split()), "c": len(text.encode())}
    chosen = [str(count) for letter, count in counts.items() if letter in options or not options]
    return " ".join([*chosen, *names[:1]]) + "\n"


def _end(tree: Tree, options: Options, names: list[str], stdin: str, command: str) -> str:
    count = 10
    if "n" in options:
        if not names or not names[0].isdigit():
            raise ShellError(f"{command}: the number of lines is missing")
        count = int(names.pop(0))
    lines = _inputs(tree, names, stdin, command).splitlines()
    return _lines(lines[:count] if command == "head" else lines[len(lines) - min(count, len(lines)) :])


def _sort(tree: Tree, options: Options, names: list[str], stdin: str) -> str:
    lines = sorted(_inputs(tree, names, stdin, "sort").splitlines(), reverse="r" in options)
    return _lines(sorted(set(lines)) if "u" in options else lines)


def _grep(tree: Tree, options: Options, names: list[str], stdin: str) -> str:
    if not names:
        raise ShellError("grep: a pattern is missing")
    pattern, *where = names
    files = [match for word in where for match in _expand(tree, word)]
    if "r" in options:
        files = sorted(file for name in files or ["."] for file in tree.under(tree.path(name))[0])
    texts = {file: tree.read(file, "grep") for file in files} if where or files else {"": stdin}
    shown: list[str] = []
    for file, text in texts.items():
        # A plain word, not an expression: an agent's expression could run for ever.
        hits = [line for line in text.splitlines() if _contains(line, pattern, options)]
        prefix = f"{file}:" if len(texts) > 1 else ""
        if "l" in options:
            shown += [file] if hits else []
        elif "c" in options:
            shown.append(f"{prefix}{len(hits)}")
        else:
            shown += [prefix + line for line in hits]
    return _lines(shown)


def _contains(line: str, pattern: str, options: Options) -> bool:
    found = pattern.lower() in line.lower() if "i" in options else pattern in line
    return found != ("v" in options)


def _find(tree: Tree, _options: Options, names: list[str], _stdin: str) -> str:
    start = names[0] if names and not names[0].startswith("-") else "."
    tests = dict(zip(names[1::2], names[2::2], strict=False)) if start != "." or names[:1] == ["."] else {}
    files, folders = tree.under(tree.path(start))
    if not files and not folders:
        raise ShellError(f"find: {start}: No such file or directory")
    found = {"f": files, "d": folders}.get(tests.get("-type", ""), files + folders)
    return _lines(
        sorted(path for path in found if fnmatchcase(path.rsplit("/", 1)[1], tests.get("-name", "*")))
    )


def _echo(_tree: Tree, _options: Options, names: list[str], _stdin: str) -> str:
    return " ".join(names) + "\n"


def _mkdir(tree: Tree, options: Options, names: list[str], _stdin: str) -> str:
    for name in names:
        path = tree.path(name)
        parents = ["/" + "/".join(path.split("/")[1:depth]) for depth in range(2, path.count("/") + 1)]
        if "p" not in options and path in tree.folders | set(tree.files):
            raise ShellError(f"mkdir: {name}: File exists")
        if "p" not in options and not set(parents) <= tree.folders:
            raise ShellError(f"mkdir: {name}: No such file or directory")
        if len(tree.files) + len(tree.folders) + len(parents) >= MOST_ENTRIES:
            raise ShellError(f"mkdir: {name}: No space left on device")
        tree.folders |= {*parents, path}
    return ""


def _touch(tree: Tree, _options: Options, names: list[str], _stdin: str) -> str:
    for name in names:
        tree.write(name, tree.files.get(tree.path(name), ""), "touch")
    return ""


def _rm(tree: Tree, options: Options, names: list[str], _stdin: str) -> str:
    for name in names:
        path = tree.path(name)
        files, folders = tree.under(path)
        if not files and not folders and "f" not in options:
            raise ShellError(f"rm: {name}: No such file or directory")
        if path in tree.folders and "r" not in options:
            raise ShellError(f"rm: {name}: Is a directory")
        for file in files:
            del tree.files[file]
        tree.folders -= set(folders) - {"/"}
    return ""


def _place(tree: Tree, names: Sequence[str], command: str) -> tuple[str, str]:
    """Source and final target of mv and cp: into a folder under the old name, else under the new name."""
    if len(names) != 2:
        raise ShellError(f"{command}: a source and a target are needed")
    source, target = tree.path(names[0]), tree.path(names[1])
    tree.read(names[0], command)
    if target in tree.folders:
        target = f"{target.rstrip('/')}/{source.rsplit('/', 1)[1]}"
    return source, target


def _cp(tree: Tree, _options: Options, names: list[str], _stdin: str) -> str:
    source, target = _place(tree, names, "cp")
    tree.write(target, tree.files[source], "cp")
    return ""


def _mv(tree: Tree, _options: Options, names: list[str], _stdin: str) -> str:
    source, target = _place(tree, names, "mv")
    if source != target:
        text = tree.files.pop(source)
        try:
            tree.write(target, text, "mv")
        except ShellError:
            tree.files[source] = text
            raise
    return ""


def _cd(tree: Tree, _options: Options, names: list[str], _stdin: str) -> str:
    path = tree.path(names[0] if names else "/")
    if path not in tree.folders:
        raise ShellError(f"cd: {names[0]}: No such file or directory")
    tree.here = path
    return ""


COMMANDS: Mapping[str, Command] = {
    "ls": _ls,
    "cat": _cat,
    "wc": _wc,
    "head": partial(_end, command="head"),
    "tail": partial(_end, command="tail"),
    "sort": _sort,
    "grep": _grep,
    "find": _find,
    "echo": _echo,
    "mkdir": _mkdir,
    "touch": _touch,
    "rm": _rm,
    "mv": _mv,
    "cp": _cp,
    "cd": _cd,
    "pwd": lambda tree, *_: f"{tree.here}\n",
}
