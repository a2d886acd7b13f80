"""Events from the homeserver: stored, put in order, handled once, each sender and room within its share."""
