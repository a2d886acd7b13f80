"""Limits for what others can make grow: shares by sender, server and room, rows of tables, log lines."""
