"""Events to the homeserver: sent in order and repeated until they are there."""
