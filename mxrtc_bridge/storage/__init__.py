"""Tables over SQLite or PostgreSQL: whatever must survive a restart.

Start with :func:`mxrtc_bridge.storage.tables.open_stores`.
"""
