"""Sending, fetching and listing files from the command line."""
