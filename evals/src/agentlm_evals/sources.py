"""Where tasks' official items come from: addresses, checksums where we know them, licences. Refuses to fetch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class File:
    """One file of an official source."""

    url: str
    path: str
    """Where it is kept, below the data directory; a mirror has it at the same place, or by its last name alone."""
    sha256: str | None = None
    """Pinned; None: recorded when it is first fetched, and held to that from then on."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """What one name of `data fetch` brings."""

    files: tuple[File, ...]
    licence: str
    about: str
    make: Callable[[Path], str] | None = None
    """Makes of the files, once all are in the data directory, what a task reads; returns what it has made, in words."""


_RAW = "https://raw.githubusercontent.com"
_TUNING = f"{_RAW}/THUDM/AgentTuning/e33a45d7eab2b63cac4d1956da1e6377fca9fcc7"
_BENCH = f"{_RAW}/THUDM/AgentBench/578c5e9f706fc2dd96188ca6c8cf9095ca0c6528/data"
_REWOO = f"{_RAW}/billxbf/ReWOO/9cd0283043ff4be0c9d614fda2789d143ca6ffd1/data"
_FASTCHAT = f"{_RAW}/lm-sys/FastChat/v0.2.31/fastchat/llm_judge/data"

_OS_FILES = {
    "data/1/stock.json": "e52d47b06201d9cad170f446429cc384541a5344fbed1cf478d99cd357508040",
    "data/2/environment.json": "4aea8438c25429144b856acb2159aab16d773519f29890dab156f04f38fdf2d5",
    "data/3/ac.json": "bc80aa92e75142b18b8c8158a2e059a45f158b303bea7249eaec1d0325e81b81",
    "data/4/N11.json": "fd288d038814c5ded8943763f96e001a3e36d5d3c7e7cca52dcd64ffe7f7241a",
    "data/4/N225.json": "36e92aeb36140d2c751558d7a63fc8e6275574e213789465fabbcffad64e94a2",
    "data/4/N37.json": "7372923d614b249e560311c1e61b1ab12afa1d5cbd955e77465d6abd74e9ddaf",
    "data/4/N4.json": "9a81d1f035de9de4a1495abcc85f7cede6f2c53783162f280ea98c76869f4393",
    "data/4/N41.json": "eb179d6da5e905031a2fe3f2709ee5c3673f8066f484ba4d8e69952891ab165e",
    "data/4/Q09.json": "757d5be008acc9eaedb664b053f324ab7d80da985453f3cf9921b18c61c7da94",
    "data/4/Q19.json": "c80d9180a794f7c574cce319b23b335329e03caa553b51449cbda832589a932b",
    "data/4/Q30.json": "d63aae719a83d31b7d632848930ab8b8cba3cd0582b579cfdb7f0b579958bb0e",
    "data/4/Q47.json": "b79657df4e238eaa0c6d26f27649deef70207123291a5206edf3f0b98eb7856c",
    "data/4/Q49.json": "a5c32d5e0da858077913d7e5006f2d32ad1ea1aa69cc5b9f21ad1d74082e5114",
    "data/5/new.json": "735d0c0b3aa8fd1bef0d969470a2ac44c0af92542365c05c5f89ce3ddb47801e",
    "data/6/new.json": "0c3234d860953ece19bf07e1f89c1d18048b1c7095f419c6d1eeaec64f7bf433",
    "data/7/bootstrap.json": "574627bffe5b01c8aaccbde631618b3c8b8fb1e4ec6de06a102e7ee2dec9b7db",
    "data/dev.json": "c5554248e6c1cb606e27d2f81025b751a490c9a5ccd37aabf4c86879a52e9274",
    "scripts/1/init/stock-log.sh": "2fc591294f8db0333a95bb382f7e83776ccc6143cca122acc201e8d4222da9fc",
    "scripts/2/init/nested_folders.sh": "541a2a42507855a5b9b2f01a6ef3d17345a5d27e53233276ecb5be495d7705f2",
    "scripts/5/checking/0.sh": "8ddd84de17464a4b6a37e96f5d6ac937ce1dd5c5196eed78bd5a55487d5b67d1",
    "scripts/5/checking/1.sh": "65ee4f3754ec893af569af2a8d97c232e2952cb884238b3dbf94e34e4001835c",
    "scripts/5/checking/2.sh": "1c06c3f29f90b9dd728faf14540bd9602f077af6777baf2c1fe13ae0b5e23285",
    "scripts/5/example/0.sh": "23970a83ef56b0b17071f3408f5ac5e81fd9108df800ca2d33144c203eabd332",
    "scripts/5/example/1.sh": "099440ccb493c66235ed6ddbfd81d83bfb56240bb1f88ebe4b775582e53dc9f3",
    "scripts/5/example/2.sh": "d21b7deca845f6d815ae7bf6656952a4082046dab0a8c856f9e89d0bce396e86",
    "scripts/dev/check/0.sh": "bc75b2778c644ec42abb46abec6eadf52812f10c02255a1c3b2b55c3ced0ae0c",
    "scripts/dev/example/0.sh": "23970a83ef56b0b17071f3408f5ac5e81fd9108df800ca2d33144c203eabd332",
    "scripts/dev/init/stock-log.sh": "2fc591294f8db0333a95bb382f7e83776ccc6143cca122acc201e8d4222da9fc",
    "train_0317/training.json": "35cbd6cc07646eab32161d64260bbcc4d0cab145a7caae69c236320a9d7c7685",
}
"""Problems and the scripts that they name, of the published, the development and the training set."""
_HOTPOTQA = tuple(
    File(f"{_TUNING}/eval_heldout/hotpotQA/src/data/{level}.joblib", f"hotpotqa/{level}.joblib", digest)
    for level, digest in (
        ("easy", "b515b20c1c3702ebbc1e50ac07ab9e244e2f28373a938930f0e87bda24d78602"),
        ("medium", "d87761f571f82c2b10daee44d4b8de9cebee016e1993e7b61894d6dff9d1984e"),
        ("hard", "b3e49c0aea1f8151fe307b3af2e7d8fa13271e2401a4c74b1e053137c37b9790"),
    )
)
_REWOO_FILES = tuple(
    File(f"{_REWOO}/{place}", f"rewoo/{place.rpartition('/')[2]}", digest)
    for place, digest in (
        ("bigbench/strategy_qa.csv", "c1fd0c271bf98741b68ac1ea3d167c5ccf2ed46da66645d5fc0ed6222e45f055"),
        ("bigbench/physics_question.csv", "7747cf185111aaa58493b5d804ba7b496cb152a6ae89a69a66a0c443adfd34aa"),
        (
            "bigbench/sports_understanding.csv",
            "5cfc24702b7a809409f42634f0b958f0d61c4d5aec8d732fd89889281c63d45e",
        ),
        ("SOTU/SOTU_QA.csv", "ae392b7f6c03dccd8672cb65c89508d461eb8d32b1444bf15ef9a54646599bd0"),
        ("docs/state_of_the_union.txt", "c8083f84e6c7dd518c0e84f1cf210f93f501ac69ef64f91c79694bbf699c9d91"),
    )
)


def _questions(directory: Path) -> str:
    """HotpotQA's three tables as lines of JSON."""
    from agentlm_evals.tasks.hotpotqa.tables import convert

    return f"hotpotqa/bolaa_300.jsonl: {convert(directory / 'hotpotqa')} questions"


DATA_SETS: Mapping[str, DataSet] = {
    "gsm8k": DataSet(
        (
            File(
                f"{_RAW}/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/test.jsonl",
                "gsm8k/test.jsonl",
                "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
            ),
        ),
        "MIT",
        "1,319 problems (openai/grade-school-math)",
    ),
    "mmlu": DataSet(
        (File("https://people.eecs.berkeley.edu/~hendrycks/data.tar", "mmlu/data.tar"),),
        "MIT",
        "14,042 questions in 57 subjects (hendrycks/test); unpacked into mmlu/data",
    ),
    "humaneval": DataSet(
        (
            File(
                f"{_RAW}/openai/human-eval/6d43fb980f9fee3c892a914eda09951f772ad10d/data/HumanEval.jsonl.gz",
                "humaneval/HumanEval.jsonl.gz",
                "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
            ),
        ),
        "MIT",
        "164 problems (openai/human-eval)",
    ),
    "mt-bench": DataSet(
        (
            File(
                f"{_FASTCHAT}/mt_bench/question.jsonl",
                "mt_bench/mt_bench_question.jsonl",
                "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
            ),
            File(
                f"{_FASTCHAT}/mt_bench/reference_answer/gpt-4.jsonl",
                "mt_bench/mt_bench_reference_answer_gpt-4.jsonl",
                "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
            ),
            File(
                f"{_FASTCHAT}/judge_prompts.jsonl",
                "mt_bench/judge_prompts.jsonl",
                "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
            ),
        ),
        "Apache-2.0",
        "80 questions, 30 reference answers, the judge's prompts (lm-sys/FastChat)",
    ),
    "database": DataSet(
        (
            File(
                f"{_BENCH}/dbbench/standard.jsonl",
                "dbbench/standard.jsonl",
                "cf8dec6fb8051f46e6171136824aaa8b8707c3affbb3185c0bad2b39bc6b71e2",
            ),
            File(
                f"{_BENCH}/dbbench/dev.jsonl",
                "dbbench/dev.jsonl",
                "eb941c58a7a5651357b19e46aa05070f6cd5a7d83ce70cefd24aa3581e1e1130",
            ),
        ),
        "Apache-2.0 (THUDM/AgentBench); WikiSQL, WikiTableQuestions and others keep their own",
        "300 and 60 items, as AgentBench corrected them",
    ),
    "os": DataSet(
        tuple(
            File(f"{_BENCH}/os_interaction/{path}", f"os_interaction/{path}", digest)
            for path, digest in _OS_FILES.items()
        ),
        "Apache-2.0 (THUDM/AgentBench)",
        "144, 26 and 1,000 problems with their scripts, as AgentBench corrected them",
    ),
    "hotpotqa": DataSet(
        _HOTPOTQA,
        "CC BY-SA 4.0 (HotpotQA; the choice is BOLAA's, held by THUDM/AgentTuning)",
        "300 questions with their paragraphs; turned into hotpotqa/bolaa_300.jsonl",
        _questions,
    ),
    "rewoo": DataSet(
        (
            *_REWOO_FILES,
            File(
                f"{_RAW}/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/train.jsonl",
                "gsm8k/train.jsonl",
                "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
            ),
            *_HOTPOTQA,
        ),
        "MIT (billxbf/ReWOO, openai/grade-school-math), Apache-2.0 (BIG-bench), CC BY-SA 4.0 (HotpotQA)",
        "six of the seven sets that fifty questions each are drawn from; TriviaQA's is only published within archives of "
        "gigabytes: the guide says how to add it",
        _questions,
    ),
    "agenttuning": DataSet(
        (),
        "none stated by THUDM/AgentTuning: for your own use only",
        "the texts of the published protocol, at commit e33a45d; read, never executed",
    ),
}
"""By the task's name. `agenttuning` takes its files from the tasks' own lists."""


def protocol_files() -> tuple[File, ...]:
    """Every file that a built task's `agenttuning` protocol is read from, with its pinned checksum."""
    from agentlm_evals.tasks import ENTRIES

    pins: dict[str, str] = {}
    for entry in ENTRIES:
        if entry.is_built:
            pins.update(entry.load().source_files)
    return tuple(
        File(f"{_TUNING}/{path}", f"agenttuning/{path}", digest) for path, digest in sorted(pins.items())
    )
