"""Many patterns with ``*`` (anything) and ``?`` (one character): does one of them stand for a text?

Each pattern is filed under a few of its own characters that stand together, a *gram*, and is looked at only where the
text has that gram; of several grams the one is taken under which the fewest others are filed. So an ordinary text
costs a walk over its characters, however many patterns there are.

Nothing can make it cost more than :data:`MAX_STEPS`: a text that comes near so many patterns that they cannot all be
compared counts as matched. That is right for lists that only deny: who writes patterns could deny that text anyway, and
who chooses the text gains nothing.

Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

OwnerT = TypeVar("OwnerT", bound=Hashable)

MAX_WILDCARDS = 16
"""Places with ``*`` or ``?`` in a pattern; several in a row are one place."""
MAX_STEPS = 700
"""Searches that one text may cost, in patterns that come near it; a step takes 0.2 to 2 microseconds."""
MAX_GRAM = 4
_GRAMS_OF_A_RUN = 6
"""Grams of one run of characters that are considered: its ends, and some in between."""

# A text stands between these two, so that the ends of a pattern are compared like any other of its characters.
_BEGIN, _END = "\x02", "\x03"
_PLACE = re.compile(r"[*?]+")


class TooManyWildcards(ValueError):  # noqa: N818 - says what is wrong
    """A pattern with more than :data:`MAX_WILDCARDS` places."""


class _Piece:
    """What stands between two ``*``: of a fixed length, so the first place where it fits is always the best."""

    __slots__ = ("length", "rest", "run", "runs", "shift")

    def __init__(self, text: str) -> None:
        self.length = len(text)
        self.runs = tuple((run.start(), run[0]) for run in re.finditer(r"[^?]+", text))
        # The longest run is looked for, and the others only where it is.
        longest_first = sorted(self.runs, key=lambda run: -len(run[1]))
        self.shift, self.run = longest_first[0] if longest_first else (0, "")
        self.rest = tuple(longest_first[1:])

    def fits(self, text: str, start: int) -> bool:
        """Whether it stands at just this place."""
        return all(text.startswith(run, start + shift) for shift, run in self.runs)

    def find(self, text: str, start: int, stop: int) -> tuple[int, int]:
        """The end of its first place between ``start`` and ``stop``, -1 if there is none, and the steps that took."""
        steps = 0
        while True:
            steps += 1
            at = text.find(self.run, start + self.shift, stop)
            begin = at - self.shift
            if at < 0 or begin + self.length > stop:
                return -1, steps
            if all(text.startswith(run, begin + shift) for shift, run in self.rest):
                return begin + self.length, steps
            start = begin + 1


@dataclass(frozen=True, slots=True)
class _Gram:
    """A few characters that every text has for which a pattern stands."""

    text: str
    offset: int | None
    """Where, if that is certain: from the beginning, or below 0, from the end."""

    @property
    def strength(self) -> int:
        """How rare it is, roughly, as a power of two."""
        return 2 * len(self.text) + (0 if self.offset is None else 2)


class Glob:
    """One pattern.

    Raises:
        TooManyWildcards: see there.
    """

    __slots__ = ("_first", "_last", "_middle", "_pieces")

    def __init__(self, pattern: str) -> None:
        if len(_PLACE.findall(pattern)) > MAX_WILDCARDS:
            raise TooManyWildcards(f"a pattern has more than {MAX_WILDCARDS} places with wildcards")
        self._pieces = tuple(_Piece(text) for text in f"{_BEGIN}{pattern}{_END}".split("*") if text)
        self._first, self._last = self._pieces[0], self._pieces[-1]
        self._middle = self._pieces[1:-1]

    def matches(self, text: str) -> bool:
        """Whether it stands for the whole of ``text``."""
        return self.compare(f"{_BEGIN}{text}{_END}")[0]

    def compare(self, framed: str) -> tuple[bool, int]:
        """Whether it stands for a text between its two marks, and the steps that finding out took."""
        first, last = self._first, self._last
        at, stop, steps = first.length, len(framed) - last.length, 1
        if first is last:
            return stop == 0 and first.fits(framed, 0), steps
        if at > stop or not last.fits(framed, stop) or not first.fits(framed, 0):
            return False, steps
        for piece in self._middle:
            at, more = piece.find(framed, at, stop)
            steps += more
            if at < 0:
                return False, steps
        return True, steps

    def grams(self) -> Iterator[_Gram]:
        """Grams to file it under."""
        last = len(self._pieces) - 1
        for index, piece in enumerate(self._pieces):
            for shift, run in piece.runs:
                size = min(MAX_GRAM, len(run))
                places = len(run) - size
                for start in {places * n // (_GRAMS_OF_A_RUN - 1) for n in range(_GRAMS_OF_A_RUN)}:
                    offset = None
                    if index == 0:
                        offset = shift + start
                    elif index == last:
                        offset = shift + start - piece.length
                    yield _Gram(run[start : start + size], offset)


class GlobIndex(Generic[OwnerT]):
    """Patterns, each with an owner; several owners may have the same pattern."""

    __slots__ = ("_gram_of", "_places", "_sizes")

    def __init__(self) -> None:
        self._places: dict[str, dict[int | None, dict[OwnerT, Glob]]] = {}
        self._gram_of: dict[OwnerT, _Gram] = {}
        self._sizes: Counter[int] = Counter()
        """How many grams there are of each length."""

    def __len__(self) -> int:
        return len(self._gram_of)

    def add(self, owner: OwnerT, glob: Glob) -> None:
        """Take up a pattern; its owner must have none."""
        gram = min(glob.grams(), key=lambda gram: (len(self._filed(gram)) + 1) / (1 << gram.strength))
        if gram.text not in self._places:
            self._places[gram.text] = {}
            self._sizes[len(gram.text)] += 1
        self._places[gram.text].setdefault(gram.offset, {})[owner] = glob
        self._gram_of[owner] = gram

    def remove(self, owner: OwnerT) -> None:
        """Forget the pattern of an owner."""
        gram = self._gram_of.pop(owner)
        by_offset = self._places[gram.text]
        del by_offset[gram.offset][owner]
        if not by_offset[gram.offset]:
            del by_offset[gram.offset]
            if not by_offset:
                del self._places[gram.text]
                self._sizes[len(gram.text)] -= 1

    def find(self, text: str) -> tuple[OwnerT | None, bool]:
        """The owner of a pattern that stands for ``text``, and whether all that come near it were compared."""
        framed = f"{_BEGIN}{text}{_END}"
        steps = 0
        for filed in self._near(framed):
            for owner, glob in filed.items():
                found, more = glob.compare(framed)
                if found:
                    return owner, True
                steps += more
                if steps > MAX_STEPS:
                    return None, False
        return None, True

    def _near(self, framed: str) -> Iterator[dict[OwnerT, Glob]]:
        """The patterns whose gram the text has, each once."""
        length = len(framed)
        for size, count in self._sizes.items():
            if not count:
                continue
            for gram in {framed[at : at + size] for at in range(length - size + 1)} & self._places.keys():
                by_offset = self._places[gram]
                if None in by_offset:
                    yield by_offset[None]
                if len(by_offset) > (None in by_offset):
                    at = framed.find(gram)
                    while at >= 0:
                        for offset in (at, at - length):
                            if offset in by_offset:
                                yield by_offset[offset]
                        at = framed.find(gram, at + 1)

    def _filed(self, gram: _Gram) -> dict[OwnerT, Glob]:
        return self._places.get(gram.text, {}).get(gram.offset, {})
