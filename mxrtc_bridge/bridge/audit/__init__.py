"""Writes the audit, and brings it together with the database after a crash."""
