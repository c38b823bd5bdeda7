"""The command line: one file a command, imported when it is asked for."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from fastgan._words import did_you_mean

__all__ = ["main"]

COMMANDS = {
    "list": "the architectures, built-in and installed",
    "train": "train an architecture: fastgan train NAME [options]",
    "sample": "draw images from a trained run",
    "evaluate": "measure a trained run: FID, KID, precision, recall and more",
    "interpolate": "walk between latent points of a trained run: a picture and a GIF",
    "arithmetic": "vector arithmetic on the latents of samples that you pick",
    "probe": "linear probe of a discriminator's features: how well they classify",
    "filters": "what a discriminator's features look at, by guided backpropagation",
    "plot": "draw the metrics and losses of a run over its steps",
    "report": "write a run as one HTML page",
    "train-features": "train a small classifier for metrics to measure in",
    "info": "versions, hardware, kernels and why some are missing",
    "bench": "measure kernels against the strongest PyTorch on this machine",
    "profile": "where a training step's time goes, and which layers are fused",
    "reproduce": "run a recipe: train, measure, compare with its bar",
}


def _usage() -> str:
    lines = ["usage: fastgan COMMAND ...   (fastgan COMMAND --help for its options)", ""]
    return "\n".join(lines + [f"  {name:<14} {what}" for name, what in COMMANDS.items()])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Errors of use are one sentence on stderr and status 2."""
    argv = [*(sys.argv[1:] if argv is None else argv)]  # `list` may be the command of that name here
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if argv[0] == "--version":
        from fastgan import __version__

        print(f"fastgan {__version__}")
        return 0
    command, *rest = argv
    if command not in COMMANDS:
        hint = did_you_mean(command, COMMANDS)
        print(f"fastgan: there is no command {command!r}{hint or '.'}\n\n{_usage()}", file=sys.stderr)
        return 2
    plain, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        return import_module(f"fastgan.cli.{command.replace('-', '_')}").run(rest) or 0
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fastgan"):
            raise
        print(f"fastgan {command}: {error.name} is not installed: pip install {error.name}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nfastgan {command}: stopped.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, NotImplementedError) as error:
        if os.environ.get("FASTGAN_TRACEBACK"):
            raise
        print(f"fastgan {command}: {error}", file=sys.stderr)
        print("(FASTGAN_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        return 2
    finally:
        warnings.formatwarning = plain


def _one_line(message, *_) -> str:
    """A warning as a user of the command line reads it, without the file and line it came from."""
    return f"fastgan: {message}\n"
