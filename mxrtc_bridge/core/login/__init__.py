"""Logging in by OAuth 2.0 and single sign-on: what is sent and what is read, as values; asks nobody itself."""
