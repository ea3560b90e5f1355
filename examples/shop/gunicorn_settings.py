"""gunicorn's settings: a tracer for each worker, made after the fork."""

from examples.shop import tracing
from examples.shop.settings import PORT

bind = f"127.0.0.1:{PORT}"
workers = 3
control_socket_disable = True  # nothing controls it but signals


def post_fork(server, worker):
    tracing.configure()


def worker_exit(server, worker):
    tracing.flush()
