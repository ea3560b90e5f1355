"""The shell round the core: it turns bytes into messages, performs effects, and never waits for a process."""
