"""gunicorn's settings for `--preload`: each worker subscribes when it is ready to serve.

`post_worker_init` is the hook to do that in: it comes after gevent's patches, and the import within it leaves the
application to be loaded again at HUP if `--preload` is not given.
"""

import os

os.environ["SUBSCRIBES_LATER"] = "yes"


def post_worker_init(worker):
    from flask_app import subscribe

    subscribe()
