"""The page in a real browser, on a real bus. Skipped where no Chromium is installed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventbus_mp import Event, EventBus
from eventbus_mp.addons.web import WebApp, stream
from tests.addons.web import chromium
from tests.addons.web.chromium import LIVE, MARKUP, Page
from tests.addons.web.serving import served

pytestmark = pytest.mark.skipif(chromium.program() is None, reason="no Chromium is installed")

MANY = 10_000
EVENTS = 20_000

MAILER = """
import sys, threading
from eventbus_mp import EventBus

def wait_for_the_mail_server(event):
    threading.Event().wait(120)

bus = EventBus("test", run_dir=sys.argv[1], reconnect=False)
bus.on("mail", name="mailer")(wait_for_the_mail_server)
print("ready", flush=True)
threading.Event().wait()
"""


class Shop:
    """A bus with something of everything on it, and its page."""

    def __init__(self, bus: EventBus, port: int, mailer: subprocess.Popen[str]) -> None:
        self.bus = bus
        self.mailer = mailer
        self.url = f"http://127.0.0.1:{port}/"


@pytest.fixture
def shop(page: Page, make_bus: Callable[..., EventBus]) -> Iterator[Shop]:
    bus = make_bus(topics=["order", "mail", MARKUP])
    bus.topics()
    # A process that does nothing else is asked for its stack.
    mailer = subprocess.Popen(
        [sys.executable, "-c", MAILER, str(bus.config.run_dir)], stdout=subprocess.PIPE, text=True
    )
    assert mailer.stdout.readline() == "ready\n"

    @bus.on("order", name="billing", retries=3, retry_delay_s=600)
    def bill(event: Event[Any]) -> None:
        raise ValueError(MARKUP)

    bus.inbox("audit", [MARKUP.replace("(", ".").replace(")", ".")[:4]])
    bus.notify(Event("paid", "mail", {"to": "a@example", "sum": 12}, transaction_id="tx-1"))
    bus.notify(Event(7, "order", {"card": MARKUP}))
    bus.notify_many([Event(MARKUP, MARKUP, MARKUP), Event("7", MARKUP, 1 << 60), Event(7, MARKUP, float("nan"))])
    app = WebApp(bus, allow_actions=True)
    with served(app, app) as port:
        yield Shop(bus, port, mailer)
        page.open("about:blank")
    mailer.kill()
    mailer.communicate()


def opened(page: Page, shop: Shop) -> None:
    page.open(shop.url)
    page.until(LIVE)
    page.until("document.querySelectorAll('#stuck tbody tr').length === 5")  # After a second.


def test_what_is_stuck_and_why(page: Page, shop: Shop) -> None:
    opened(page, shop)
    rows = page.text("#stuck tbody").splitlines()
    assert any("mailer" in row and "in flight" in row for row in rows)
    page.until("document.querySelector('#stuck').innerText.includes('ValueError')")
    # Names, ids and errors are shown as they are, and none of them is markup.
    assert page.text("#stuck").count(MARKUP) >= 3
    assert page.run("document.querySelectorAll('main img, main b').length") == 0
    assert page.run("document.title").startswith("test (")
    # Why an event is still there, what its process does, its story and its data.
    page.run("[...document.querySelectorAll('#stuck button')].find(b => b.textContent === '\"paid\"').click()")
    page.run("document.querySelector('#event-why').click()")
    page.until("!!document.querySelector('#event details pre')")
    shown = page.text("#event")
    assert "mailer: process" in shown
    assert "wait_for_the_mail_server" in shown
    assert "notified by process" in shown
    assert '"sum": 12' in shown
    assert '"transaction_id": "tx-1"' in shown


def test_an_action_from_the_page(page: Page, shop: Shop) -> None:
    opened(page, shop)
    page.run("window.confirm = () => true")
    page.run("[...document.querySelectorAll('#stuck button')].find(b => b.textContent === '\"paid\"').click()")
    page.run("document.querySelector('#event-why').click()")
    page.until("!!document.querySelector('#event .actions button')")
    page.run("[...document.querySelectorAll('#event .actions button')].find(b => b.textContent === 'Skip').click()")
    page.until("document.querySelector('#event').innerText.includes('Every subscriber has settled it')")
    [mailer] = [item for item in shop.bus.snapshot().subscribers if item.name == "mailer"]
    assert mailer.skip_reasons == {"settled on the page": 1}
    page.errors.clear()  # Its data is gone, and Chromium reports the 404.


def test_the_tables_and_the_two_ids(page: Page, shop: Shop) -> None:
    opened(page, shop)
    page.until("(document.querySelector('#topics polyline')?.getAttribute('points') ?? '').includes(' ')")
    assert page.text("#topics-count") == "3 of 3 topics"
    assert "billing" in page.text("#subscribers")
    assert "manager" in page.text("#processes")
    assert "used" in page.text("#memory-text")
    assert page.run("document.querySelectorAll('#holders tbody tr').length") >= 1
    page.run("[...document.querySelectorAll('#topics button')].find(b => b.textContent.startsWith('<img')).click()")
    page.until("document.querySelectorAll('#events tbody tr').length === 3")
    ids = page.run("[...document.querySelectorAll('#events tbody button')].map(b => b.textContent)")
    assert ids[1:] == ['"7"', "7"]
    page.run("document.querySelectorAll('#events tbody button')[1].click()")
    page.until("document.querySelector('#event').innerText.includes('1152921504606846976')")
    page.run("document.querySelector('#event-dialog .close').click()")
    page.run("document.querySelectorAll('#events tbody button')[2].click()")
    page.until("document.querySelector('#event').innerText.includes('nan')")


def test_by_keyboard_alone(page: Page, shop: Shop) -> None:
    opened(page, shop)
    page.press("/", "Slash", "/")
    assert page.run("document.activeElement.id") == "filter"
    for letter in "mai":
        page.press(letter, f"Key{letter.upper()}", letter)
    page.until("document.querySelector('#topics-count').textContent.startsWith('1 of')")
    for _ in range(2):
        page.press("Tab")
    assert page.run("document.activeElement.textContent") == "mail"
    page.press("Enter", "Enter", "\r")
    page.until("document.querySelectorAll('#events tbody tr').length === 1")
    page.press("Escape")
    page.until("!document.querySelector('#topic-dialog').open")
    assert page.run("document.activeElement.textContent") == "mail", "focus comes back to where it was"


def test_for_a_screen_reader(page: Page, shop: Shop) -> None:
    opened(page, shop)
    page.size(320, 700)  # Where tables look like cards, they are tables all the same.
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
    }
    assert {("table", "Topics"), ("table", "Subscribers"), ("table", "Processes")} <= named
    assert {("heading", "Stuck"), ("searchbox", "Filter"), ("button", "Pause")} <= named
    assert ("link", "Skip to what is stuck") in named
    assert ("columnheader", "backlog") in named
    assert any(role == "cell" and name.endswith("mailer") for role, name in named)
    assert [role for role, name in named if role in ("button", "link", "searchbox", "combobox") and not name] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_dark_and_narrow(page: Page, shop: Shop, scheme: str) -> None:
    page.scheme(scheme)
    opened(page, shop)
    colors = page.run("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    back, text = (sum(int(part) for part in color[4:-1].split(",")) for color in colors)
    assert (back > text) == (scheme == "light")
    for width in (320, 768, 920, 1280):
        page.size(width, 700)
        assert page.run("document.documentElement.scrollWidth") <= width
    page.size(320, 700)
    page.run("[...document.querySelectorAll('#stuck button')].find(b => b.textContent === '\"paid\"').click()")
    page.until("!!document.querySelector('#event pre')")
    assert page.run("document.querySelector('#event-dialog').scrollWidth") <= 320
    page.scheme("")


def test_who_does_not_look_costs_nothing(page: Page, shop: Shop) -> None:
    opened(page, shop)
    page.run("document.querySelector('#pause').click()")
    assert page.text("#state") == "paused"
    assert page.run("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
    page.run("document.querySelector('#pause').click()")
    page.until(LIVE)
    # As if another tab was in front.
    page.run("""
        window.closes = 0;
        const close = EventSource.prototype.close;
        EventSource.prototype.close = function () { window.closes += 1; close.call(this); };
        Object.defineProperty(document, 'hidden', { configurable: true, get: () => window.isHidden });
        window.isHidden = true;
        document.dispatchEvent(new Event('visibilitychange'));
    """)
    assert page.run("window.closes") == 1
    page.run("window.isHidden = false; document.querySelector('#state').textContent = ''")
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    page.until(LIVE)


def test_streams_follow_each_other_unseen(page: Page, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LIFE_S", 0.3)
    opened(page, shop)
    page.run("""
        window.opened = 0;
        window.said = new Set();
        const place = document.querySelector('#state');
        new MutationObserver(() => window.said.add(place.textContent)).observe(place, { childList: true });
        const source = window.EventSource;
        window.EventSource = class extends source { constructor(...args) { super(...args); window.opened += 1; } };
    """)
    page.until("window.opened > 2")
    assert page.run("[...window.said]") == []
    assert page.text("#state") == "live"


def test_a_bus_that_ends(page: Page, shop: Shop) -> None:
    opened(page, shop)
    shop.mailer.kill()
    shop.mailer.wait()
    shop.bus.shutdown()
    page.until("document.querySelector('#state').className === 'down'")
    assert "test" in page.text("#state")
    assert page.run("document.querySelector('main').className") == "stale"


def test_a_page_without_a_journal_has_no_tabs(page: Page, shop: Shop) -> None:
    opened(page, shop)
    assert page.run("document.querySelector('#tabs').hidden")


def test_thousands_of_topics_and_of_events(page: Page, make_bus: Callable[..., EventBus]) -> None:
    names = [f"topic_{number:05}" for number in range(MANY)]
    bus = make_bus(topics=names, memory_bytes_max=64 << 20)
    bus.inbox("audit", ["topic"], credit=1)
    bus.notify_many(Event(f"event-{number}", names[7], number) for number in range(EVENTS))
    bus.notify_many(Event(number, names[9_876], number) for number in range(3))
    app = WebApp(bus)
    with served(app, app) as port:
        page.open(f"http://127.0.0.1:{port}/")
        page.until(LIVE)
        assert page.text("#topics-count") == "100 of 10,000 topics"
        assert page.run("document.querySelector('#topics tbody button').textContent") == names[7]
        page.run("document.querySelector('#topics-more').click()")
        page.until("document.querySelectorAll('#topics tbody tr').length === 200")
        page.run("document.querySelector('#filter').value = '_0987'")
        page.run("document.querySelector('#filter').dispatchEvent(new Event('input'))")
        page.until("document.querySelector('#topics-count').textContent === '10 of 10 topics'")
        assert page.run("document.querySelector('#topics tbody button').textContent") == names[9_876]
        page.run("document.querySelector('#filter').value = ''")
        page.run("document.querySelector('#filter').dispatchEvent(new Event('input'))")
        page.until(f"document.querySelector('#topics tbody button').textContent === '{names[7]}'")
        page.run("document.querySelector('#topics tbody button').click()")
        page.until("document.querySelectorAll('#events tbody tr').length === 100")
        page.run("document.querySelector('#events-more').click()")
        page.until("document.querySelectorAll('#events tbody tr').length === 200")
        assert page.text("#events-state") == "200 events, and there are more"
        page.open("about:blank")
