"""The application, and its subscribers: whatever serves it loads this module, and nothing else does."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
application = get_wsgi_application()

from shop.handlers import subscribe  # noqa: E402  (it may need models, which are there from here on)

subscribe()
