"""The commands of ``mxrtc``, for users."""
