"""What to do: the manager's decisions as one pure object. No clock, no file, no process, no pipe."""
