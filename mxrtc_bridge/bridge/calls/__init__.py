"""Calls beside the engine: to-device signalling, what refused callers are told, redaction of call events."""
