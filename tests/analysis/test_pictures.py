"""Sheets and GIFs, pixel by pixel."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from fastgan.analysis.pictures import GAP, LINE, Tile, enlarge, save_gif, save_sheet


def test_enlarging_repeats_pixels():
    image = torch.arange(4.0).view(1, 1, 2, 2)
    assert enlarge(image, 2).tolist() == image.tolist()
    assert enlarge(image, 3).tolist() == [[[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]]]


def test_tiles_lie_where_they_are_put_with_their_text_below(tmp_path):
    red = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1).expand(3, 8, 8)
    grey = torch.zeros(1, 8, 8)
    file = save_sheet([Tile(0, 0, red, "7"), Tile(1, 2, grey), Tile(1, 0, text="=")], tmp_path / "new" / "sheet.png")
    pixels = np.asarray(Image.open(file))
    step_y, step_x = 8 + 2 * GAP + LINE, 8 + 2 * GAP
    assert pixels.shape == (2 * step_y, 3 * step_x, 3)
    assert (pixels[GAP : GAP + 8, GAP : GAP + 8] == (255, 0, 0)).all()
    assert (pixels[step_y + GAP : step_y + GAP + 8, 2 * step_x + GAP : 2 * step_x + GAP + 8] == 128).all()
    ink = (pixels < 100).all(-1)
    assert ink[GAP + 8 : step_y, :step_x].any()  # 7
    assert ink[step_y:, :step_x].any()  # =
    assert not ink[:, step_x:].any()
    bare = Image.open(save_sheet([Tile(0, 0, red)], tmp_path / "bare.png", captions=False))
    assert bare.size == (step_x, step_x)


def test_a_gif_has_every_frame_and_never_ends(tmp_path):
    frames = [torch.full((3, 1, 4, 4), value) for value in (-1.0, 0.0, 1.0)]
    gif = Image.open(save_gif(frames, tmp_path / "walk.gif", columns=2, per_second=20))
    assert gif.n_frames == 3 and gif.info["loop"] == 0 and gif.info["duration"] == 50
    found = []
    for i in range(3):
        gif.seek(i)
        found.append(int(np.asarray(gif.convert("L"))[3, 3]))
    assert found[0] == 0 and abs(found[1] - 128) <= 1 and found[2] == 255
