"""What users hold: the bus, inboxes, event sources; and the connection that they share."""
