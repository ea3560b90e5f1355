"""Who may ask: hosts, origins, tokens and actions, as every request comes past them."""

import base64

import pytest

from eventbus_mp.addons.web.guard import HEADERS, Guard, host_name

TOKEN = "s3cret-ä"
ACT = {
    "host": "127.0.0.1:8321",
    "x-eventbus-action": "once",
    "content-type": "application/json; charset=utf-8",
    "sec-fetch-site": "same-origin",
    "origin": "http://127.0.0.1:8321",
}


def status(guard: Guard, method: str = "GET", **headers: str) -> int:
    """What the guard answers; 0: it lets the request pass."""
    given = {"host": "localhost:8321"} | {name.replace("_", "-"): value for name, value in headers.items()}
    refusal = guard.refusal(method, given)
    return refusal.status if refusal is not None else 0


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:80", "localhost"),
        ("127.0.0.1:8321", "127.0.0.1"),
        ("[::1]:8321", "::1"),
        ("::1", "::1"),
        ("bus.example.:443", "bus.example"),
        ("bus.example.", "bus.example"),
        ("localhost:80:80", "localhost:80:80"),
        ("localhost@evil.example", "localhost@evil.example"),
        ("", ""),
    ],
)
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8321", "[::2]"])
def test_a_host_that_is_not_ours_is_refused(host: str) -> None:
    assert status(Guard(), host=host) == 421
    assert status(Guard(["bus.example"]), host=host) == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8321", "[::1]:8321", "Bus.Example:443"])
def test_a_host_that_is_ours_passes(host: str) -> None:
    assert status(Guard(["bus.example"]), host=host) == 0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"origin": "http://localhost:8321"}, 0),
        ({"origin": "http://LOCALHOST:8321"}, 0),
        ({"origin": "http://localhost:9999"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "same-origin"}, 0),
        ({"sec_fetch_site": "none"}, 0),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 0),  # A link to the page.
    ],
)
def test_what_another_origin_sends_is_refused(headers: dict[str, str], expected: int) -> None:
    assert status(Guard(), **headers) == expected


def basic(password: str, user: str = "any") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (f"Bearer {TOKEN}", 0),
        (f"bearer  {TOKEN} ", 0),
        (basic(TOKEN), 0),
        (basic(TOKEN, user=""), 0),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        (basic("wrong"), 401),
        ("Basic %%%", 401),
        ("Digest x", 401),
        (TOKEN, 401),
    ],
)
def test_the_token_as_a_bearer_and_as_a_password(given: str, expected: int) -> None:
    assert status(Guard(token=TOKEN), authorization=given) == expected


def test_an_open_path_needs_no_token_but_a_host() -> None:
    guard = Guard(token=TOKEN)
    assert guard.refusal("GET", {"host": "localhost"}, is_open=True) is None
    assert guard.refusal("GET", {"host": "evil.example"}, is_open=True).status == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_without_actions_there_is_only_looking(method: str) -> None:
    refusal = Guard().refusal(method, ACT)
    assert (refusal.status, refusal.headers) == (405, {"allow": "GET, HEAD"})


def test_an_action_with_all_that_it_needs_passes() -> None:
    assert Guard(action_token="once").refusal("POST", ACT) is None


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"x-eventbus-action": "twice"}, 403),
        ({"x-eventbus-action": ""}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"origin": "http://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
        ({"host": "evil.example"}, 421),
    ],
)
def test_an_action_that_lacks_one_is_refused(changed: dict[str, str], expected: int) -> None:
    assert Guard(action_token="once").refusal("POST", ACT | changed).status == expected


def test_other_methods_are_no_actions() -> None:
    assert Guard(action_token="once").refusal("DELETE", ACT).status == 405


def test_nothing_is_shared_with_other_origins() -> None:
    assert not [name for name in HEADERS if name.startswith("access-control")]
    assert "default-src 'self'" in HEADERS["content-security-policy"]
