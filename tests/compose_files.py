"""What docker compose reads in a file, without Docker: by the library that it reads its files with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parent.parent / "build/interop/compose"


class ComposeError(Exception):
    """It does not take the file."""


def as_compose_reads(path: Path, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the project of a compose file, checked by its schema, with variables put in.

    Args:
        path: of the file.
        environ: the variables that there are.

    Raises:
        ComposeError: it is no compose file, with what is wrong.
    """
    assert PROGRAM.exists(), f"{PROGRAM} is not there; .ci/interop compose builds it"
    done = subprocess.run(
        [PROGRAM, path], env=dict(environ or {}), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise ComposeError(done.stderr)
    project: dict[str, Any] = json.loads(done.stdout)
    return project
