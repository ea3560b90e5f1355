"""Where a request goes: segments as they were encoded, below whatever prefix."""

from typing import Any
from urllib.parse import unquote

import pytest

from eventbus_mp.addons.web.app import path_of


def scope(raw: str, root: str = "", path: str | None = None) -> dict[str, Any]:
    """What uvicorn and Starlette make of a path: the prefix is part of both, or, with `path`, taken off the decoded."""
    return {
        "path": unquote(raw.partition("?")[0]) if path is None else path,
        "raw_path": raw.encode(),
        "root_path": root,
    }


@pytest.mark.parametrize(
    ("raw", "segments"),
    [
        ("/", [""]),
        ("/topics", ["topics"]),
        ("/topics/a%2Fb/events/x%2Fy", ["topics", "a/b", "events", "x/y"]),
        ("/topics/a/b/events", ["topics", "a", "b", "events"]),
        ("/topics/%2E%2E%2Fsecret", ["topics", "../secret"]),
        ("/../../etc/passwd", ["..", "..", "etc", "passwd"]),
        ("/topics/%25", ["topics", "%"]),
        ("/topics/%252F", ["topics", "%2F"]),
        ("/topics/gr%C3%B6%C3%9Fe", ["topics", "größe"]),
        ("/topics/%ff", ["topics", "\ufffd"]),
        ("/topics/", ["topics", ""]),
        ("//topics", ["", "topics"]),
    ],
)
def test_segments(raw: str, segments: list[str]) -> None:
    assert path_of(scope(raw)) == segments
    assert path_of(scope(f"/deep/er{raw}", "/deep/er")) == segments
    assert path_of(scope(f"/deep/er{raw}", "/deep/er", unquote(raw))) == segments, "the prefix was taken off one"
    assert path_of(scope(raw, "/deep/er")) == segments, "a proxy has taken the prefix off"


def test_the_root_without_its_slash() -> None:
    assert path_of(scope("/bus", "/bus")) == []


def test_a_prefix_that_only_begins_alike_is_none() -> None:
    assert path_of(scope("/busses/topics", "/bus")) == ["busses", "topics"]


def test_a_server_without_raw_paths() -> None:
    assert path_of({"path": "/topics/a b", "root_path": ""}) == ["topics", "a b"]
