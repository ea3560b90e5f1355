"""A bus for the tests of programs that use one: `TestBus`, in the thread of a test, and fixtures for pytest.

Public are the names in `__all__` of this package, and the fixtures of plugin.py.
"""

from eventbus_mp.testing.clock import ManualClock
from eventbus_mp.testing.recorder import Failure, ProcessDied
from eventbus_mp.testing.testbus import TestBus

__all__ = ["Failure", "ManualClock", "ProcessDied", "TestBus"]
