"""What two people compare: seven emoji, or three numbers (client-server API, "SAS method: emoji" and "decimal")."""

from __future__ import annotations

from dataclasses import dataclass

_TABLE = (
    "🐶 Dog|🐱 Cat|🦁 Lion|🐎 Horse|🦄 Unicorn|🐷 Pig|🐘 Elephant|🐰 Rabbit|"
    "🐼 Panda|🐓 Rooster|🐧 Penguin|🐢 Turtle|🐟 Fish|🐙 Octopus|🦋 Butterfly|🌷 Flower|"
    "🌳 Tree|🌵 Cactus|🍄 Mushroom|🌏 Globe|🌙 Moon|☁ Cloud|🔥 Fire|🍌 Banana|"
    "🍎 Apple|🍓 Strawberry|🌽 Corn|🍕 Pizza|🎂 Cake|❤ Heart|😀 Smiley|🤖 Robot|"
    "🎩 Hat|👓 Glasses|🔧 Spanner|🎅 Santa|👍 Thumbs Up|☂ Umbrella|⌛ Hourglass|⏰ Clock|"
    "🎁 Gift|💡 Light Bulb|📕 Book|✏ Pencil|📎 Paperclip|✂ Scissors|🔒 Lock|🔑 Key|"
    "🔨 Hammer|☎ Telephone|🏁 Flag|🚂 Train|🚲 Bicycle|✈ Aeroplane|🚀 Rocket|🏆 Trophy|"
    "⚽ Ball|🎸 Guitar|🎺 Trumpet|🔔 Bell|⚓ Anchor|🎧 Headphones|📁 Folder|📌 Pin"
)
EMOJI = tuple((symbol, name) for symbol, name in (each.split(" ", 1) for each in _TABLE.split("|")))
"""The 64 emoji of the specification with their English names, without the selectors of a variant."""
SYMBOLS, DECIMALS = 7, 3
"""How many emoji and numbers are compared."""
MIN_DECIMAL, MAX_DECIMAL = 1000, 9191


@dataclass(frozen=True, slots=True)
class ShortCode:
    """What both sides show if nobody is in between."""

    emoji: tuple[int, ...]
    """Seven numbers from 0 to 63."""
    decimals: tuple[int, int, int]
    """Three numbers from 1000 to 9191."""

    @property
    def names(self) -> tuple[str, ...]:
        """The English names of the emoji."""
        return tuple(EMOJI[each][1] for each in self.emoji)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The emoji themselves."""
        return tuple(EMOJI[each][0] for each in self.emoji)

    def __str__(self) -> str:
        symbols = "  ".join(" ".join(EMOJI[each]) for each in self.emoji)
        return f"{symbols}   ({' '.join(map(str, self.decimals))})"
