"""The journal's tab in a real browser, on a real bus with a journal. Skipped where no Chromium is installed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.journal import Checkpoint, Journal, open_store
from eventbus_mp.addons.web import WebApp
from tests.addons.web import chromium
from tests.addons.web.chromium import LIVE, MARKUP, Page
from tests.addons.web.serving import served

pytestmark = pytest.mark.skipif(chromium.program() is None, reason="no Chromium is installed")


@pytest.fixture
def archive(page: Page, make_bus: Callable[..., EventBus], tmp_path: Path) -> Iterator[str]:
    """The address of the page of a bus with a journal."""
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    bus = make_bus(topics=["order", "mail", MARKUP])
    app = WebApp(bus, journal=url)
    with served(app, app) as port, Journal(bus, url):
        bus.notify_many(Event(number, "order", number, transaction_id=f"tx-{number % 7}") for number in range(60))
        bus.notify_many([Event(MARKUP, MARKUP, MARKUP), Event("7", "mail", 1 << 60), Event(7, "mail", float("nan"))])
        bus.notify(Event("bad", "mail", MARKUP, occurred_at=1 << 70))
        bus.drain()
        with open_store(url) as store:
            store.save_checkpoint(Checkpoint("friday", "staging", 5))
        yield f"http://127.0.0.1:{port}/"
        page.open("about:blank")


def opened_archive(page: Page, url: str) -> None:
    page.open(url)
    page.until(LIVE)
    page.run("document.querySelector('#journal-tab').click()")
    page.until("document.querySelectorAll('#stored tbody tr').length === 25")
    page.until("document.querySelectorAll('#rejected tbody tr').length === 1")
    page.until("document.querySelector('#journal-state').textContent.includes('writes sqlite:')")


def listed(page: Page) -> Any:
    """The texts of the column of events."""
    return page.run("[...document.querySelectorAll('#stored tbody td:nth-child(4)')].map(cell => cell.textContent)")


def test_what_is_in_the_journal(page: Page, archive: str) -> None:
    opened_archive(page, archive)
    assert page.run("document.querySelector('#bus-panel').hidden")
    assert page.text("#journal-numbers-events") == "63"
    assert page.text("#journal-numbers-quarantined") == "1"
    page.until("document.querySelector('#journal-numbers').textContent.includes('waits in the bus0')")
    assert "more than 64 bits" in page.text("#rejected")
    assert "friday" in page.text("#checkpoints")
    assert listed(page)[:3] == ["7", '"7"', json.dumps(MARKUP)]
    assert page.run("document.querySelectorAll('main img, main b').length") == 0
    page.run("document.querySelector('#stored-more').click()")
    page.until("document.querySelectorAll('#stored tbody tr').length === 50")
    page.run("document.querySelector('#stored-more').click()")
    page.until("document.querySelectorAll('#stored tbody tr').length === 63")
    assert page.run("document.querySelector('#stored-more').hidden")
    # One event, and its data.
    page.run("document.querySelector('#stored tbody td:nth-child(4) button').click()")
    page.until("document.querySelector('#event').innerText.includes('nan')")
    assert page.run("document.querySelector('#event-why').hidden")
    page.press("Escape")
    # The tab is in the address.
    assert page.run("location.hash") == "#journal"
    page.open("about:blank")
    page.open(f"{archive}#journal")
    page.until("document.querySelectorAll('#stored tbody tr').length === 25")


def test_the_journal_is_searched(page: Page, archive: str) -> None:
    opened_archive(page, archive)
    page.run("document.querySelector('#stored-match').value = 'MAI'")
    page.run("document.querySelector('#stored-match').dispatchEvent(new Event('input'))")
    page.until("document.querySelectorAll('#stored tbody tr').length === 2")
    page.run("document.querySelector('#stored-match').value = ''")
    page.run("document.querySelector('#stored-match').dispatchEvent(new Event('input'))")
    page.until("document.querySelectorAll('#stored tbody tr').length === 25")
    page.run("[...document.querySelectorAll('#stored tbody button')].find(b => b.textContent === '\"tx-3\"').click()")
    page.until("document.querySelectorAll('#stored tbody tr').length === 9")
    assert page.run("document.querySelector('#stored-transaction').value") == "tx-3"
    page.run("document.querySelector('#stored-until').value = '2001-01-01T00:00'")
    page.run("document.querySelector('#stored-until').dispatchEvent(new Event('input'))")
    page.until("document.querySelector('#stored').innerText.includes('No such event is stored.')")


def test_the_journal_by_keyboard_for_a_screen_reader_and_narrow(page: Page, archive: str) -> None:
    opened_archive(page, archive)
    page.run("document.querySelector('#journal-tab').focus()")
    page.press("ArrowLeft")
    assert page.run("[document.activeElement.id, document.querySelector('#bus-panel').hidden]") == ["bus-tab", False]
    page.press("ArrowRight")
    assert page.run("[document.activeElement.id, document.querySelector('#bus-panel').hidden]") == ["journal-tab", True]
    page.press("Tab")
    assert page.run("document.activeElement.id") == "stored-match"
    page.run("for (const id of ['match', 'since']) document.querySelector('#stored-' + id).value = ''")
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        for width in (320, 768, 920, 1280):
            page.size(width, 700)
            assert page.run("document.documentElement.scrollWidth") <= width
    page.scheme("")
    page.size(320, 700)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    }
    assert {("tab", "Bus"), ("tab", "Journal"), ("tabpanel", "Journal"), ("table", "Stored events")} <= named
    assert {("table", "Quarantined events"), ("table", "Replays"), ("searchbox", "Topic has")} <= named
    controls = ("button", "link", "searchbox", "combobox", "checkbox", "tab")
    assert [role for role, name in named if role in controls and not name] == []


def test_a_journal_that_fails_leaves_the_rest_of_the_page(
    page: Page, make_bus: Callable[..., EventBus], tmp_path: Path
) -> None:
    path = tmp_path / "shop.db"
    path.write_bytes(b"no database at all, but of some length" * 100)
    bus = make_bus(topics=["order"])
    bus.topics()
    app = WebApp(bus, journal=f"sqlite:///{path}")
    with served(app, app) as port:
        page.open(f"http://127.0.0.1:{port}/#journal")
        page.until("document.querySelector('#journal-state').className === 'bad'")
        assert "damaged" in page.text("#journal-state")
        page.until(LIVE)
        page.run("document.querySelector('#bus-tab').click()")
        page.until("document.querySelector('#topics').innerText.includes('order')")
        page.open("about:blank")
    page.errors.clear()  # Chromium reports each 503.
