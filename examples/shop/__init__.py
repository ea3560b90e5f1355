"""A shop on one bus: web workers, a pool, a journal, a page, traces and a log. README.md beside this file says more."""
