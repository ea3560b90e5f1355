"""A bus as metrics for Prometheus, and counters of the events that went over it.

    from prometheus_client import REGISTRY, start_http_server
    from eventbus_mp.addons.metrics import BusCollector

    REGISTRY.register(BusCollector("shop"))
    start_http_server(9_100)

All numbers are the manager's, which is asked once for each scrape. So there is one process to scrape, whatever the
number of processes that use the bus, and nothing of prometheus_client's multiprocess mode is needed: no files, and no
gauges of processes that have gone.
"""

from eventbus_mp import UsageError

try:
    import prometheus_client as _needed  # noqa: F401
except ImportError as cause:
    raise UsageError(
        "eventbus_mp.addons.metrics needs the package prometheus-client, which is not installed; "
        "type: pip install 'eventbus-mp[metrics]'"
    ) from cause

from eventbus_mp.addons.metrics.collector import BusCollector, exposition
from eventbus_mp.addons.metrics.families import OTHER, TOPICS_MAX, families
from eventbus_mp.addons.metrics.hits import Hits

__all__ = ["OTHER", "TOPICS_MAX", "BusCollector", "Hits", "exposition", "families"]
