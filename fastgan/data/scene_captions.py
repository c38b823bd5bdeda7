"""Sentences about scenes: the same facts in thousands of wordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["CHOICES", "caption"]

CHOICES = 12  # random numbers that one caption uses at most

SIZE = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium-sized", "mid-sized", "average-sized"),
    "large": ("large", "big", "huge"),
}
MATERIAL = {"matte": ("matte", "dull", ""), "shiny": ("shiny", "glossy", "polished")}
TEXTURE = {
    "plain": ("", "plain", "unpatterned"),
    "striped": ("striped", "banded", "stripy"),
    "checkered": ("checkered", "chequered", "check-patterned"),
    "dotted": ("dotted", "spotted", "polka-dot"),
}
SHAPE = {
    "sphere": ("sphere", "ball"),
    "cube": ("cube", "box", "block"),
    "cylinder": ("cylinder", "drum", "column"),
    "cone": ("cone",),
    "pyramid": ("pyramid",),
    "gem": ("gem", "octahedron", "jewel"),
}
POSITION = {
    "left": ("on the left", "at the left", "to the left"),
    "middle": ("in the middle", "in the center", "near the middle"),
    "right": ("on the right", "at the right", "to the right"),
}
GROUND = {
    "plain": ("on plain ground", "on bare ground", "on an even floor"),
    "checkered": ("on a checkered floor", "on checkered ground", "on a chessboard floor"),
    "striped": ("on a striped floor", "on striped ground", "on ground with stripes"),
    "spotted": ("on a spotted floor", "on spotted ground", "on ground with spots"),
}
SKY = {
    "clear": ("under a clear sky", "beneath a cloudless sky", "below an empty sky"),
    "cloudy": ("under a cloudy sky", "beneath clouds", "below a sky with clouds"),
    "banded": ("under a banded sky", "beneath a sky of bands", "below streaks of cloud"),
    "starry": ("under a starry sky", "beneath the stars", "below a night sky"),
}
LIGHT = {
    "left": ("lit from the left", "with light from the left"),
    "front": ("lit from the front", "with light from the front"),
    "right": ("lit from the right", "with light from the right"),
}
NEIGHBOR = {
    "beside": ("beside it is", "next to it is", "side by side with"),
    "in front": ("in front of it is", "partly hidden by", "half behind"),
    "behind": ("behind it is", "partly hiding", "half in front of"),
}
# {solid} carries its article; the wordings differ in order, not in content
FRAMES = (
    "{solid} {position}, {ground}, {sky}, {light}{neighbor}",
    "{sky}, {solid} {position}, {ground}, {light}{neighbor}",
    "{ground}, {sky}: {solid} {position}, {light}{neighbor}",
    "a picture of {solid} {position}, {light}, {ground}, {sky}{neighbor}",
    "there is {solid} {position}, {ground} and {sky}, {light}{neighbor}",
    "{solid} stands {position} {ground}, {light}, {sky}{neighbor}",
)


def caption(words: Mapping[str, str], numbers: Sequence[float]) -> str:
    """One sentence, lower case, without a full stop.

    Args:
        words: factor name to value, as in ``scenes.FACTORS``.
        numbers: ``CHOICES`` numbers in [0, 1): they choose the wording.
    """
    stream = iter(numbers)

    def pick(options: Sequence[str]) -> str:
        return options[int(next(stream) * len(options))]

    adjectives = [pick(SIZE[words["size"]]), pick(MATERIAL[words["material"]]), pick(TEXTURE[words["texture"]])]
    solid = _with_article(*adjectives, words["color"], pick(SHAPE[words["shape"]]))
    neighbor = ""
    position, ground, sky, light = (
        pick(table[words[factor]])
        for factor, table in (("position", POSITION), ("ground", GROUND), ("sky", SKY), ("light", LIGHT))
    )
    frame = pick(FRAMES)
    if words["neighbor"] != "none":
        other = _with_article(words["neighbor_color"], pick(SHAPE[words["neighbor_shape"]]))
        neighbor = f", {pick(NEIGHBOR[words['neighbor']])} {other}"
    return frame.format(solid=solid, position=position, ground=ground, sky=sky, light=light, neighbor=neighbor)


def _with_article(*words: str) -> str:
    phrase = " ".join(filter(None, words))
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
