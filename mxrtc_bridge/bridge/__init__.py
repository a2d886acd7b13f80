"""The bridge put together: the one place that knows every edge."""
