"""`fastgan bench`, or python -m fastgan.bench: the benchmarks from the command line.

Exit status 0; 1 with --compare where a row got worse, or where providers failed on a GPU; 2 for a wrong option or two
sides that are not equal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fastgan import bench
from fastgan.bench import report
from fastgan.bench.equality import UnequalError
from fastgan.ops._dispatch import IMPLEMENTATIONS


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("fastgan bench", description="fastgan against the strongest PyTorch here")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="benchmarks whose name contains one of these words")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument(
        "--dtype", default="float32", choices=bench.DTYPES, help="networks run under autocast; tf32: on a GPU"
    )
    parser.add_argument(
        "--batch", nargs="+", type=int, default=(), metavar="N", help="batch sizes; names then carry them"
    )
    parser.add_argument("--quick", action="store_true", help="one layer an op and few rounds: a look, no measurement")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a provider too (takes minutes)")
    parser.add_argument("--impl", default="auto", choices=IMPLEMENTATIONS, help="fastgan's implementation")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--out", metavar="PATH", help="a .json file, or a folder for <machine>/<date>-<commit>.json")
    parser.add_argument(
        "--compare", nargs=2, metavar=("OLD", "NEW"), help="compare two result files and measure nothing"
    )
    parser.add_argument("--table", nargs="+", metavar="FILE", help="print result files of a GPU as one table")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and measure nothing")
    options = parser.parse_args(arguments)
    try:
        if options.list:
            print(*bench.select(options.only, bench.all_cases(options.device, options.batch)), sep="\n")
            return 0
        if options.table:
            print(report.table(options.table))
            return 0
        if options.compare:
            worse = report.compare(*options.compare)
            print("\n".join(worse) or "no row got worse")
            return 1 if worse else 0
        bench.run(
            options.only,
            options.device,
            options.out,
            options.quick,
            batches=options.batch,
            dtype=options.dtype,
            implementation=options.impl,
            compiled=options.compile,
            measure_memory=not options.no_memory,
        )
    except bench.LeftOutError as error:
        print(f"fastgan bench: {error}", file=sys.stderr)
        return 1
    except (ValueError, UnequalError, OSError) as error:
        print(f"fastgan bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
