"""Worker pools: processes that run handlers on their main threads, and are replaced when they die."""
