"""Whatever stands in a row, importing it gives a record that can be written and read, or a reason; never a traceback."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentlm.tuning import record
from agentlm.tuning.data import formats
from agentlm.tuning.data.errors import RowError
from agentlm.tuning.data.filtering import Filter, FilterSettings
from agentlm.tuning.data.formats.context import ROLES, Context
from agentlm.tuning.data.repair import repaired, without_html

TEXTS = (
    "", " ", "Hi", "Ok.", "a\nObservation: b\nThought: c", "<div><p>x</p>", "1.0", "```", "{}", "[]", "null", "webshop_1",
    '{"name": "f", "arguments": {"a": 1}}', '[{"name": "f"}]', "Observation: Episode finished, reward = 1",
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(TEXTS)
    | st.text(st.characters(codec="utf-8"), max_size=4)
)
KEYS = (
    "id", "source", "messages", "conversations", "conversation", "items", "item_id", "content", "class_", "instruction",
    "input", "output", "state_action_pairs", "task_description", "tools", "functions", "system", "reward", "tags", "meta",
    "model", "history", "details", "from", "value", "role", "loss", "weight", "name", "tool_calls", "tool_call_id",
    "function_call", "function", "arguments", "kwargs", "language", "description", "state", "action", "type", "text",
    "axtree", "url", "image_observation", "parameters",
)  # fmt: skip
CLASSES = (
    "text_observation", "message_action", "code_action", "api_action", "web_observation", "image_observation",
)  # fmt: skip


def _object(values):
    special = {
        "class_": st.sampled_from(CLASSES) | values,
        "role": st.sampled_from(list(ROLES)) | values,
        "from": st.sampled_from(list(ROLES)) | values,
    }
    some = st.lists(st.sampled_from(KEYS), max_size=6, unique=True)
    return some.flatmap(lambda keys: st.fixed_dictionaries({key: special.get(key, values) for key in keys}))


ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | _object(inner), max_leaves=20)
TURN = st.fixed_dictionaries(
    {
        "from": st.sampled_from(list(ROLES)),
        "value": st.sampled_from(["Hi", "", '{"name": "f", "arguments": {}}']),
    },
    optional={"loss": st.sampled_from([True, False, None, 1]), "weight": st.sampled_from([0, 1, 2, None])},
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "function"]), "content": SCALARS},
    optional={
        "tool_calls": ANYTHING,
        "function_call": ANYTHING,
        "tool_call_id": SCALARS,
        "name": SCALARS,
        "refusal": SCALARS,
    },
)
STEP = st.fixed_dictionaries(
    {"class_": st.sampled_from(CLASSES)}, optional=dict.fromkeys(set(KEYS) - {"class_"}, ANYTHING)
)
ROWS = (
    ANYTHING
    | st.fixed_dictionaries(
        {"conversations": st.lists(TURN, max_size=6)}, optional={"tools": ANYTHING, "system": SCALARS}
    )
    | st.fixed_dictionaries(
        {"messages": st.lists(MESSAGE, max_size=6)}, optional={"tools": ANYTHING, "reward": SCALARS}
    )
    | st.fixed_dictionaries({"content": st.lists(STEP, max_size=4)})
    | st.fixed_dictionaries({"id": SCALARS, "source": SCALARS, "messages": st.lists(MESSAGE, max_size=4)})
)
CONTEXT = Context("source", "fallback", ("tag",))


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(ROWS, st.sampled_from([None, *formats.FORMATS]))
def test_a_row_becomes_a_record_or_a_reason(row, forced):
    try:
        _, made = formats.convert(json.loads(json.dumps(row)), CONTEXT, forced)
    except RowError:
        return
    changed = [made, without_html(made), repaired(made)]
    for each in changed:
        line = each.dump()
        assert record.parse(line).dump() == line
        fault = Filter(FilterSettings()).fault(each)
        assert fault is None or all(fault)
