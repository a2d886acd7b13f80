"""Patterns for relative paths: what somebody asks of a share, and which names a drop box takes.

    *        any run of characters within one component        ?        one character
    [a-z]    one of a set, [!a-z] one outside it               **       any number of components, as a component
    docs     a directory: everything below it is meant as well

Patterns come from the other side. They are parsed once into values of bounded size; matching a name takes a time
proportional to the product of the two lengths at most (no backtracking over more than one star), and a walk through a
tree carries a set of at most 32 positions per pattern. There are no regular expressions here.

A leading dot is matched by a dot only, as in a shell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mxrtc_bridge.core.files.names import MAX_COMPONENT_BYTES, MAX_COMPONENTS, MAX_PATH_BYTES, FileNameError
from mxrtc_bridge.core.text.display import quoted

MAX_PATTERNS = 64
_SPECIAL = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class _OneOf:
    """One character of a set."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def matches(self, char: str) -> bool:
        return any(low <= char <= high for low, high in self.ranges) is not self.negated


class _Wild:
    """A character class of its own: a star or a question mark."""

    __slots__ = ()


_STAR = _Wild()
_ANY = _Wild()
_Token = str | _OneOf | _Wild


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A pattern for one component."""

    text: str
    tokens: tuple[_Token, ...]

    @property
    def literal(self) -> str | None:
        """The only name that matches, if there is but one."""
        return "".join(map(str, self.tokens)) if all(isinstance(token, str) for token in self.tokens) else None

    def matches(self, name: str) -> bool:
        """Whether the whole of ``name`` matches; the pattern taken literally does, so that ``a[1]`` can be named."""
        if name == self.text:
            return True
        if name[:1] == "." and self.tokens[:1] != (".",):
            return False
        return _match(self.tokens, name)


def _match(tokens: Sequence[_Token], name: str) -> bool:
    """Match with one place to return to: the last star. What an earlier star took never needs to be given back."""
    position = at = 0
    star = taken = -1
    while at < len(name):
        token = tokens[position] if position < len(tokens) else None
        if token is _STAR:
            star, taken = position, at
            position += 1
        elif token is not None and _matches_one(token, name[at]):
            position += 1
            at += 1
        elif star >= 0:
            taken += 1
            position, at = star + 1, taken
        else:
            return False
    return all(token is _STAR for token in tokens[position:])


def _matches_one(token: _Token, char: str) -> bool:
    if isinstance(token, str):
        return token == char
    return token.matches(char) if isinstance(token, _OneOf) else token is _ANY


def parse_name_pattern(text: str) -> NamePattern:
    """Read a pattern for one component, as the configuration has them for allowed names.

    Raises:
        FileNameError: it is empty, too long, has a separator or a set that does not end.
    """
    if not text or "/" in text or "\0" in text:
        raise FileNameError(f"the pattern {quoted(text)} must be one name without '/'")
    if len(text) > MAX_COMPONENT_BYTES:
        raise FileNameError(f"the pattern {quoted(text, 40)}... is longer than {MAX_COMPONENT_BYTES} characters")
    tokens: list[_Token] = []
    at = 0
    while at < len(text):
        token, at = _read_token(text, at)
        if token is not _STAR or tokens[-1:] != [_STAR]:
            tokens.append(token)
    return NamePattern(text, tuple(tokens))


def _read_token(text: str, at: int) -> tuple[_Token, int]:
    match text[at]:
        case "*":
            return _STAR, at + 1
        case "?":
            return _ANY, at + 1
        case "[":
            return _read_set(text, at + 1)
        case char:
            return char, at + 1


def _read_set(text: str, at: int) -> tuple[_OneOf, int]:
    negated = text[at : at + 1] in {"!", "^"}
    start = at + negated
    # A closing bracket that stands first is a member, so that it can be named at all.
    end = text.find("]", start + 1)
    if end < 0:
        raise FileNameError(f"the pattern {quoted(text)} has a '[' without its ']'")
    ranges: list[tuple[str, str]] = []
    at = start
    while at < end:
        if at + 2 < end and text[at + 1] == "-":
            ranges.append((text[at], text[at + 2]))
            at += 3
        else:
            ranges.append((text[at], text[at]))
            at += 1
    return _OneOf(tuple(ranges), negated), end + 1


def name_allowed(name: str, allowed: Sequence[NamePattern]) -> bool:
    """Whether ``name`` matches one of ``allowed``; where there are none, everything is allowed."""
    return not allowed or any(pattern.matches(name) for pattern in allowed)


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A pattern for a path; None stands for ``**``."""

    text: str
    parts: tuple[NamePattern | None, ...]

    @property
    def base(self) -> int:
        """How many components at the beginning name the place, rather than what is wanted there.

        ``docs/2024`` means the directory ``2024``, ``docs/*.txt`` some files: both leave ``docs`` behind.
        """
        fixed = 0
        for part in self.parts[:-1]:
            if part is None or part.literal is None:
                break
            fixed += 1
        return fixed


def parse_path_pattern(text: str) -> PathPattern:
    """Read a pattern for a path; the empty text, ``.`` and ``/`` mean everything.

    Raises:
        FileNameError: it is too long or too deep, leads upwards, or one of its components is not a pattern.
    """
    if len(text) > MAX_PATH_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise FileNameError(f"the pattern is longer than {MAX_PATH_BYTES} bytes")
    words = [word for word in text.split("/") if word not in {"", "."}]
    if len(words) > MAX_COMPONENTS:
        raise FileNameError(f"the pattern has {len(words)} parts; the limit is {MAX_COMPONENTS}")
    if ".." in words:
        raise FileNameError("a pattern may not lead upwards ('..')")
    return PathPattern(text, tuple(None if word == "**" else parse_name_pattern(word) for word in words))


@dataclass(frozen=True, slots=True)
class PatternPosition:
    """Where a walk stands with regard to all patterns of a :class:`Selection`."""

    positions: frozenset[tuple[int, int]]
    """(pattern, components of it that are matched)"""
    chosen: frozenset[int]
    """The patterns by which this place, and everything below it, is meant."""

    @property
    def selected(self) -> bool:
        """Whether what is here is meant."""
        return bool(self.chosen)

    @property
    def leads_on(self) -> bool:
        """Whether something below may be meant."""
        return bool(self.chosen or self.positions)


def has_wildcards(text: str) -> bool:
    """Whether a path may select something else than what is called so."""
    return not _SPECIAL.isdisjoint(text)


def literal_path(parts: Sequence[str], *, below: bool = False) -> PathPattern:
    """Return the pattern that selects exactly this path or, with ``below``, what the directory there has."""
    named = [NamePattern(part, tuple(part)) for part in parts]
    return PathPattern("/".join(parts), tuple([*named, NamePattern("*", (_STAR,))] if below else named))


class Selection:
    """Several patterns at once, followed from directory to directory.

    Args:
        patterns: at most 64.

    Raises:
        FileNameError: there are more.
    """

    def __init__(self, patterns: Sequence[PathPattern]) -> None:
        if len(patterns) > MAX_PATTERNS:
            raise FileNameError(f"there are {len(patterns)} patterns; the limit is {MAX_PATTERNS}")
        self.patterns = tuple(patterns)
        self.root = self._place({(index, 0) for index in range(len(self.patterns))}, set())

    def below(self, place: PatternPosition, name: str) -> PatternPosition:
        """Return the place that ``name`` is, seen from the directory ``place``."""
        positions: set[tuple[int, int]] = set()
        for index, done in place.positions:
            part = self.patterns[index].parts[done]
            if part is None:
                if name[:1] != ".":
                    positions.add((index, done))
            elif part.matches(name):
                positions.add((index, done + 1))
        return self._place(positions, set(place.chosen))

    def names(self, place: PatternPosition) -> frozenset[str] | None:
        """Return the only names that need to be looked at in the directory ``place``; None if it must be listed."""
        if place.selected:
            return None
        names: set[str] = set()
        for index, done in place.positions:
            part = self.patterns[index].parts[done]
            name = part.literal if part is not None else None
            if name is None:
                return None
            names.add(name)
        return frozenset(names)

    def base(self, place: PatternPosition) -> int:
        """Return how many leading components ``place``, which is selected, leaves behind when it is fetched."""
        return min(self.patterns[index].base for index in place.chosen)

    def _place(self, reached: set[tuple[int, int]], chosen: set[int]) -> PatternPosition:
        positions: set[tuple[int, int]] = set()
        pending = list(reached)
        while pending:
            index, done = pending.pop()
            parts = self.patterns[index].parts
            if done == len(parts):
                chosen.add(index)
            elif (index, done) not in positions:
                positions.add((index, done))
                if parts[done] is None:  # nothing is a number of components, too
                    pending.append((index, done + 1))
        return PatternPosition(frozenset(positions), frozenset(chosen))


class Asked:
    """What a receiver has asked for, by the paths that its source gives to that: see :meth:`Selection.base`.

    Args:
        patterns: as they were sent; what is no pattern asks for nothing.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._selections: list[Selection] = []
        for text in patterns:
            try:
                pattern = parse_path_pattern(text)
            except FileNameError:
                continue
            self._selections.append(Selection([PathPattern(text, pattern.parts[pattern.base :])]))

    def means(self, path: str) -> bool:
        """Whether one of the patterns selects what comes as ``path``."""
        return any(_selects(selection, path) for selection in self._selections)


def _selects(selection: Selection, path: str) -> bool:
    place = selection.root
    for name in path.split("/"):
        if place.selected or not place.leads_on:
            break
        place = selection.below(place, name)
    return place.selected
