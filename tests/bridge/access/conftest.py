"""Nothing here waits for a disk."""

from tests.memory import tmp_path

__all__ = ["tmp_path"]
