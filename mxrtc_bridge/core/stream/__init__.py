"""Byte streams over data channels: their messages, their state machines, and the control channel of a session."""
