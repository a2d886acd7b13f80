"""The client-server API: requests, their transport and pauses, login, sync, ping."""
