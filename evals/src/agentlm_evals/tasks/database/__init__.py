"""DBBench: a question about a table, or a change to it, in SQL on a live engine; at most 15 statements, then an answer.

SELECT items compare the answer with the label, the others the table's hash. The published harness evaluates the answer as
Python; here it is read as a literal. Refuses to know how engines work.
"""

import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from anyio.to_thread import run_sync

from agentlm_evals.environments.database import INSTRUCTION
from agentlm_evals.errors import DataError, EnvironmentFault
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Decoding
from agentlm_evals.outcome import Score, format_or_limit, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING
from agentlm_evals.protocols.window import sampled, stripped_window
from agentlm_evals.task import (
    Agent,
    Average,
    Group,
    Metric,
    Missing,
    Option,
    Sample,
    Setting,
    Task,
    own_samples,
    read_lines,
    scripted,
)
from agentlm_evals.tasks.database import mariadb, pool
from agentlm_evals.tasks.database.engine import Session
from agentlm_evals.tasks.database.item import SELECT, read_table, statement_type
from agentlm_evals.tasks.database.published import FILES, PUBLISHED
from agentlm_evals.tasks.database.rules import (
    Reply,
    feedback,
    hash_text,
    read_list,
    read_reply,
    same,
    table_hash,
)

ROUNDS = 15
READY = "Ok."
SPLITS = {
    "std": ("dbbench/standard.jsonl", "database/standard.jsonl", "standard.jsonl"),
    "dev": ("dbbench/dev.jsonl", "database/dev.jsonl", "dev.jsonl"),
}


class Database(Task):
    """Mean of the accuracies on SELECT, INSERT and UPDATE items."""

    name, title, group = "database", "Database", Group.HELD_IN
    metric = Metric("macro accuracy", average=Average.MACRO)
    published_mean = 11.92
    protocols = (AGENTLM, AGENTTUNING)
    max_samples = 300
    sources = PUBLISHED
    source_files = FILES
    assumptions = MappingProxyType(
        {AGENTTUNING: "MySQL's error texts where the engine is not MySQL: the engine's own"}
    )
    options = (
        Option("engine", pool.AUTO, "which engine runs the statements; auto: MariaDB where installed, else SQLite",
               (pool.AUTO, pool.MARIADB, pool.SQLITE)),
        Option("url", "", "a MySQL server instead (mysql://user:password@host:3306); items' databases come and go on it",
               decides=False),
        Option("workers", "4", "engines, and so episodes, at once; a MariaDB takes about 100 MB", least=1, decides=False),
        Option("split", "auto", "the published set; auto: std where it is there, else dev", ("auto", "std", "dev")),
    )  # fmt: skip

    # --- what it needs -------------------------------------------------------------------------------------------
    def requirements(self, setting: Setting) -> list[Missing]:
        """MariaDB, if it was asked for by name."""
        asked = setting.options["engine"] == pool.MARIADB and not setting.options["url"]
        if asked and mariadb.server_program() is None:
            return [Missing("a MariaDB server", mariadb.HOW)]
        return []

    def capacity(self, setting: Setting) -> int:
        """As many episodes as engines. On a server by URL one: two items may want the same database name."""
        return 1 if setting.options["url"] else int(setting.options["workers"])

    def versions(self, setting: Setting) -> Mapping[str, str]:
        """The engine, as far as it is known before one runs; each episode's notes have the version itself."""
        if setting.options["url"]:
            return {"engine": "a MySQL server by URL"}
        if pool.choose(setting.options["engine"]) == pool.MARIADB and (program := mariadb.server_program()):
            return {"engine": mariadb.server_version(program).split("Ver ")[-1].split(" for ")[0].strip()}
        return {"engine": f"SQLite {sqlite3.sqlite_version} with a MySQL dialect"}

    # --- items ---------------------------------------------------------------------------------------------------
    def samples(self, setting: Setting) -> list[Sample]:
        """The published items, or our own."""
        source = setting.source
        if source.is_own:
            rows = own_samples(__file__)
        else:
            split = setting.options.get("split", "auto")
            names = SPLITS["std"] + SPLITS["dev"] if split == "auto" else SPLITS[split]
            rows = read_lines(source.path(*names))
        samples = []
        for index, row in enumerate(rows):
            try:
                kind = statement_type(row["type"])
                target = row["label"] if kind == SELECT else row["answer_md5"]
                body = {
                    name: row[name] for name in ("description", "add_description", "table", "type", "label")
                }
            except KeyError as error:
                raise DataError(f"DBBench's item {index} lacks {error}") from error
            samples.append(Sample(str(row.get("id", index)), body, target, kind))
        return samples

    # --- an episode ----------------------------------------------------------------------------------------------
    def decoding(self, protocol: str) -> Decoding:
        """128 tokens; the published harness samples at 0.7 (its client says otherwise to the server than it means)."""
        if protocol == AGENTTUNING:
            return sampled(128)
        return Decoding(max_new_tokens=256)

    @asynccontextmanager
    async def environment(self, setting: Setting) -> AsyncIterator[pool.EnginePool]:
        """The engines."""
        options = setting.options
        engines = pool.EnginePool(pool.maker(options["engine"], options["url"]), self.capacity(setting))
        try:
            yield engines
        finally:
            await engines.close()

    async def solve(self, episode: Episode) -> Any:
        """The dialogue; returns how it ended, the answer's text, and the table's hash if the item changes it."""
        body = episode.sample.input
        try:
            table = read_table(body["table"], repair=episode.protocol == AGENTLM)
        except DataError as error:
            raise EnvironmentFault(f"no engine loads this item: {error}") from error
        self._pose(episode)
        async with episode.environment.session(table) as (engine, session):
            episode.notes["engine"] = engine.version()
            end, reply = await self._talk(episode, session)
            digest = None
            if episode.sample.category != SELECT:
                rows = await run_sync(session.rows)
                digest = None if rows is None else hash_text(table_hash(rows))
        return {"end": end, "answer": reply.answer, "hash": digest}

    def _pose(self, episode: Episode) -> None:
        body = episode.sample.input
        question = f"{body['description']}\n{body['add_description']}"
        if episode.protocol == AGENTTUNING:
            episode.user(episode.texts["instruction"])
            episode.example(episode.texts["ready"])
            episode.user(question)
        else:
            episode.user(f"{INSTRUCTION}\n\n{question}")

    async def _talk(self, episode: Episode, session: Session) -> tuple[str, Reply]:
        published = episode.protocol == AGENTTUNING
        for round_ in range(ROUNDS + 1):
            reply = read_reply(
                await episode.ask(history=stripped_window if published else None), published=published
            )
            if reply.action == "Answer" or (published and reply.action != "Operation"):
                return "answer" if reply.answer is not None else "no final answer", reply
            if reply.action != "Operation":
                return "no action", reply
            if reply.sql is None:
                return "no statement", reply
            if round_ == ROUNDS:
                break
            episode.user(feedback(await run_sync(session.execute, reply.sql)))
        return "rounds", Reply()

    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        """By hash or by label. A change that is right counts even if the dialogue ended in no due form, as published."""
        if sample.category != SELECT:
            details: dict[str, Any] = {"hash": answer["hash"]}
            is_right = answer["hash"] == sample.target
        elif answer["answer"] is None:
            details, is_right = {}, False
        else:
            given = read_list(answer["answer"], published=protocol == AGENTTUNING)
            details = {"given": given}
            is_right = same(given, [str(element) for element in sample.target])
        if is_right:
            return right(**details)
        if answer["end"] == "rounds":
            return format_or_limit(f"{ROUNDS} statements and no answer", **details)
        return wrong(**details) if answer["end"] == "answer" else format_or_limit(answer["end"], **details)

    def gold(self, sample: Sample, protocol: str) -> Agent:
        """The gold statement and a word; for a question the label, since the data's own query is none to rely on."""
        del protocol  # both read it
        label = sample.input["label"]
        if sample.category == SELECT:
            return scripted(_answer(label))
        statement = str(label[0]).replace("\n", " ")
        return scripted(
            f"I change the table.\nAction: Operation\n```sql\n{statement}\n```", _answer(["done"])
        )


def _answer(values: list[Any]) -> str:
    return f"I am done.\nAction: Answer\nFinal Answer: {json.dumps([str(v) for v in values], ensure_ascii=False)}"


TASK = Database()
