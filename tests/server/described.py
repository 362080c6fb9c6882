"""What a server's own OpenAPI document says, and whether its answers are as it says. Refuses to know any route."""

import copy
import json
import socket
from http.client import HTTPConnection
from typing import Any

from jsonschema import Draft202012Validator

KEY = "secret"


class Prompt(HTTPConnection):
    """A connection on which a body, which is a packet of its own, does not wait until its head was received."""

    def connect(self) -> None:
        """Connect, also again."""
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Described:
    """A server's document, and one connection to the server."""

    def __init__(self, port: int) -> None:
        self.connection = Prompt("127.0.0.1", port, timeout=30)
        status, _, text = self.call("GET", "/api-doc/openapi.json")
        assert status == 200
        self.document: dict[str, Any] = json.loads(text)
        self.closed = _closed(copy.deepcopy(self.document["components"]))

    def call(
        self, method: str, path: str, body: bytes | None = None, media: str | None = None
    ) -> tuple[int, str, str]:
        """Status, media type and text of an answer."""
        headers = {"Authorization": f"Bearer {KEY}"} | ({"Content-Type": media} if media else {})
        try:
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            text = response.read().decode()
        except BaseException:
            self.connection.close()
            raise
        return response.status, response.headers.get("content-type") or "", text

    def post(self, path: str, body: Any) -> tuple[int, str, str]:
        # JSON has no infinity, and neither do the schemas.
        data = json.dumps(body, allow_nan=False).encode()
        return self.call("POST", path, data, "application/json")

    def operations(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Path, method and description of each operation."""
        paths = self.document["paths"]
        return [(path, method, paths[path][method]) for path in paths for method in paths[path]]

    def request_schema(self, path: str) -> dict[str, Any]:
        """The schema of a route's body, with the schemas that it refers to in their places."""
        content = self.document["paths"][path]["post"]["requestBody"]["content"]
        inlined = self._inlined(content["application/json"]["schema"])
        assert isinstance(inlined, dict)
        return inlined

    def _inlined(self, schema: Any) -> Any:
        if isinstance(schema, list):
            return [self._inlined(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        if reference := schema.get("$ref"):
            return self._inlined(self._resolved(reference))
        return {
            key: self._inlined(value)
            for key, value in schema.items()
            if key not in {"description", "examples"}
        }

    def _resolved(self, reference: str) -> Any:
        value: Any = self.document
        for key in reference.removeprefix("#/").split("/"):
            value = value[key]
        return value

    def check(self, path: str, method: str, answer: tuple[int, str, str]) -> None:
        """Asserts that an answer is one of those that the document tells of."""
        status, media, text = answer
        response = self.document["paths"][path][method]["responses"].get(str(status))
        assert response is not None, f"{status} of {path} is not in the document: {text}"
        if reference := response.get("$ref"):
            response = self._resolved(reference)
        content = response.get("content")
        if content is None:
            assert text == "", f"{status} of {path} has a body: {text}"
            return
        described = {name.partition(";")[0]: value["schema"] for name, value in content.items()}
        schema = described.get(media.partition(";")[0])
        assert schema is not None, f"{status} of {path} is {media}: {text}"
        validator = Draft202012Validator(schema | {"components": self.closed})
        for value in _values(media, text):
            errors = [error.message for error in validator.iter_errors(value)]
            assert not errors, f"{status} of {path}: {errors} in {value}"


def _values(media: str, text: str) -> list[Any]:
    """The JSON values of an answer: of each event of a stream."""
    if media.startswith("application/json"):
        return [json.loads(text)]
    if not media.startswith("text/event-stream"):
        return [text]
    events = [event.removeprefix("data: ") for event in text.split("\n\n") if event.startswith("data: ")]
    assert events, text
    return [json.loads(event) for event in events if event != "[DONE]"]


def _closed(schema: Any) -> Any:
    """Objects of answers have no keys but those that they list."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return {key: _closed(value) for key, value in schema.items()}


def is_allowed(schema: Any, body: Any) -> bool:
    """Whether a schema of requests allows a body."""
    return bool(Draft202012Validator(schema).is_valid(body))
