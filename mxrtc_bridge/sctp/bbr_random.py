"""Repeatable pseudo-random numbers for the waits between bandwidth probes.

Flows that share a bottleneck must not probe in step, so the waits are drawn. The seed is an argument: the same seed and
the same packets give the same behaviour, which is what makes a simulated link worth testing on. Never use this for
anything that must not be guessed.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio: a counter that advances by it visits all 64-bit values, evenly spread."""


class Draws:
    """A splitmix64 sequence (Steele, Lea and Flood, OOPSLA 2014).

    Args:
        seed: any integer; its low 64 bits count.
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def bits(self) -> int:
        """Return the next 64 bits."""
        self._state = (self._state + _STEP) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return mixed ^ (mixed >> 31)

    def fraction(self) -> float:
        """Return a number from 0.0 to below 1.0."""
        return (self.bits() >> 11) / (1 << 53)

    def coin(self) -> int:
        """Return 0 or 1."""
        return self.bits() >> 63
