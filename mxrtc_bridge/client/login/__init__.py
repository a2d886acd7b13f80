"""Logging in: what the homeserver offers, the ways to do it, and the tokens that come of it."""
