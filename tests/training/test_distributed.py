"""Several processes: equal to one to rounding, resumed bit for bit, and none waits for one that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from numerics import LONGEST_SUM, assert_rounding_equal

import fastgan
from fastgan.ops import _noise
from fastgan.training.batches import BatchStream
from fastgan.training.checkpoint import read_checkpoint

from . import processes
from .stubs import Images
from .test_resume import assert_same

ROOT = Path(fastgan.__file__).parents[1]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("worlds")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, processes.__file__, str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return root


def found(worlds: Path, scenario: str, rank: int) -> dict[str, torch.Tensor]:
    file = worlds / scenario / f"{rank}.pt"
    assert file.exists(), (worlds / scenario / f"{rank}.log").read_text()
    return torch.load(file)


def error(worlds: Path, scenario: str, rank: int) -> str:
    return (worlds / scenario / f"{rank}.error").read_text()


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "world"), [("dcgan", 2), ("dcgan", 3), ("wgan", 2), ("analytic", 2), ("double backward", 2)]
)
def test_processes_equal_one_with_the_joint_batch(worlds: Path, scenario: str, world: int) -> None:
    """In float64: the sums over a batch are taken in another order, which the bound of long sums covers. Of a network's
    tensors the largest value is the scale: some of its gradients cancel to zero. (The optimisers here forget the
    gradients' scale; the gradients themselves show it.)"""
    one = found(worlds, f"{scenario} 1", 0)
    for rank in range(world):
        several = found(worlds, f"{scenario} {world}", rank)
        assert several.keys() == (one.keys() if rank == 0 else {name for name in one if "record" not in name})
        for name, value in several.items():
            if not value.is_floating_point():
                assert torch.equal(value, one[name]), name
                continue
            kin = [t for other, t in one.items() if _kind(other) == _kind(name) and t.is_floating_point()]
            largest = max(t.abs().max().item() for t in kin)
            ulps = 64 if value.dtype == torch.float32 else LONGEST_SUM  # records are means in float32
            scale = torch.full((1,), largest, dtype=value.dtype)
            error = torch.cat([(value - one[name]).abs().flatten(), scale])
            assert_rounding_equal(error, torch.cat([torch.zeros_like(error[:-1]), scale]), name, ulps)


def _kind(name: str) -> str:
    """Gradients, averages, records, or the tensors of one network."""
    return name.split(" ")[0] if " " in name else name.split(".")[0]


def test_norms_over_joint_batches_of_unequal_parts(worlds: Path) -> None:
    parts = [found(worlds, "norms", rank) for rank in (0, 1)]
    cases = processes.norm_cases()
    assert len(cases) >= 10
    for case, (model, x, cotangent) in cases.items():
        x = x.double().clone().requires_grad_()
        # float32 knows a mean of 1e4 to half a unit of its last place, 5e-4 of the deviation 1
        ulps = 10_000 if "far" in case else LONGEST_SUM
        y = model.double()(x)
        (y * cotangent).sum().backward()
        for name, exact in (("y", y.detach()), ("grad_x", x.grad)):
            got = torch.cat([part[f"{case} {name}"] for part in parts])
            assert_rounding_equal(got, exact, f"{case} {name}", ulps)
        for rank, part in enumerate(parts):
            for name, value in model.state_dict().items():
                got = part[f"{case} {name}"]
                if got.is_floating_point():
                    assert_rounding_equal(got, value, f"{rank} {case} {name}", ulps)
                else:
                    assert torch.equal(got, value), case
            for name, p in model.named_parameters():
                if "far" not in case:
                    sized = part[f"{case} gradient of {name}"] * 2 + 1  # the mean over two; 1: those of biases cancel
                    assert_rounding_equal(sized, p.grad + 1, f"{rank} {case} {name}", LONGEST_SUM)


def test_gradients_that_some_processes_lack(worlds: Path) -> None:
    for rank in (0, 1):
        part = found(worlds, "norms", rank)
        assert (part["gradient both"] == 1.5).all()
        assert (part["gradient one"] == 3.0).all()
        last = part["gradient last"]
        assert torch.equal(last, torch.arange(96.0).view(2, 3, 4, 4) * 1.5)
        assert last.is_contiguous(memory_format=torch.channels_last)


def test_a_penalty_through_a_synchronised_norm_is_refused(worlds: Path) -> None:
    assert "sync_bn=False" in found(worlds, "norms", 0)["twice"]


def test_an_adaptive_augmentation_follows_the_joint_batch(worlds: Path) -> None:
    for rank in (0, 1):
        assert found(worlds, "adaptive", rank)["p"].item() == pytest.approx(3 * 6 / 50)  # steps, logits a step, images


def test_an_overflow_in_one_process_is_everybody_s(worlds: Path) -> None:
    """Else one would step and the other not; a checkpoint would find the weights different."""
    assert (worlds / "overflow" / "run").exists(), (worlds / "overflow" / "0.log").read_text()
    for rank in (0, 1):
        assert not (worlds / "overflow" / f"{rank}.error").exists(), error(worlds, "overflow", rank)
    state = read_checkpoint(worlds / "overflow" / "run" / "checkpoints" / "last.safetensors")
    assert state["step"] == 6 and state["precision"]["critic"]["skipped"] > 0


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "rank", "message"),
    [
        ("killed", 0, "RankLost: rank 1 died without a word (in step 5; "),
        ("killed", 0, "last.safetensors holds step 3; the same command goes on from it)"),
        ("first killed", 1, "RankLost: the process that holds the rendezvous (rank 0 or its torchrun) is gone"),
        ("raised", 0, "RankLost: rank 1 stopped: ValueError: no such luck (in step 3; no checkpoint was written)"),
        ("raised", 1, "ValueError: no such luck"),
        ("interrupted", 0, "RankLost: rank 1 stopped: KeyboardInterrupt (in step 2"),
        ("interrupted", 1, "KeyboardInterrupt"),
        ("stuck", 0, "ValueError: no such luck"),
        ("alone", 0, "RuntimeError: a call that all processes make together was made by rank 0 alone"),
        ("alone", 1, "RankLost: rank 0 stopped: RuntimeError: a call that all processes make together"),
        ("other options", 1, "ValueError: rank 1 was started with trainer.steps 7, rank 0 with 6"),
        ("other options", 0, "RankLost: rank 1 stopped: ValueError: rank 1 was started with trainer.steps 7"),
    ],
)
def test_who_is_gone_and_why(worlds: Path, scenario: str, rank: int, message: str) -> None:
    assert message in error(worlds, scenario, rank)


@pytest.mark.parametrize(
    ("scenario", "rank", "message"),
    [
        ("stuck", 1, "rank 0 stopped: ValueError: no such luck (in step 2; "),
        ("frozen", 0, "rank 1 died without a word (in step 4; "),
    ],
)
def test_a_process_that_waits_for_ever_is_ended_with_the_message(
    worlds: Path, scenario: str, rank: int, message: str
) -> None:
    assert not (worlds / scenario / f"{rank}.error").exists()
    assert message in (worlds / scenario / f"{rank}.log").read_text()


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_resumed_by_as_many_processes_bit_for_bit(worlds: Path) -> None:
    assert_same(worlds / "resumed" / "run", worlds / "whole" / "run")
    state = read_checkpoint(worlds / "whole" / "run" / "checkpoints" / "last.safetensors")
    first, second = state["ranks"]
    assert not torch.equal(first["rng"]["torch"], second["rng"]["torch"])
    assert list(second["buffers"]) == ["seen"] and not first["buffers"]
    assert not torch.equal(second["buffers"]["seen"], state["model"]["seen"])


@pytest.mark.parametrize(("scenario", "world"), [("by one", 1), ("by three", 3)])
def test_resumed_by_another_number_of_processes(worlds: Path, scenario: str, world: int) -> None:
    run = worlds / scenario / "run"
    assert run.exists(), (worlds / scenario / "0.log").read_text()
    state = read_checkpoint(run / "checkpoints" / "last.safetensors")
    whole = read_checkpoint(worlds / "whole" / "run" / "checkpoints" / "last.safetensors")
    assert (state["step"], state["position"]) == (whole["step"], whole["position"])
    assert f"processes: 2 then, {world} now" in (worlds / scenario / "0.log").read_text()
    assert torch.equal(state["rng"]["torch"], whole["rng"]["torch"]) == (world == 3)  # alone, dropout draws from it


# -- one process -------------------------------------------------------------------------------------------------------


def test_parts_of_a_batch_are_disjoint_and_in_its_order() -> None:
    joint = BatchStream(Images(20), 6, seed=1)
    parts = [BatchStream(Images(20), 6, seed=1, rank=rank, world=3, num_workers=0) for rank in range(3)]
    for _ in range(5):  # into the second epoch
        batch = joint.next()
        together = [part.next() for part in parts]
        assert torch.equal(torch.cat([part.index for part in together]), batch.index)
        assert torch.equal(torch.cat([part.image for part in together]), batch.image)
    assert {stream.position for stream in (joint, *parts)} == {5}


def test_a_joint_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 20, the joint batch of 3 processes: take a multiple of 3"):
        BatchStream(Images(20), 64, rank=1, world=3)


def test_noise_is_the_joint_batch_s() -> None:
    torch.manual_seed(7)
    like = {"device": torch.device("cpu"), "dtype": torch.float32}
    joint = _noise.randn(6, 20, **like), _noise.rand(6, **like), _noise.randn(6, 20, **like)
    parts = []
    for rank in (0, 1):
        with _noise.shared(rank, 2, 3, torch.Generator().manual_seed(7)):
            first = _noise.randn(3, 20, **like)
            _noise.randn(4, 20, **like)  # of something else than the batch: not joint
            parts.append((first, _noise.rand(3, **like), _noise.randn(3, 20, **like)))
    for whole, *rows in zip(joint, *parts, strict=True):
        assert torch.equal(torch.cat(rows), whole)
