"""Files over a data channel: names, patterns, messages, and the machines of sender and receiver."""
