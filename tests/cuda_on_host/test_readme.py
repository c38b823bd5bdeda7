"""What csrc/README.md says of the products is what the kernels answer."""

from __future__ import annotations

import importlib.util
import re

from .toolchain import CSRC, HERE


def test_the_table_of_products_is_up_to_date(host_kernels):
    file = HERE.parent.parent / "benchmarks" / "gpu_floor.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    gpu_floor = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu_floor)
    marked = r"<!-- python benchmarks/gpu_floor.py --products -->\n\n(.*?)\n\n<!-- end -->"
    (table,) = re.findall(marked, (CSRC / "README.md").read_text(), re.DOTALL)
    assert table.splitlines() == gpu_floor.products(host_kernels), "run: python benchmarks/gpu_floor.py --products"
