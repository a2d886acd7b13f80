"""The commands of ``mxrtc-bridge``, for admins."""
