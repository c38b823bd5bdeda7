"""`fastgan arithmetic RUN`: vector arithmetic on the latents of samples that the user picks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from fastgan.analysis import latent
from fastgan.analysis.arithmetic import NOISE, combine, jitter
from fastgan.analysis.pictures import Tile, enlarge, save_sheet
from fastgan.architectures.base import Architecture
from fastgan.cli._run import RunOptions, open_run
from fastgan.training.options import check_count

COLUMNS = 10  # of the sheet
NEIGHBOURS = 8  # around the result: a square of 3 x 3
TILE = 64  # pixels that images are enlarged to


@dataclass
class ArithmeticOptions(RunOptions):
    """Compute mean(a) - mean(b) + mean(c) of samples' latents. First --sheet writes RUN/arithmetic-sheet.png, samples
    with their numbers; then --a 3,17,40 --b 1,5,9 --c 2,8,33 writes RUN/arithmetic.png: three columns of samples over
    their means, and the result amid eight neighbours. Run, seed and label must be the sheet's."""

    sheet: bool = False
    """write the numbered samples"""
    a: str = ""
    """numbers of samples that have what is wanted, such as 3,17,40 (the paper: three)"""
    b: str = ""
    """numbers of samples to take away"""
    c: str = ""
    """numbers of samples to add"""
    n: int = 100
    """samples of the sheet"""
    noise: float = NOISE
    """largest noise on a coordinate of the neighbours' latents"""
    label: int | None = None
    """of a model with labels: the class of all samples"""
    seed: int = 0
    """of the samples"""
    ema: bool = True
    """the averaged generator; --no-ema: the last step's"""
    out: Path | None = None
    """PNG to write; none: RUN/arithmetic-sheet.png, RUN/arithmetic.png"""
    batch_size: int = 64
    """images made at a time"""


def run(argv: Sequence[str]) -> None:
    options = tyro.cli(ArithmeticOptions, args=argv, prog="fastgan arithmetic")
    for name, least in (("n", 1), ("batch_size", 1), ("seed", 0)):
        check_count(name, getattr(options, name), least)
    if options.sheet == any((options.a, options.b, options.c)):
        raise ValueError("it takes either --sheet, or numbers from the sheet: --a 3,17,40 --b 1,5,9 --c 2,8,33")
    picked = {} if options.sheet else {name: _numbers(name, getattr(options, name)) for name in "abc"}
    opened = open_run(options, ema=options.ema)
    architecture = opened.architecture
    if "label" in architecture.conditions and options.label is None:
        raise ValueError(f"{architecture.name} makes images of a class: choose one, such as --label 0")
    z = latent.draw(architecture, options.n, options.seed)
    if options.sheet:
        print(_sheet(_images(architecture, z, options), options.out or opened.folder / "arithmetic-sheet.png"))
        return
    results = combine(z, **picked)
    torch.manual_seed(options.seed)
    neighbours = jitter(results[3], NEIGHBOURS, options.noise)
    columns = [torch.cat([z[picked[name]], mean[None]]) for name, mean in zip("abc", results[:3], strict=True)]
    made = _images(architecture, torch.cat([*columns, results[3:], neighbours]), options)
    pieces = made.split([*map(len, columns), 1, NEIGHBOURS])
    print(_picture(pieces, picked, options.out or opened.folder / "arithmetic.png"))


def _numbers(name: str, given: str) -> list[int]:
    try:
        numbers = [int(word) for word in given.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise ValueError(f"--{name} is {given!r}; it takes numbers from the sheet, such as --{name} 3,17,40")
    return numbers


def _images(architecture: Architecture, z: torch.Tensor, options: ArithmeticOptions) -> torch.Tensor:
    labels = latent.labels_for(architecture, options.label, len(z))
    return enlarge(latent.generate(architecture, z, labels, options.batch_size), TILE)


def _sheet(images: torch.Tensor, path: Path) -> Path:
    return save_sheet([Tile(i // COLUMNS, i % COLUMNS, image, str(i)) for i, image in enumerate(images)], path)


def _picture(pieces: Sequence[torch.Tensor], picked: dict[str, list[int]], path: Path) -> Path:
    """The paper's figure 7: columns a - b + c, their means in the last row, and the result amid its neighbours."""
    *columns, result, neighbours = pieces
    lowest = max(3, *map(len, picked.values()))  # row of the means; the result's square takes three above it
    tiles = []
    for place, (name, column) in enumerate(zip("abc", columns, strict=True)):
        samples, mean = column[:-1], column[-1]
        numbers = picked[name]
        first = lowest - len(numbers)
        tiles += [Tile(first + i, 2 * place, image, str(numbers[i])) for i, image in enumerate(samples)]
        tiles += [Tile(lowest, 2 * place, mean, f"mean {name}"), Tile(lowest, 2 * place + 1, text="-+="[place])]
    square = [*neighbours[: NEIGHBOURS // 2], *result, *neighbours[NEIGHBOURS // 2 :]]
    for i, image in enumerate(square):
        text = "a - b + c" if i == NEIGHBOURS // 2 else ""
        tiles.append(Tile(lowest - 2 + i // 3, 6 + i % 3, image, text))
    return save_sheet(tiles, path)
