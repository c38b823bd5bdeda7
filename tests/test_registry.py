"""Names, options, laziness, and packages of third parties, one of them really installed."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from torch import nn

import fastgan
from fastgan import registry
from fastgan.architectures.base import Architecture, option

REPOSITORY = Path(fastgan.__file__).parents[1]
THIRD_PARTY = Path(__file__).parent / "fixtures" / "third_party"


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers is forgotten after it; the built-ins, imported once a process, are not."""
    for name in registry._builtin_names():
        registry.get(name)
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))


class Mine(Architecture):
    @dataclass(frozen=True)
    class Config(Architecture.Config):
        depth: int = option(2, "layers", minimum=1, maximum=9)
        slope: float = option(0.2, "of the LeakyReLU")
        mode: Literal["fast", "good"] = option("good", "what to aim at")
        widths: tuple[int, ...] = option((8, 16), "channels of each layer")
        crop: tuple[int, int] = option((1, 2), "pixels cut off")
        beta: float | None = option(None, "None: chosen by size", minimum=0.0)
        flip: bool = option(False, "mirror half of the images")

    def __init__(self, config):
        super().__init__(config)
        self.generator = nn.Linear(1, config.depth)


def python(code: str, *path: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run ``code`` in a fresh interpreter that sees this fastgan and ``path``."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, REPOSITORY]))} | variables
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment, timeout=120
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder into which pip has installed the two packages of tests/fixtures/third_party; nothing else is touched."""
    folder = tmp_path_factory.mktemp("third_party")
    sources = shutil.copytree(THIRD_PARTY, folder / "sources")  # a build leaves files beside its source
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--target", str(folder / "site")]
    command += [str(package) for package in sorted(sources.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


# -- names ---------------------------------------------------------------------------------------------------------


def test_built_ins_are_listed_in_order():
    names = registry.list_architectures()
    assert {"dcgan", "gan", "wgan", "wgan_gp"} <= set(names)
    assert names == sorted(names)
    assert "base" not in names


def test_nothing_is_imported_before_it_is_asked_for(site):
    done = python(
        """
        import sys
        from fastgan import registry
        modules = {f"fastgan.architectures.{name}" for name in registry._builtin_names()} | {"fastgan_tiny_gan"}
        assert len(modules) >= 5
        assert not modules & set(sys.modules)
        registry.create("dcgan", image_size=16, ngf=2, ndf=2)
        assert modules & set(sys.modules) == {"fastgan.architectures.dcgan"}
        assert "wgan" in registry.list_architectures()
        assert modules & set(sys.modules) == {"fastgan.architectures.dcgan", "fastgan_tiny_gan"}
        """,
        site,
    )
    assert done.returncode == 0, done.stderr


def test_register_makes_a_class_known_and_sets_its_name():
    assert registry.register("my-gan")(Mine) is Mine
    assert Mine.name == "my_gan"
    assert "my_gan" in registry.list_architectures()
    model = registry.create("my_gan", depth=3)
    assert isinstance(model, Mine) and model.config.depth == 3


@pytest.mark.parametrize("spelling", ["wgan_gp", "wgan-gp", "WGAN-GP"])
def test_spellings_of_one_name(spelling):
    assert registry.get(spelling).name == "wgan_gp"


@pytest.mark.parametrize("name", ["My_gan", "my gan", "3d_gan", "_gan", "gan_", "a__b", "", "gän", 3, None])
def test_illegal_names(name):
    with pytest.raises(ValueError, match="lower-case words joined by '_' or '-'"):
        registry.register(name)


def test_decorator_without_name_is_explained():
    with pytest.raises(ValueError, match=r"write @register\('my_gan'\), with a name"):
        registry.register(Mine)


def test_duplicate_names_name_both_classes():
    class Other(Mine):
        pass

    registry.register("my_gan")(Mine)
    with pytest.raises(ValueError, match=r"two architectures are called 'my_gan': .*Mine and .*Other"):
        registry.register("my-gan")(Other)
    assert registry.get("my_gan") is Mine


def test_a_built_in_s_name_is_taken_before_it_is_imported(monkeypatch):
    monkeypatch.setattr(fastgan.architectures, "dcgan", fastgan.architectures.dcgan)  # put back after the test
    monkeypatch.delitem(sys.modules, "fastgan.architectures.dcgan")
    monkeypatch.delitem(registry._classes, "dcgan")
    with pytest.raises(ValueError, match=r"'dcgan': fastgan\.architectures\.dcgan\.DCGAN and .*Mine"):
        registry.register("dcgan")(Mine)
    assert registry.get("dcgan").__name__ == "DCGAN"


def test_a_notebook_cell_may_run_twice():
    def cell():
        class Again(Mine):
            pass

        return registry.register("again")(Again)

    first, second = cell(), cell()
    assert first is not second
    assert registry.get("again") is second


def test_what_is_no_architecture_is_refused():
    with pytest.raises(TypeError, match="takes a subclass of fastgan.Architecture, got <class 'torch.nn"):
        registry.register("linear")(nn.Linear)
    with pytest.raises(TypeError, match="takes a subclass of fastgan.Architecture, got <function"):
        registry.register("function")(lambda config: None)


def test_config_must_be_its_own_frozen_dataclass():
    class Undecorated(Mine):
        class Config(Mine.Config):
            depth: int = 5

    class Thawed(Mine):
        @dataclass
        class Config:
            image_size: int = 16

    for cls in (Undecorated, Thawed):
        with pytest.raises(TypeError, match="Config must be a frozen dataclass"):
            registry.register("mine")(cls)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"no architecture is called 'dcgn'; did you mean 'dcgan'\? Known are: .*wgan"):
        registry.create("dcgn")
    with pytest.raises(ValueError, match=r"is called 'zzzzzz'\. Known are"):
        registry.create("zzzzzz")
    with pytest.raises(TypeError, match=r"got 3 \(int\)"):
        registry.create(3)


# -- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dept": 3}, TypeError, "has no option 'dept'; did you mean 'depth'"),
        ({"zzz": 3}, TypeError, "has no option 'zzz'. Its options are: image_size, channels, depth"),
        ({"depth": "3"}, TypeError, r"depth takes a whole number, got '3' \(str\)"),
        ({"depth": 3.0}, TypeError, r"depth takes a whole number, got 3.0 \(float\)"),
        ({"depth": True}, TypeError, r"depth takes a whole number, got True \(bool\)"),
        ({"depth": 10}, ValueError, "depth takes a number from 1 to 9, got 10"),
        ({"slope": float("nan")}, ValueError, "slope takes a finite number, got nan"),
        ({"slope": "0.2"}, TypeError, r"slope takes a number, got '0.2' \(str\)"),
        ({"mode": "god"}, ValueError, "mode takes 'fast' or 'good', got 'god'"),
        ({"widths": (8, "x")}, TypeError, r"widths\[1\] takes a whole number, got 'x'"),
        ({"widths": 8}, TypeError, "widths takes a list, each item a whole number, got 8"),
        ({"crop": (1, 2, 3)}, TypeError, r"crop takes \(a whole number, a whole number\), got \(1, 2, 3\)"),
        ({"beta": "x"}, TypeError, "beta takes a number or None, got 'x'"),
        ({"beta": -1}, ValueError, "beta takes a number of at least 0.0, got -1.0"),
        ({"flip": 1}, TypeError, r"flip takes True or False, got 1 \(int\)"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    registry.register("mine")(Mine)
    with pytest.raises(error, match=message) as caught:
        registry.create("mine", **options)
    assert "\n" not in str(caught.value)


def test_options_as_json_has_them():
    registry.register("mine")(Mine)
    config = registry.create("mine", widths=[1, 2], slope=1, beta=1, crop=[3, 4]).config
    assert config.widths == (1, 2) and config.crop == (3, 4)
    assert isinstance(config.slope, float) and isinstance(config.beta, float)
    assert registry.create("mine", beta=None).config.beta is None


# -- entry points --------------------------------------------------------------------------------------------------


def test_an_installed_package_is_listed_created_and_trained_by_name(site):
    done = python(
        """
        import warnings
        warnings.simplefilter("ignore")
        import torch
        import fastgan
        assert "tiny_gan" in fastgan.list_architectures(), fastgan.list_architectures()
        gan = fastgan.create("tiny-gan", channels=1)
        before = [p.clone() for p in gan.parameters()]
        data = [{"image": torch.rand(1, 16, 16) * 2 - 1} for _ in range(8)]
        fastgan.Trainer(gan, data, steps=2, batch_size=4, device="cpu", progress=False).fit()
        assert not any(torch.equal(a, b) for a, b in zip(before, gan.parameters()))
        assert gan.sample(2).shape == (2, 1, 16, 16)
        print(type(gan).__module__)
        """,
        site,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fastgan_tiny_gan"
    assert "fastgan-tiny-gan" not in {d.name for d in importlib.metadata.distributions()}, (
        "the environment is untouched"
    )


def test_a_broken_package_costs_one_warning(site):
    done = python(
        """
        import warnings
        from fastgan import registry
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            names = registry.list_architectures()
            registry.list_architectures()
            try:
                registry.create("broken_gan")
            except ValueError as error:
                print(error)
        assert {"tiny_gan", "dcgan"} <= set(names) and "broken_gan" not in names, names
        (warning,) = [w for w in caught if "architecture" in str(w.message)]
        print(warning.message)
        """,
        site,
    )
    assert done.returncode == 0, done.stderr
    assert "no architecture is called 'broken_gan'" in done.stdout
    assert "the package 'fastgan-broken-gan' offers the architecture 'broken_gan'" in done.stdout
    assert "No module named 'a_module_that_is_not_there'" in done.stdout


def entry(name: str, value: str) -> importlib.metadata.EntryPoint:
    return importlib.metadata.EntryPoint(name=name, value=value, group=registry.GROUP)


def test_an_entry_point_may_name_an_undecorated_class(monkeypatch):
    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry("plain", f"{__name__}:Plain")])
    assert registry.get("plain") is Plain and Plain.name == "plain"


class Plain(Mine):
    pass


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("silent", "json", "ValueError: json does not register the name 'silent'"),
        ("dcgan", f"{__name__}:Impostor", "two architectures are called 'dcgan'"),
        ("Bad Name", f"{__name__}:Impostor", "takes lower-case words"),
        ("gone", f"{__name__}:Gone", "AttributeError"),
    ],
)
def test_faulty_entry_points_warn(monkeypatch, name, value, reason):
    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry(name, value)] * 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = registry.list_architectures()
    assert "dcgan" in names and "silent" not in names
    (warning,) = caught
    assert reason in str(warning.message) and "\n" not in str(warning.message)


class Impostor(Mine):
    pass
