"""The command lines: ``mxrtc-bridge`` for admins, ``mxrtc`` for users. Data on stdout, talk on stderr."""
