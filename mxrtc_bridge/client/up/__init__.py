"""``mxrtc up``: the connections of a file, kept open in the background."""
