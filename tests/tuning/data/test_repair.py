"""Repair joins what one speaker said in a row, and never what is trained with what is not; who said it tells duplicates."""

from agentlm.tuning.data.filters.duplicates import content_hash
from agentlm.tuning.data.repair import repaired
from agentlm.tuning.record import Conversation, Message


def chat(*messages: Message) -> Conversation:
    return Conversation(id="a", source="s", messages=messages)


def test_answers_are_joined_only_where_both_are_trained_or_neither() -> None:
    question, trained = Message("user", "?"), Message("assistant", "Yes.")
    untrained = Message("assistant", "No.", loss=False)
    joined = repaired(chat(question, trained, trained)).messages
    assert joined == (question, Message("assistant", "Yes.\n\nYes."))
    assert repaired(chat(question, untrained, trained)).messages == (question, untrained, trained)
    neither = repaired(chat(question, untrained, untrained)).messages
    assert neither == (question, Message("assistant", "No.\n\nNo.", loss=False))


def test_the_same_words_by_another_speaker_are_no_duplicate() -> None:
    system, user = (chat(Message(role, "Add."), Message("assistant", "1")) for role in ("system", "user"))
    assert content_hash(system) != content_hash(user)
