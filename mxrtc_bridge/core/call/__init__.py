"""A call (client-server API, "Voice over IP"): its events, their reading and writing, and its state machine."""
