"""Values that a schema allows, and values a step away from them. Knows the words of the API's document, and no route."""

import copy
import math
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

SCHEMAS = [
    True,
    {"type": "object"},
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "size": {"type": "integer"}},
        "required": ["city"],
    },
    {"type": "array", "items": {"enum": ["a", 1, None]}, "maxItems": 3},
    {"$ref": "#/$defs/tree", "$defs": {"tree": {"properties": {"next": {"$ref": "#/$defs/tree"}}}}},
    {"type": "nonsense"},
    '{"type": "boolean"}',
    "{",
]
"""What stands where a JSON Schema is wanted, among others those that make no sense."""
FEW = 4
"""Most items of a list, and most further keys of an object, that say nothing of their number."""

TEXT = st.text(max_size=12)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e40, 1e40) | TEXT
ANYTHING = SCALARS | st.lists(SCALARS, max_size=FEW) | st.dictionaries(TEXT, SCALARS, max_size=FEW)
WRONG = st.just("taken away") | ANYTHING
"""What takes a value's place in a body that was allowed."""


def bodies(schema: Any) -> st.SearchStrategy[Any]:
    """Values that a schema without references allows."""
    if schema is True or schema == {}:
        return ANYTHING
    if schema.get("contentMediaType") == "application/json":
        return st.sampled_from(SCHEMAS)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    forms = schema.get("anyOf") or schema.get("oneOf")
    if forms and "properties" not in schema:
        return st.one_of([bodies(form) for form in forms])
    types = schema.get("type", [])
    types = types if isinstance(types, list) else [types]
    if not types:
        return ANYTHING
    strategy = st.one_of([_of_type(kind, schema) for kind in types])
    # Which of its fields an object needs is told by its forms.
    return strategy.filter(Draft202012Validator(schema).is_valid) if forms else strategy


def _of_type(kind: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    match kind:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return _integers(schema)
        case "number":
            return _numbers(schema)
        case "string":
            return _strings(schema)
        case "array":
            return _lists(schema)
        case "object":
            return _objects(schema)
    raise AssertionError(f"{kind!r} is no type")


def _integers(schema: dict[str, Any]) -> st.SearchStrategy[int]:
    least, most = schema.get("minimum"), schema.get("maximum")
    borders = [border for border in (least, most) if border is not None]
    near = (
        st.integers(least, least + 9 if most is None else min(least + 9, most))
        if least is not None
        else st.integers()
    )
    return near | st.integers(least, most) | st.sampled_from(borders or [0])


def _numbers(schema: dict[str, Any]) -> st.SearchStrategy[float]:
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    open_least, open_most = "exclusiveMinimum" in schema, "exclusiveMaximum" in schema
    all_of_them = st.floats(
        least, most, exclude_min=open_least, exclude_max=open_most, allow_nan=False, allow_infinity=False
    )
    low, high = (-math.inf if least is None else least), (math.inf if most is None else most)
    middle = st.floats(max(low, -2.0), min(high, 2.0)).map(lambda value: round(value, 2))
    fits = Draft202012Validator({key: schema[key] for key in schema if "imum" in key}).is_valid
    whole = st.integers(math.ceil(max(low, -9)), math.floor(min(high, 9)))
    return all_of_them | middle.filter(fits) | whole.filter(fits)


def _strings(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    if pattern := schema.get("pattern"):
        return st.from_regex(pattern.replace("$", r"\Z"))
    least = schema.get("minLength", 0)
    return st.text(min_size=least, max_size=min(schema.get("maxLength", 12), 12))


def _lists(schema: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    if parts := schema.get("prefixItems"):
        return st.tuples(*map(bodies, parts)).map(list)
    least = schema.get("minItems", 0)
    return st.lists(
        bodies(schema.get("items", True)), min_size=least, max_size=min(schema.get("maxItems", FEW), FEW)
    )


def _objects(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    properties = schema.get("properties", {})
    required = {name: bodies(properties[name]) for name in schema.get("required", [])}
    optional = {name: bodies(field) for name, field in properties.items() if name not in required}
    further = schema.get("additionalProperties")
    if not properties and not required:
        names = st.from_regex(
            schema.get("propertyNames", {}).get("pattern", "^[a-z]{1,5}$").replace("$", r"\Z")
        )
        most = min(schema.get("maxProperties", FEW), FEW)
        return st.dictionaries(names, ANYTHING if further is None else bodies(further), max_size=most)

    @st.composite
    def objects(draw: st.DrawFn) -> dict[str, Any]:
        least = 1 if schema.get("minProperties") and not required else 0
        chosen = (
            draw(st.lists(st.sampled_from(sorted(optional)), unique=True, min_size=least, max_size=6))
            if optional
            else []
        )
        return {
            name: draw(value)
            for name, value in (required | {name: optional[name] for name in chosen}).items()
        }

    return objects()


def changed(body: Any, where: int, what: Any) -> Any:
    """The body with one of its values, counted by `where`, replaced or taken away."""
    body = copy.deepcopy(body)
    places = list(_places(body))
    if not places:
        return what
    holder, key = places[where % len(places)]
    if what == "taken away" and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = what
    return body


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from _places(value[key])
