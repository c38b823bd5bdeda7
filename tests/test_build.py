"""The build: what setup.py says and does without a compiler, what the extension is made of, what the sdist holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan.ops import _library

ROOT = Path(__file__).resolve().parent.parent
needs_extension = pytest.mark.skipif(not _library.LOADED, reason=_library.REASON)
needs_tree = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="tests run outside a source tree")


def copy_of_tree(target: Path) -> Path:
    """What a build reads, without what builds leave behind."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "build")
    for name in ("fastgan", "csrc"):
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in"):
        shutil.copy(ROOT / name, target / name)
    return target


def setup_py(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "setup.py", *arguments]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


# ---- building -------------------------------------------------------------------------------------------------------


@needs_tree
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"FASTGAN_BUILD": "skip"}, "FASTGAN_BUILD=skip"),
        ({"FASTGAN_BUILD": "auto", "PATH": "", "CXX": ""}, "no C++ compiler was found"),
        ({"FASTGAN_BUILD": "auto", "CXX": "no-such-compiler"}, "CXX is 'no-such-compiler'"),
    ],
)
def test_without_a_compiler_a_pure_python_package_is_built(tmp_path, environment, words):
    tree = copy_of_tree(tmp_path / "tree")
    done = setup_py(tree, "build", **environment)
    assert done.returncode == 0, done.stderr
    assert f"not built because {words}" in done.stdout
    package = tree / "build" / "lib" / "fastgan"
    assert (package / "__init__.py").exists()
    assert not list(package.glob("_C*"))
    assert words in (package / "_not_built.txt").read_text()
    extension, reason = _library._load(package)
    assert extension is None
    assert words in reason


@needs_tree
def test_require_fails_where_there_is_no_compiler(tmp_path):
    tree = copy_of_tree(tmp_path / "tree")
    done = setup_py(tree, "build_ext", "--inplace", FASTGAN_BUILD="require", PATH="", CXX="")
    assert done.returncode != 0
    assert "FASTGAN_BUILD=require, but the extension was not built because no C++ compiler was found" in done.stderr


@needs_tree
def test_a_wrong_choice_names_those_there_are(tmp_path):
    done = setup_py(copy_of_tree(tmp_path / "tree"), "--version", FASTGAN_BUILD="maybe")
    assert done.returncode != 0
    assert "FASTGAN_BUILD is 'maybe'; it takes auto, require or skip" in done.stderr


@needs_tree
def test_sdist_holds_all_that_a_build_reads(tmp_path):
    tree = copy_of_tree(tmp_path / "tree")
    done = setup_py(tree, "-q", "sdist", "--dist-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    sources = [p for p in (tree / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")]
    needed = {str(p.relative_to(tree)) for p in sources} | {"setup.py", "pyproject.toml", "fastgan/ops/_library.py"}
    assert len(sources) > 40
    assert not needed - held


# ---- the extension --------------------------------------------------------------------------------------------------


def test_load_tells_the_ways_apart_in_which_there_is_no_extension(tmp_path):
    assert _library._load(tmp_path)[1].startswith("not built: ")
    (tmp_path / "_C.cpython-27-x86_64-linux-gnu.so").touch()
    assert _library._load(tmp_path)[1].startswith("built for another Python: ")


@needs_extension
def test_build_info_states_the_facts():
    info = _library.C.build_info()
    assert info["version"] == fastgan.__version__
    assert info["python"].split(".")[:2] == list(map(str, sys.version_info[:2]))
    assert info["summary"].startswith(f"built: CPU ({info['cpu_capabilities']}); CUDA: ")
    assert info["cpu_capabilities"].startswith("DEFAULT")
    assert bool(info["cuda_archs"]) == bool(info["cuda"])
    assert bool(info["cuda_reason"]) != bool(info["cuda"])


def disassembly() -> dict[str, str]:
    """Instructions of every function of the extension, by its mangled name."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", _library.C.__file__], capture_output=True, text=True, check=True
    ).stdout
    parts = re.split(r"^[0-9a-f]+ <([^>]+)>:$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@needs_extension
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
@pytest.mark.skipif(
    "AVX512" not in (_library.LOADED and _library.C.build_info()["cpu_capabilities"] or ""), reason="x86"
)
def test_wide_registers_stay_in_the_functions_of_their_capability():
    functions = disassembly()

    def users(register: str) -> set[str]:
        return {name for name, code in functions.items() if register in code}

    assert any("6AVX512" in name for name in users("%zmm"))
    assert any("4AVX2" in name for name in users("%ymm"))
    assert {name for name in users("%zmm") if "6AVX512" not in name} == set()
    assert {name for name in users("%ymm") if "6AVX512" not in name and "4AVX2" not in name} == set()


# Weak symbols are null where torch has none of that name, and the code asks before it calls.
WEAK = {
    "aoti_torch_get_current_cuda_stream": "only a CUDA build of torch has it",
    "torch_exception_get_what_without_backtrace": "torch from 2.13 has it; declared in ops/stable.h",
    "torch_from_blob": "torch from 2.11 has it; declared in ops/pooled_tensor.cpp",
    "__cxa_pure_virtual": "the C++ library has it",
    "__cxa_finalize": "the C library has it",
    "__gmon_start__": "of profilers, from the C start files",
    "_ITM_deregisterTMCloneTable": "of transactional memory, from the C start files",
    "_ITM_registerTMCloneTable": "of transactional memory, from the C start files",
}


@needs_extension
@pytest.mark.skipif(not sys.platform.startswith("linux") or shutil.which("nm") is None, reason="Linux, nm")
def test_the_extension_asks_for_nothing_that_torch_2_10_lacks():
    """One build serves every torch from 2.10 on: its undefined symbols are 2.10's C interface, CPython, libc or C++."""
    listed = (ROOT / "tests" / "torch_2_10_symbols.txt").read_text().splitlines()
    of_torch = {line for line in listed if not line.startswith("#")}
    output = subprocess.run(
        ["nm", "-D", "--undefined-only", _library.C.__file__], capture_output=True, text=True, check=True
    ).stdout
    symbols = [line.split() for line in output.splitlines()]
    strong = {name for kind, name in symbols if kind == "U"}
    weak = {name.split("@")[0] for kind, name in symbols if kind != "U"}
    assert "torch_call_dispatcher" in strong, "nm shows nothing of torch: this test would pass on anything"
    elsewhere = re.compile(r"_?Py\w+|\w+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+")  # libc's and C++'s names carry a version
    assert {name for name in strong - of_torch if not elsewhere.fullmatch(name)} == set()
    assert weak - WEAK.keys() == set()


CAPABILITIES = ("DEFAULT", "AVX2", "AVX512")


@pytest.fixture
def capability():
    """set_cpu_capability, undone afterwards."""
    before = _library.C.cpu_capability()
    yield _library.C.set_cpu_capability
    _library.C.set_cpu_capability(before)


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_capabilities_agree(capability, dtype, memory_format):
    torch.manual_seed(0)
    z = (torch.randn(3, 11, 9, 7) * 2 + 5).to(dtype).contiguous(memory_format=memory_format)
    best = _library.C.cpu_capability()
    outcomes = []
    for name in CAPABILITIES[: CAPABILITIES.index(best) + 1]:
        capability(name)
        assert _library.C.cpu_capability() == name
        mean, var = torch.ops.fastgan.bn_stats(z)
        outcomes.append((mean, var, torch.ops.fastgan.bn_act(z, mean, var.rsqrt(), None, None, "tanh", 0.2)))
    ulp = torch.finfo(dtype).eps
    for mean, var, y in outcomes[1:]:
        torch.testing.assert_close(mean, outcomes[0][0], rtol=1e-6, atol=0)
        torch.testing.assert_close(var, outcomes[0][1], rtol=2e-6, atol=0)
        torch.testing.assert_close(y, outcomes[0][2], rtol=0, atol=8 * ulp if dtype is torch.float32 else ulp)


@needs_extension
def test_capability_is_only_lowered(capability):
    code = "from fastgan.ops._library import C; C.set_cpu_capability('AVX512')"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "capability is AVX512; this process takes at most DEFAULT" in done.stderr
    with pytest.raises(ValueError, match="'SSE'; it takes DEFAULT, AVX2 or AVX512"):
        capability("SSE")


@needs_extension
def test_results_do_not_depend_on_the_number_of_threads():
    z = torch.randn(5, 19, 67, 61)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            for memory_format in (torch.contiguous_format, torch.channels_last):
                results.append(torch.ops.fastgan.bn_stats(z.contiguous(memory_format=memory_format)))
    finally:
        torch.set_num_threads(threads)
    for i in range(2, 6):
        assert torch.equal(results[i][0], results[i % 2][0])
        assert torch.equal(results[i][1], results[i % 2][1])


@needs_extension
def test_variance_survives_a_mean_far_from_zero():
    z = torch.randn(4, 3, 33, 35) + 1e4
    for memory_format in (torch.contiguous_format, torch.channels_last):
        _, var = torch.ops.fastgan.bn_stats(z.contiguous(memory_format=memory_format))
        torch.testing.assert_close(var.double(), z.double().var((0, 2, 3), correction=0), rtol=1e-5, atol=0)


@needs_extension
def test_tanh_is_accurate_everywhere(capability):
    x = torch.cat([torch.linspace(-12, 12, 20001), torch.logspace(-40, 1, 4001), torch.tensor([0.0, -0.0])])
    special = torch.tensor([float("inf"), -float("inf"), float("nan")])
    zero, one = torch.zeros(1), torch.ones(1)
    best = _library.C.cpu_capability()
    for name in CAPABILITIES[: CAPABILITIES.index(best) + 1]:
        capability(name)
        y = torch.ops.fastgan.bn_act(x.view(-1, 1), zero, one, None, None, "tanh", 0.0).view(-1)
        exact = torch.tanh(x.double())
        tiny = 1.2e-38  # below the least normal number an ulp is a fixed distance
        ulps = (y.double() - exact).abs() / (exact.abs().clamp(min=tiny) * 2.0**-23)
        assert ulps.max() < 4
        y = torch.ops.fastgan.bn_act(special.view(-1, 1), zero, one, None, None, "tanh", 0.0).view(-1)
        assert y[:2].tolist() == [1.0, -1.0]
        assert y[2].isnan()
