"""``make bench``: what the pipe costs, measured against a plain TCP relay in the same run. Never part of the tests."""
