"""Where payloads live: segments, spans as their writers see them, the payload's layout and codec, leases."""
