"""The live page of a bus, its JSON, its event stream and its metrics, as an ASGI app and as `eventbus-mp web`.

    from starlette.applications import Starlette
    from starlette.routing import Mount
    from eventbus_mp.addons.web import WebApp

    app = Starlette(routes=[Mount("/bus", WebApp("shop"))])

    guard.py    who may ask                        app.py      the ASGI app
    view.py     looks at the bus                   server.py   a server of its own
    stream.py   one look for all who watch         static/     the page: no build step, nothing from elsewhere
    api.py rows.py preview.py   questions, and answers as JSON
    journal_api.py journal_view.py   the same of a journal

It needs starlette and uvicorn: pip install 'eventbus-mp[web]'.
"""

from eventbus_mp.addons.web.app import WebApp

__all__ = ["WebApp"]
