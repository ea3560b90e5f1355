"""What travels between processes, and what enters and leaves the core: messages, requests, effects, and their bytes."""
