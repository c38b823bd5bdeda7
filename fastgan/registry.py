"""Architectures by name: register, create, list_architectures.

Names come from three places, in this order: classes registered so far, the files of ``fastgan/architectures`` (known by
file name and imported when asked for), and entry points of the group ``fastgan.architectures`` in installed packages.
Importing this module imports no architecture.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastgan._words import did_you_mean

if TYPE_CHECKING:
    from fastgan.architectures.base import Architecture

__all__ = ["configure", "create", "get", "list_architectures", "register"]

GROUP = "fastgan.architectures"
_PACKAGE = "fastgan.architectures"
_NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")
_INTERFACE = ("stages", "generate", "sample", "predict")

_classes: dict[str, type[Architecture]] = {}
_entry_points_loaded = False

T = TypeVar("T", bound=type)


def register(name: str) -> Callable[[T], T]:
    """Class decorator that makes an ``Architecture`` known as ``name`` and sets ``cls.name``.

    Names are lower-case words joined by ``_`` or ``-``, which count as the same: ``wgan-gp`` is ``wgan_gp``.
    Registering a class of the same module and name again replaces it (a notebook's cell run twice).

    Raises
    ------
    ValueError
        The name breaks the rules, or another class already has it.
    TypeError
        What is decorated is no ``Architecture``, or owns no frozen dataclass ``Config``.
    """
    key = _key(name)

    def decorate(cls: T) -> T:
        _check_class(cls)
        holder = _holder(key, cls)
        if holder is not None and _where(holder) != _where(cls):
            raise ValueError(
                f"two architectures are called {key!r}: {_where(holder)} and {_where(cls)}; register one of them "
                "under another name"
            )
        cls.name = key
        _classes[key] = cls
        return cls

    return decorate


def get(name: str) -> type[Architecture]:
    """The class registered as ``name``; imports its file or its package if that has not happened yet.

    Raises
    ------
    ValueError
        No architecture has that name; the message suggests the nearest.
    """
    if not isinstance(name, str):
        raise TypeError(f"name takes the name of an architecture (a string), got {name!r} ({type(name).__name__})")
    key = name.strip().lower().replace("-", "_")
    if key not in _classes:
        if key in _builtin_names():
            _import_builtin(key)
        else:
            _load_entry_points()
    if key not in _classes:
        known = list_architectures()
        hint = did_you_mean(key, known) or "."
        raise ValueError(f"no architecture is called {name!r}{hint} Known are: {', '.join(known)}.")
    return _classes[key]


def create(name: str, *, fuse: bool = False, **options: Any) -> Architecture:
    """Build the architecture ``name``, its ``Config`` overridden by ``options``.

    Parameters
    ----------
    name
        One of ``list_architectures()``.
    fuse
        Pass its networks through ``fastgan.fuse``: same parameters and results, faster.
    options
        Fields of the class's ``Config``.

    Raises
    ------
    ValueError
        Unknown name, or an illegal value.
    TypeError
        Unknown option (the message names the nearest), or a value of the wrong type.
    """
    cls = get(name)
    architecture = cls(configure(cls, options))
    if fuse:
        from fastgan.nn.fuse import fuse as fuse_network

        for network in architecture.children():
            fuse_network(network)
    return architecture


def configure(cls: type[Architecture], options: dict[str, Any]) -> Any:
    """``cls.Config(**options)``, with a sentence naming the nearest field for an option that does not exist."""
    known = [f.name for f in fields(cls.Config) if f.init]
    for option in options:
        if option not in known:
            raise TypeError(
                f"{cls.name or cls.__name__} has no option {option!r}{did_you_mean(option, known) or '.'} "
                f"Its options are: {', '.join(known)}."
            )
    return cls.Config(**options)


def list_architectures() -> list[str]:
    """Sorted names of all architectures: built-in, registered so far, and of installed packages (which this loads)."""
    _load_entry_points()
    return sorted({*_classes, *_builtin_names()})


def _key(name: str) -> str:
    """The one spelling under which ``name`` is kept: that of its module."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"name takes lower-case words joined by '_' or '-', such as 'my_gan', got {name!r}"
            + (" (write @register('my_gan'), with a name)" if isinstance(name, type) else "")
        )
    return name.replace("-", "_")


def _check_class(cls: Any) -> None:
    # by interface, not by base class: the base lives above this module
    if not isinstance(cls, type) or not all(callable(getattr(cls, method, None)) for method in _INTERFACE):
        raise TypeError(f"register takes a subclass of fastgan.Architecture, got {cls!r}")
    config = getattr(cls, "Config", None)
    # looked up in vars: a Config that only inherits would pass for its parent's dataclass and lose its own fields
    if not is_dataclass(config) or not getattr(vars(config).get("__dataclass_params__"), "frozen", False):
        raise TypeError(f"{_where(cls)}.Config must be a frozen dataclass: @dataclass(frozen=True) class Config")


def _holder(key: str, cls: type) -> type | None:
    """The class that has the name ``key`` already; a built-in has its name even before it is imported."""
    if key not in _classes and key in _builtin_names() and cls.__module__ != f"{_PACKAGE}.{key}":
        _import_builtin(key)
    return _classes.get(key)


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _builtin_names() -> list[str]:
    """File names in fastgan/architectures: neither private ones nor the contract itself."""
    folder = Path(__file__).with_name("architectures")
    names = (module.name for module in pkgutil.iter_modules([str(folder)]))
    return [name for name in names if name != "base" and not name.startswith("_")]


def _import_builtin(key: str) -> None:
    importlib.import_module(f"{_PACKAGE}.{key}")
    if key not in _classes:
        raise RuntimeError(f"{_PACKAGE}.{key} does not register {key!r}: a built-in file registers its own name")


def _load_entry_points() -> None:
    """Import what installed packages offer, once; one that fails costs a warning and not the others."""
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True
    for entry in _unique(entry_points(group=GROUP)):
        try:
            _load_entry_point(entry)
        except Exception as error:  # a stranger's module may raise anything
            package = entry.dist.name if entry.dist is not None else entry.value
            warnings.warn(
                f"the package {package!r} offers the architecture {entry.name!r} ({entry.value}) but it cannot be "
                f"loaded: {type(error).__name__}: {error}. Update or uninstall {package!r}.",
                stacklevel=3,
            )


def _load_entry_point(entry: EntryPoint) -> None:
    """The entry point's value is a module that registers itself, or a class, registered here if it is not yet."""
    loaded = entry.load()
    if isinstance(loaded, type) and "name" not in vars(loaded):
        register(entry.name)(loaded)
    elif _key(entry.name) not in _classes:
        raise ValueError(f"{entry.value} does not register the name {entry.name!r}")


def _unique(entries: Iterable[EntryPoint]) -> list[EntryPoint]:
    """A package found twice on the path (a checkout beside its installation) offers its entry points once."""
    return list({(entry.name, entry.value): entry for entry in entries}.values())
