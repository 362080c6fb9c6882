"""How an answer is compared with the right one: SQuAD's F1, as HotpotQA takes it. Refuses to know who answers."""

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SIGNS = str.maketrans("", "", string.punctuation)
_VERDICTS = ("yes", "no", "noanswer")
"""Answers that are right or wrong as a whole."""


def plain(answer: str) -> str:
    """Lower case, without ASCII punctuation and English articles, one blank between words."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_SIGNS)).split())


def is_exact(answer: str, right: str) -> bool:
    """Whether both are the same when written plainly."""
    return plain(answer) == plain(right)


def f1(answer: str, right: str) -> float:
    """Harmonic mean of the shares of words that the two have in common, 0 to 1."""
    given, wanted = plain(answer), plain(right)
    if given != wanted and (given in _VERDICTS or wanted in _VERDICTS):
        return 0.0
    words, rights = given.split(), wanted.split()
    common = sum((Counter(words) & Counter(rights)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(rights)
    return 2 * precision * recall / (precision + recall)
