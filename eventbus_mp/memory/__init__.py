"""Where payloads live: the stores of segments, spans as their writers see them, a payload's bytes, leases."""
