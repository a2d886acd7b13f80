"""A Matrix application service whose virtual users are WebRTC data-channel endpoints."""

__version__ = "0.1.0"
