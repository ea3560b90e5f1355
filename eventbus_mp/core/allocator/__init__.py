"""Which piece of shared memory is whose: a buddy allocator, and above it spans with their three temperatures."""
