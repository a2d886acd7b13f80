"""Environments that have what a wheel says it needs, and nothing else: made in seconds, without a network.

The packages are those of the environment that runs the tests, file by file as the record of each says; the wheel itself
is installed by pip.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from email.parser import HeaderParser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parent.parent
OURS = canonicalize_name("mxrtc-bridge")


def requirements_of_wheel(wheel: Path) -> list[str]:
    """Return the dependencies that the metadata of a wheel declares, those of its extras included."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])


def needed(declared: Iterable[str], extras: Iterable[str] = ()) -> dict[NormalizedName, Distribution]:
    """Return the installed packages that ours needs with some extras, by name: all that pip would install.

    Args:
        declared: the dependencies of ours, as its metadata has them.
        extras: which of ours are wanted.

    Raises:
        PackageNotFoundError: one is not installed here.
        AssertionError: one that is installed is not of a version that is declared.
    """
    found: dict[NormalizedName, Distribution] = {}
    seen: set[tuple[NormalizedName, str]] = set()
    left = [(OURS, extra) for extra in ("", *extras)]
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        if name != OURS and name not in found:
            found[name] = distribution(name)
        for each in declared if name == OURS else found[name].requires or ():
            requirement = Requirement(each)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            wanted = canonicalize_name(requirement.name)
            left += [(wanted, inner) for inner in ("", *requirement.extras)]
            if wanted != OURS:
                installed = distribution(wanted).version
                assert requirement.specifier.contains(installed, prereleases=True), f"{name}: {each}, not {installed}"
    return found


def modules_of(packages: Mapping[NormalizedName, Distribution]) -> set[str]:
    """Return the names by which packages are imported, those that begin with ``_`` left out."""
    names = set()
    for package in packages.values():
        for file in package.files or ():
            top = file.parts[0]
            if file.suffix in {".py", ".so"} and not top.startswith(("_", ".")) and not top.endswith(".dist-info"):
                names.add(top.partition(".")[0])
    return names


def make_environment(folder: Path, wheel: Path, *extras: str) -> Path:
    """Make a virtual environment with a wheel of ours, and return the folder of its programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    (place,) = folder.glob("lib/python*/site-packages")
    for package in needed(requirements_of_wheel(wheel), extras).values():
        for source, name in _files_of(package):
            target = place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(source, target)
    install = ["pip", "--python", folder / "bin/python", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", *install], check=True, timeout=120)
    return folder / "bin"


def _files_of(package: Distribution) -> Iterator[tuple[Path, str]]:
    """Yield each file of a package that lies where modules do, compiled ones too; not its programs and manual pages."""
    if package.files is None:
        raise PackageNotFoundError(package.name)
    for file in package.files:
        if ".." not in file.parts and (source := Path(str(package.locate_file(file)))).exists():
            yield source, str(file)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        target.write_bytes(source.read_bytes())
