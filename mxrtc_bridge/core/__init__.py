"""Pure protocol logic: values in, values out.

Nothing below this package opens, sleeps, asks a clock, draws a random number or logs. Time and ids are arguments,
so every rule can be tested without a loop, a socket or a mock. ``tests/test_architecture.py`` keeps it that way.
"""
