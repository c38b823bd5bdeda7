"""What `import fastgan` may do, what it does without its extension, and which part may import which."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import fastgan

PACKAGE = Path(fastgan.__file__).resolve().parent
NEEDED = {"torch", "numpy"}

# DESIGN, "The house": imports point only down this list. bench and _info serve the command line.
HOUSE = ["cli", "editor", "recipes", "bench", "_info", "analysis", "training", "architectures", "registry", "metrics"]
HOUSE += ["data", "losses", "optim", "nn", "ops", "_cache", "_words"]


def python(code: str, *arguments: str, path: Path = PACKAGE.parent, **environment: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if not k.startswith("FASTGAN_")}
    env |= {"PYTHONPATH": str(path)} | environment
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=path, timeout=300)


def output(code: str, *arguments: str, path: Path = PACKAGE.parent, **environment: str) -> str:
    process = python(code, *arguments, path=path, **environment)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


# -- side effects ------------------------------------------------------------------------------------------------------

BLOCKED = """
import sys
for name in ("PIL", "safetensors", "tyro", "tqdm", "rich", "torchvision", "matplotlib", "gradio"):
    sys.modules[name] = None  # importing it raises
"""


def test_import_and_ops_need_torch_and_numpy_alone():
    out = output(
        BLOCKED
        + """
import fastgan, torch
fastgan.ops, fastgan.optim, fastgan.losses, fastgan.nn, fastgan.fuse, fastgan.create, fastgan.Architecture
critic = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 1))
x = torch.randn(4, 3, 8, 8)
fastgan.ops.gradient_penalty(critic, x, x).backward()
fastgan.optim.RMSprop(critic.parameters(), clip_value=0.1).step()
fastgan.ops.conv2d_bn_act(x, torch.randn(2, 3, 3, 3)).y
fastgan.fuse(critic)
print(len(fastgan.info()))
"""
    )
    assert int(out) > 5


def test_metrics_need_torch_and_numpy_alone():
    out = output(
        BLOCKED
        + """
import torch, fastgan.metrics
from fastgan.data import load
data = load("scenes", image_size=16, size=50)
print(len(fastgan.metrics.Measure(data, ["kid", "prdc"], n=50)(torch.zeros(50, 3, 16, 16))))
print(fastgan.metrics.CollapseDetector(data)(torch.zeros(50, 3, 16, 16)).collapsed)
"""
    )
    assert out.split() == ["6", "True"]


def test_import_is_silent_opens_no_device_and_reads_no_arguments():
    out = output(
        """
import sys, json, random, torch, numpy
sys.argv = property(lambda self: 1 / 0)  # whoever indexes it fails
before = torch.get_num_threads(), torch.get_rng_state().sum().item(), torch.is_grad_enabled(), torch.get_default_dtype()
devices = torch.cuda.is_initialized()
import fastgan, fastgan.ops, fastgan.optim, fastgan.losses, fastgan.nn
after = torch.get_num_threads(), torch.get_rng_state().sum().item(), torch.is_grad_enabled(), torch.get_default_dtype()
assert before == after, (before, after)
assert not devices and not torch.cuda.is_initialized()
""",
        "--help",
    )
    assert out == ""


def test_import_alone_loads_no_part():
    out = output("import sys, fastgan, json; print(json.dumps([m for m in sys.modules if m.startswith('fastgan')]))")
    assert json.loads(out) == ["fastgan"]


def test_public_names_resolve():
    names = {"Architecture", "Trainer", "create", "fuse", "info", "list_architectures", "losses", "nn", "ops", "optim"}
    for name in names | {"register", "unfuse"}:
        assert name in dir(fastgan) and getattr(fastgan, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        fastgan.nothing  # noqa: B018


# -- the switch --------------------------------------------------------------------------------------------------------


def test_the_environment_variable_chooses_and_a_wrong_word_is_named():
    code = "import fastgan.ops._dispatch as d; print(d.current())"
    assert output(code).strip() == "auto"
    assert output(code, FASTGAN_IMPL="reference").strip() == "reference"
    process = python(code, FASTGAN_IMPL="quick")
    assert "FASTGAN_IMPL is 'quick'; it takes one of auto, reference, kernel" in process.stderr


# -- the extension -----------------------------------------------------------------------------------------------------

USE = """
import torch, fastgan
from fastgan.ops import _library, use
x = torch.randn(4, 3, 8, 8)
critic = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 1))
fastgan.ops.gradient_penalty(critic, x, x).backward()
fastgan.optim.RMSprop(critic.parameters(), clip_value=0.1).step()
assert all(p.abs().max() <= 0.1 for p in critic.parameters())
y = fastgan.ops.conv2d_bn_act(x, torch.randn(2, 3, 3, 3, requires_grad=True)).y
y.sum().backward()
try:
    with use("kernel"):
        fastgan.ops.conv2d_bn_act(x, torch.randn(2, 3, 3, 3))
    raise SystemExit("the kernel was found")
except NotImplementedError as error:
    assert _library.REASON in str(error), error
assert not _library.LOADED and fastgan.info()["extension"] == _library.REASON
print(_library.REASON)
"""


@pytest.fixture
def without_extension(tmp_path) -> Path:
    """A copy of the package with no compiled file in it."""
    copied = ("__init__.py", "_cache.py", "_info.py", "_words.py", "optim.py", "losses.py", "registry.py", "ops", "nn")
    (tmp_path / "fastgan").mkdir()
    for name in copied:
        source = PACKAGE / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / "fastgan" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / "fastgan" / name)
    return tmp_path


def test_without_the_extension_everything_works_and_says_why(without_extension):
    reason = output(USE, path=without_extension)
    assert reason.startswith("not built: ") and "pip install" in reason
    (without_extension / "fastgan" / "_not_built.txt").write_text("no C++ compiler was found\n")
    assert "because no C++ compiler was found" in output(USE, path=without_extension)


def test_an_extension_for_another_python_is_named(without_extension):
    (without_extension / "fastgan" / "_C.cpython-27-nowhere.so").write_bytes(b"")
    reason = output(USE, path=without_extension)
    assert reason.startswith("built for another Python: found _C.cpython-27-nowhere.so")


def test_a_broken_extension_is_named(without_extension):
    (without_extension / "fastgan" / f"_C{EXTENSION_SUFFIXES[0]}").write_bytes(b"not a library")
    reason = output(USE, path=without_extension)
    assert reason.startswith("built for another torch: it does not load under torch ")


# -- the house ---------------------------------------------------------------------------------------------------------


def imports(file: Path) -> set[str]:
    """Parts of fastgan that a file imports, at the top or inside functions; type checking alone does not count."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
    package = ["fastgan", *file.relative_to(PACKAGE).with_suffix("").parts[:-1]]
    found: list[list[str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            found += [[*module, alias.name] for alias in node.names]
    return {path[1] for path in found if path[0] == "fastgan" and len(path) > 1}


def part(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def test_imports_point_only_down_the_house():
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        own = part(file)
        if own in ("__init__", "__main__"):
            continue  # the public names, resolved on first use
        assert own in HOUSE, f"{file.name} has no place in the house"
        wrong += [
            f"{file.relative_to(PACKAGE)} imports fastgan.{other}"
            for other in imports(file)
            if other in HOUSE and HOUSE.index(other) < HOUSE.index(own)
        ]
    assert not wrong, "\n".join(wrong)


def test_ops_and_nn_import_torch_numpy_and_the_standard_library_alone():
    for file in [*(PACKAGE / "ops").rglob("*.py"), *(PACKAGE / "nn").rglob("*.py"), PACKAGE / "optim.py"]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        roots = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        roots |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level}
        foreign = roots - NEEDED - {"fastgan"} - set(sys.stdlib_module_names)
        assert not foreign, f"{file.relative_to(PACKAGE)} imports {', '.join(sorted(foreign))}"
