"""The user's side of a call: the caller, its connection, and the device that signals."""
