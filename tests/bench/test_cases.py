"""Every provider of every row runs, twice, and computes what float64 PyTorch computes."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch

from fastgan import bench
from fastgan.bench import equality, shapes
from fastgan.bench.case import MODES, Workload, is_ours
from fastgan.bench.conv_bn_act import ConvBnActCase
from fastgan.ops import _dispatch, _library

from .tiny import CASES

CPU = torch.device("cpu")


def dtypes_and_cases():
    return [(case, dtype) for case in CASES for dtype in case.dtypes]


@pytest.mark.parametrize(("case", "dtype"), dtypes_and_cases(), ids=lambda v: str(v).removeprefix("torch."))
def test_every_provider_computes_the_same(case, dtype):
    expected = equality.oracle(case, dtype, CPU)
    assert expected and all(t.dtype in (torch.float64, torch.int64) for t in expected.values())
    for provider in {p for mode in case.modes for p in case.providers(mode, compiled=False)}:
        workload = case.setup(provider, dtype, CPU)
        equality.check_equal(case, provider, workload.results(), expected, dtype)
        assert (workload.implementation == "PyTorch") != is_ours(provider)
        for mode in case.modes:
            for _ in range(2):
                workload.modes[mode]()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_sides_are_there_in_every_mode(case):
    assert set(case.modes) <= set(MODES)
    for mode in case.modes:
        providers = case.providers(mode, compiled=False)
        assert {is_ours(p) for p in providers} == {True, False}
        assert not any(p.startswith("compile") for p in providers)


def test_names_are_unique_and_cases_travel():
    for cases in (CASES, bench.all_cases(), bench.all_cases("cuda", (16, 128))):
        assert len({str(case) for case in cases}) == len(cases)
        assert [pickle.loads(pickle.dumps(case)) for case in cases] == list(cases)


def test_a_wrong_side_is_refused():
    case = CASES[1]
    expected = equality.oracle(case, torch.float32, CPU)
    name = "grad of 0.weight"
    for wrong in (torch.zeros_like(expected[name]), 1.05 * expected[name], expected[name] * torch.nan):
        with pytest.raises(equality.UnequalError, match=f"{name} of fastgan is .* off float64 PyTorch"):
            equality.check_equal(case, "fastgan", expected | {name: wrong}, expected, torch.float32)
    missing = {k: v for k, v in expected.items() if k != name}
    with pytest.raises(equality.UnequalError, match=f"different tensors: {name}"):
        equality.check_equal(case, "fastgan", missing, expected, torch.float32)
    with pytest.raises(equality.UnequalError, match=r"has shape \(1,\)"):
        equality.check_equal(case, "fastgan", expected | {name: torch.zeros(1)}, expected, torch.float32)


def test_unequal_sides_are_not_timed(monkeypatch):
    case = CASES[-3]
    honest = type(case).setup

    def skewed(self, provider, *arguments, **options):
        workload = honest(self, provider, *arguments, **options)
        if provider != "fastgan":
            return workload
        return Workload(workload.modes, lambda: {k: 1.5 * v for k, v in workload.results().items()})

    monkeypatch.setattr(type(case), "setup", skewed)
    monkeypatch.setattr(bench.timer, "interleave", lambda *_: pytest.fail("timed"))
    with pytest.raises(equality.UnequalError, match="of fastgan is"):
        bench.run(cases=[case], measure_memory=False, show=lambda line: None)


def test_the_shapes_are_dcgan_s():
    made = {str(case) for case in bench.all_cases()}
    for expected in ("conv_transpose2d_bn_act G 512->256 @4", "conv2d_bn_act D 3->64 @64", "conv2d_bn_act D 512->1 @4"):
        assert expected in made
    gan_sizes = [layer.out_size for layer in bench.shapes.GENERATOR]
    assert gan_sizes == [4, 8, 16, 32, 64]
    assert [layer.out_size for layer in bench.shapes.DISCRIMINATOR] == [32, 16, 8, 4, 1]


def test_selection():
    cases = bench.all_cases()
    assert {c.op for c in bench.select(["conv"], cases)} == {"conv2d_bn_act", "conv_transpose2d_bn_act"}
    assert [c.op for c in bench.select(["wgan critic"], cases)] == ["step"]
    assert bench.select(None, cases) == cases
    with pytest.raises(ValueError, match="only is 'pooling', which is in the name of no benchmark"):
        bench.select(["conv", "pooling"], cases)


def test_every_op_has_a_pytest_benchmark_file():
    files = (Path(__file__).parents[2] / "benchmarks").glob("bench_*.py")
    ops = {re.search(r'^OP = "(\w+)"$', file.read_text(), re.MULTILINE)[1]: file.stem for file in files}
    assert ops == {case.op: "bench_" + case.op.strip("_") for case in bench.all_cases()}


def test_rows_of_convolutions_name_what_computes_them():
    """DCGAN's hidden layers are computed by kernels of our own, and the row says so."""
    if not _library.LOADED or _library.C.cpu_capability() == "DEFAULT" or _dispatch.current() == "reference":
        pytest.skip("no fast kernels here")
    for layer in (*shapes.GENERATOR[1:4], *shapes.DISCRIMINATOR[1:4]):
        found = ConvBnActCase(layer).setup("fastgan channels_last", torch.float32, CPU).implementation
        assert found.endswith(": winograd"), (layer.name, found)
