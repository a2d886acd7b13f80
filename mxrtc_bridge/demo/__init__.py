"""The demonstration, and the real programs it stands on: a homeserver and child processes.

The tests and the benchmark start their homeserver and their children with the same classes, so what the demonstration
shows is what the tests check. Nothing here is used by the bridge or the client when they run for real.
"""
