"""Every op of fastgan with a CUDA kernel, on the device: right values, and right in every situation a device brings.

    python benchmarks/gpu_check.py [--device cuda] [--only WORD ...] [--seed N] [--out FILE.json]

Values are held against float64 within the bounds of tests/numerics.py, by the functions that the tests call, at shapes
of which a GPU's kernels take their several paths. The situations: the same bits from repeated runs and in torch's
deterministic mode, a stream of one's own, a CUDA graph replayed on new data, tensors of two devices, no memory left, a
second GPU, a driver older than the build (simulated). A file of all checks, none failed, is what an entry of
VERIFIED_CUDA (fastgan/ops/_dispatch.py) stands on.
Exit status: 0 all passed, 1 something failed, 2 no such device or no kernels for it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import fastgan
from fastgan.bench import passes, report, shapes
from fastgan.ops import _dispatch, _library, _penalty_ops

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from numerics import SUM_ULPS, assert_rounding_equal, assert_within_oracle
from ops import conv_cases, test_bn_act, test_conv_bn_act
from test_optim import ULPS_A_STEP

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# (N, C, H, W): odd planes, whole vectors, single pixels, a real layer; more channels than a block has lanes
IMAGES = [(2, 3, 5, 7), (3, 8, 4, 4), (5, 40, 1, 1), (16, 64, 32, 32), (2, 515, 3, 3)]
FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
ACTIVATIONS = ["none", "relu", "leaky_relu", "tanh"]
# What may compute a product of a convolution, by kind of device
CONVOLUTIONS = {
    "cuda": ("aten", "matmul", "thin", "sm80", "sm80_one_launch", "sm90a", "sm90a_one_launch"),
    "cpu": ("aten", "matmul", "thin"),  # Winograd has bounds of its own: the tests'
}
CHECKS: dict[str, Callable[[torch.device], Iterator]] = {}
SKIPPED = "skipped: "  # how the outcome of a case begins that this machine cannot show
Tensors = list[torch.Tensor]


def check(function: Callable) -> Callable:
    """Collects ``function(device) -> Iterator[(case, outcome)]``; an outcome is None, a failure or SKIPPED and why."""
    CHECKS[function.__name__] = function
    return function


def failure(assertion: Callable[..., object], *arguments: object, **options: object) -> str | None:
    """What an assertion complains about, or the error that it met; None where it holds."""
    try:
        assertion(*arguments, **options)
    except AssertionError as error:
        return str(error) or "an assertion failed"
    except (RuntimeError, NotImplementedError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def randn(shape, device, dtype=torch.float32, memory_format=torch.contiguous_format) -> torch.Tensor:
    return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=memory_format)


def image_cases() -> Iterator[tuple]:
    for shape, (dtype_name, dtype), (format_name, memory_format) in itertools.product(
        IMAGES, DTYPES.items(), FORMATS.items()
    ):
        yield f"{'x'.join(map(str, shape))} {dtype_name} {format_name}", shape, dtype, memory_format


# -- values ----------------------------------------------------------------------------------------------------------
@check
def bn_stats(device) -> Iterator:
    for case, shape, dtype, memory_format in image_cases():
        yield case, failure(test_bn_act.check_statistics, randn(shape, device, dtype, memory_format) + 3)
    far = randn((8, 4, 64, 64), device) + 1e4  # E[z^2] - mean^2 in float32 would be off by about 6
    yield "mean 1e4, deviation 1", failure(test_bn_act.check_statistics, far)


@check
def running_statistics(device) -> Iterator:
    for channels, (name, dtype), momentum in itertools.product((1, 33, 1024), DTYPES.items(), (0.0, 0.1, 1.0)):
        text = failure(test_bn_act.check_running_statistics, channels, dtype, momentum, device)
        yield f"{channels} channels {name} momentum={momentum}", text


@check
def bn_act_and_backward(device) -> Iterator:
    for (case, shape, dtype, memory_format), activation in itertools.product(image_cases(), ACTIVATIONS):
        z, grad_y = (randn(shape, device, dtype, memory_format) + shift for shift in (0.5, 0))
        yield f"{case} {activation}", failure(test_bn_act.check_forward_and_backward, z, grad_y, activation)


@check
def conv_bn_act(device) -> Iterator:
    """The fused convolutions with every gradient, through the public functions; convolutions themselves by ATen.

    A case fails by two draws: the bounds compare the rounding errors of a few values, which one draw in 2000 exceeds by
    luck (of 25 seeds on the CPU), and a wrong kernel always.
    """
    conv_cases.set_plan("aten")
    layer = dict(n=8, kernel=4, stride=2, size=(16, 16), layout="channels_last")
    layers = [
        (f"{name} 64 channels {direction}", conv_cases.Case(transposed, c_in=64, c_out=64, dtype=dtype, **layer))
        for name, dtype in DTYPES.items()
        for direction, transposed in (("down", False), ("up", True))
    ]
    for name, case in [(param.id, param.values[0]) for param in test_conv_bn_act.CASES] + layers:
        if case.dtype in DTYPES.values():
            check_values = test_conv_bn_act.check_against_modules
            yield name, failure(check_values, case, seed=0) and failure(check_values, case, seed=1)
    conv_cases.set_plan("auto")


def convolution_layers(device) -> Iterator[tuple[str, conv_cases.Case]]:
    """(name, layer): DCGAN's at 64 px, and other geometries. On a CPU, which only tries the check, few and narrow."""
    cuda = device.type == "cuda"
    layers = (*shapes.GENERATOR, *shapes.DISCRIMINATOR) if cuda else (shapes.GENERATOR[0], shapes.DISCRIMINATOR[0])

    def width(channels: int) -> int:
        return channels if cuda or channels < 4 else channels // 16

    for layer, n in itertools.product(layers, (1, 3, 16) if cuda else (3,)):
        yield f"{layer.name}, batch {n}", conv_cases.Case(
            layer.transposed, n, width(layer.c_in), width(layer.c_out), (layer.size,) * 2, layer.kernel_size,
            layer.stride, layer.padding, bias=layer.bias, norm=layer.norm, activation=layer.activation,
            layout="channels_last",
        )  # fmt: skip
    for (kernel, stride, padding, odd), transposed in itertools.product(
        [(2, 2, 0, 0), (3, 2, 1, 1), (5, 2, 2, 1), (3, 1, 1, 0)], (False, True)
    ):
        sides = dict(size=(7, 9), output_padding=odd) if transposed else dict(size=(14, 18))
        around = dict(kernel=kernel, stride=stride, padding=padding, layout="channels_last") | sides
        name = f"k{kernel} s{stride} {'up' if transposed else 'down'}, batch 3"
        yield name, conv_cases.Case(transposed, 3, width(64), width(128), **around)


def products_by_kernel(device, cases: list[conv_cases.Case], inputs: list[tuple]) -> dict[str, set[str]]:
    """{kernel: the products that it covers}: on a GPU, by the candidates of the trials that these cases make."""
    found: dict[str, set[str]] = {}
    if device.type == "cpu":
        for kernel in CONVOLUTIONS["cpu"]:
            conv_cases.set_plan(kernel)
            plans = zip(("output", "input_gradient", "weight_gradient"), conv_cases.plan_of(cases[0]), strict=True)
            found[kernel] = {product for product, by in plans if by == kernel}
        return found
    before = set(_library.C.convolution_choices(device.index))
    conv_cases.set_plan("auto")
    for case, (tensors, cotangent) in zip(cases, inputs, strict=True):
        conv_cases.results(case, tensors, cotangent)
    for key, (_, times) in _library.C.convolution_choices(device.index).items():
        if key not in before:
            for kernel in times:
                found.setdefault(kernel, set()).add(key.partition(",")[0].split()[1])
    return found


def check_layer(case: conv_cases.Case, tensors: dict, cotangent: torch.Tensor, tf32: bool) -> None:
    """Values and gradients against float64, and the same bits twice.

    In tf32 operands have the mantissa of float16: an ulp of it for the product of the forward pass, two where a
    gradient has come through two. In float32, batch statistics and what they normalise have SUM_ULPS.
    """

    def close(actual, oracle, baseline, name, scale=None) -> None:
        if tf32:
            ulps = 2 if name.startswith("gradient") else 1
            assert_within_oracle(actual, oracle, baseline, name, scale, torch.float16, ulps)
        else:
            summed = case.norm and case.training and case.dtype == torch.float32
            assert_within_oracle(actual, oracle, baseline, name, scale, ulps=SUM_ULPS if summed else 1)

    conv_cases.check_values(case, tensors, cotangent, close)
    once, twice = (conv_cases.all_results(case, tensors, cotangent) for _ in range(2))
    assert all(map(torch.equal, once, twice)), "differs between two runs"


@contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@check
def convolutions(device) -> Iterator:
    """Fused layers in training and eval mode with every gradient, by each implementation that covers any of them.

    A product that an implementation does not cover is computed by aten there, and listed as skipped.
    """
    precisions = [(name, dtype, False) for name, dtype in DTYPES.items()]
    precisions += [("tf32", torch.float32, True)] if device.type == "cuda" else []
    for (layer, plain), (precision, dtype, tf32) in itertools.product(convolution_layers(device), precisions):
        cases = [dataclasses.replace(plain, dtype=dtype, training=training) for training in (True, False)]
        inputs = [(case.inputs(), conv_cases.cotangent_of(case, "channels_last")) for case in cases]
        with tf32_allowed(tf32):
            products = products_by_kernel(device, cases, inputs)
            everything = set().union(*products.values())
            for kernel in CONVOLUTIONS[device.type]:
                name = f"{layer}, {precision}, by {kernel}"
                covered = products.get(kernel, everything if kernel == "aten" else set())
                for product in sorted(everything - covered) or ([] if covered or kernel == "aten" else ["all"]):
                    yield f"{name}: {product}", f"{SKIPPED}does not cover"
                if not covered and kernel != "aten":
                    continue
                conv_cases.set_plan(kernel)
                for case, tensors in zip(cases, inputs, strict=True):
                    mode = "train" if case.training else "eval"
                    yield f"{name}, {mode}", failure(check_layer, case, *tensors, tf32)
    conv_cases.set_plan("auto")


@check
def penalty_inner_ops(device) -> Iterator:
    for shape, (dtype_name, dtype) in itertools.product(
        [(1, 1), (5, 2), (3, 35), (64, 3, 64, 64), (7, 8200)], DTYPES.items()
    ):
        case = f"{'x'.join(map(str, shape))} {dtype_name}"
        real, fake = randn(shape, device, dtype), randn(shape, device, dtype)
        epsilon = torch.rand(shape[0], device=device).to(dtype)

        def all_ways(op, *inputs):
            """(kernel, float64, reference)."""
            wide = [t.double() if isinstance(t, torch.Tensor) else t for t in inputs]
            with fastgan.ops.use("reference"):
                exact, plain = op(*wide), op(*inputs)
            return op(*inputs), exact, plain

        interpolated = all_ways(_penalty_ops.interpolate, real, fake, epsilon)
        yield f"interpolate {case}", failure(assert_within_oracle, *interpolated)
        masked = all_ways(_penalty_ops.leaky_mask_mul, real, fake, 0.2)
        yield f"leaky_mask_mul {case}", failure(assert_within_oracle, *masked)
        grad = real / math.sqrt(real[0].numel())
        grad[shape[0] // 2] = 0
        for one_sided in (False, True):
            found = all_ways(_penalty_ops.penalty_and_gradient, grad, 10.0, 1.0, one_sided)
            (value, gradient) = zip(*found, strict=True)
            # norm - 1 cancels: penalty and gradient are judged by their size without that factor
            text = failure(assert_within_oracle, *value, "penalty", scale=10.0)
            text = text or failure(assert_within_oracle, *gradient, "gradient", scale=20.0 / shape[0] * grad)
            yield f"penalty {case} one_sided={one_sided}", text


def parameters(device, dtype=torch.float32) -> Tensors:
    sizes = [(1,), (3,), (4097,), (64, 3, 4, 4), (512, 256, 4, 4), *[(5,)] * 260]
    return [randn(size, device, dtype) * 0.02 for size in sizes]


@check
def clip_weights(device) -> Iterator:
    for dtype_name, dtype in DTYPES.items():
        weights = parameters(device, dtype)
        expected = [w.clamp(-0.01, 0.01) for w in weights]
        fastgan.ops.clip_weights_(weights, 0.01)
        equal = all(torch.equal(w, e) for w, e in zip(weights, expected, strict=True))
        yield dtype_name, None if equal else "differs from clamp"
    mixed = [randn((9,), device), randn((9,), device, torch.bfloat16), torch.tensor([math.nan, 1.0], device=device)]
    expected = [w.clamp(-0.01, 0.01) for w in mixed]
    fastgan.ops.clip_weights_(mixed, 0.01)
    equal = all(torch.equal(w.nan_to_num(), e.nan_to_num()) for w, e in zip(mixed, expected, strict=True))
    yield "mixed dtypes and NaN", None if equal and mixed[2].isnan().tolist() == [True, False] else "wrong values"


@check
def rmsprop_clip(device) -> Iterator:
    steps = 3
    for options in [{}, {"weight_decay": 0.1, "maximize": True}, {"centered": True}, {"momentum": 0.9}]:
        ours = [p.requires_grad_() for p in parameters(device)]
        theirs = [p.detach().clone().requires_grad_() for p in ours]
        mine = fastgan.optim.RMSprop(ours, lr=1e-3, clip_value=0.01, **options)
        torchs = torch.optim.RMSprop(theirs, lr=1e-3, foreach=False, **options)
        for _ in range(steps):
            for a, b in zip(ours, theirs, strict=True):
                # away from zero, where g / sqrt(v) multiplies the rounding of g
                a.grad = torch.randn_like(a)
                a.grad += a.grad.sign()
                b.grad = a.grad.clone()
            mine.step()
            torchs.step()
            for b in theirs:
                b.data.clamp_(-0.01, 0.01)
        worst = max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
        bound = ULPS_A_STEP * steps * torch.finfo(torch.float32).eps * 0.01
        yield str(options or "plain"), None if worst <= bound else f"{worst:.3g} off torch's, allowed {bound:.3g}"


# -- situations ------------------------------------------------------------------------------------------------------
def calls(device, shape=(6, 24, 16, 16)) -> Iterator[tuple[str, Tensors, Callable[..., Tensors]]]:
    """(op, tensors, call) of every op; a call takes those tensors or others like them and changes none."""
    for op, (make, run) in passes.PASSES.items():
        inputs = make(passes.Draw(shape, torch.channels_last, torch.float32, device))
        tensors = [t.clone() for t in inputs if isinstance(t, torch.Tensor)]  # no two of them one
        options = inputs[len(tensors) :]

        def call(*tensors, run=run, options=options) -> Tensors:
            found = run(*tensors, *options)
            return list(found) if isinstance(found, tuple) else [found]

        yield op, tensors, call

    def average(running_mean, running_var, mean, var) -> Tensors:
        running = [running_mean.clone(), running_var.clone()]
        fastgan.ops.update_running_stats_(*running, mean, (var.abs() + 0.5).rsqrt(), 5, 0.1, 1e-5)
        return running

    yield "update_running_stats_", [randn(shape[1:2], device) for _ in range(4)], average

    def clip(*weights) -> Tensors:
        clipped = [w.clone() for w in weights]
        fastgan.ops.clip_weights_(clipped, 0.01)
        return clipped

    yield "clip_weights_", parameters(device)[:4], clip

    def step(*tensors) -> Tensors:
        weights = [t.clone().requires_grad_() for t in tensors[::2]]
        capturable = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        optimizer = fastgan.optim.RMSprop(weights, lr=1e-3, clip_value=0.01, capturable=capturable)
        for w, grad in zip(weights, tensors[1::2], strict=True):
            w.grad = grad
        optimizer.step()
        return [w.detach() for w in weights]

    weights_and_gradients = [t for w in parameters(device)[:4] for t in (w, torch.randn_like(w))]
    yield "rmsprop_clip_", weights_and_gradients, step

    for op in ("conv2d_bn_act", "conv_transpose2d_bn_act"):

        def layer(x, weight, gamma, beta, op=op) -> Tensors:
            leaves = [t.detach().requires_grad_() for t in (x, weight, gamma, beta)]
            y = getattr(fastgan.ops, op)(leaves[0], leaves[1], None, *leaves[2:], stride=2, padding=1).y
            return [y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))]

        channels = shape[1]
        weight = randn((channels, channels, 4, 4), device) / math.sqrt(16 * channels)
        yield op, [randn(shape, device), weight, randn(channels, device), randn(channels, device)], layer


def differ(found: Tensors, expected: Tensors) -> str | None:
    """Where two correct evaluations differ by more than rounding."""
    texts = (failure(assert_rounding_equal, *pair, f"output {i}") for i, pair in enumerate(zip(found, expected)))  # noqa: B905
    return next(filter(None, texts), None)


def on_cuda(function: Callable) -> Callable:
    def run(device) -> Iterator:
        if device.type == "cuda":
            yield from function(device)
        else:
            yield "all", f"{SKIPPED}{device.type} has no such thing"

    run.__name__ = function.__name__
    return check(run)


@check
def same_bits(device) -> Iterator:
    """From 20 runs, and from torch's deterministic mode, which fills memory with NaN before a kernel gets it."""
    for op, tensors, call in calls(device):
        first, *others = [call(*tensors) for _ in range(20)]
        torch.use_deterministic_algorithms(True)
        try:
            others.append(call(*tensors))
        finally:
            torch.use_deterministic_algorithms(False)
        equal = all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
        yield op, None if equal else "differs between runs"


@on_cuda
def in_a_stream(device) -> Iterator:
    """The inputs get their values late in the stream: a kernel in another one would read the old ones."""
    for op, tensors, call in calls(device):
        fresh = [torch.rand_like(t) for t in tensors]
        expected = call(*fresh)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)  # 10 ms of clock cycles
            for t, value in zip(tensors, fresh, strict=True):
                t.copy_(value)
            found = call(*tensors)
        stream.synchronize()
        yield op, differ(found, expected)


@on_cuda
def in_a_graph(device) -> Iterator:
    """Captured, then replayed on new data."""
    for op, tensors, call in calls(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(stream):
                call(*tensors)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                found = call(*tensors)
        except (RuntimeError, NotImplementedError) as error:
            yield op, f"cannot be captured: {error}"
            continue
        for t in tensors:
            t.copy_(torch.rand_like(t))
        graph.replay()
        yield op, differ(found, call(*tensors))


@on_cuda
def mixed_devices(device) -> Iterator:
    """One tensor forgotten on the CPU: one sentence that says so."""
    for op, tensors, call in calls(device):
        for i in range(1, len(tensors)):
            mixed = [t.cpu() if i == j else t for j, t in enumerate(tensors)]
            yield f"{op}, tensor {i}", _refusal(lambda call=call, mixed=mixed: call(*mixed), "cpu")


def _refusal(call: Callable[[], object], word: str) -> str | None:
    """None where the call is refused in one line that has ``word`` in it; else what is wrong."""
    try:
        call()
    except (RuntimeError, NotImplementedError, ValueError) as error:
        text = str(error)
        return None if word in text.lower() and "\n" not in text.strip() else f"refused, but in these words: {text}"
    return "was not refused"


@on_cuda
def out_of_memory(device) -> Iterator:
    """No room for the results: an error that says so, and the next call is right."""
    total = torch.cuda.get_device_properties(device).total_memory
    for op, tensors, call in calls(device, shape=(32, 64, 128, 128)):
        if op in ("bn_stats", "update_running_stats_", "bn_act_backward_reduce", "clip_weights_", "rmsprop_clip_"):
            continue  # these allocate next to nothing
        expected = call(*tensors)[0].clone()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved(device) / total, device)
        try:
            text = _refusal(lambda call=call, tensors=tensors: call(*tensors), "memory")
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        yield op, text
        yield f"{op}, the call after it", differ(call(*tensors)[:1], [expected])


@on_cuda
def second_device(device) -> Iterator:
    if torch.cuda.device_count() < 2:
        yield "all", f"{SKIPPED}one GPU here"
        return
    other = torch.device("cuda", (torch.cuda.current_device() + 1) % torch.cuda.device_count())
    for op, tensors, call in calls(device):
        found = [t.to(device) for t in call(*(t.to(other) for t in tensors))]  # while the first one is current
        yield op, differ(found, call(*tensors))


@contextmanager
def driver_of(version: tuple[int, int]) -> Iterator[None]:
    """As if this machine's driver were for CUDA ``version``."""
    before = _dispatch.driver_version
    _dispatch.driver_version = lambda: version
    _dispatch._device_gap.cache_clear()
    try:
        yield
    finally:
        _dispatch.driver_version = before
        _dispatch._device_gap.cache_clear()


@on_cuda
def older_driver(device) -> Iterator:
    """'kernel' says what to do, 'auto' computes by the reference."""
    built = int(_library.C.build_info()["cuda"].split(".")[0])
    for op, tensors, call in calls(device):
        expected = call(*tensors)
        with driver_of((built - 1, 8)):
            yield f"{op}, kernel", _refusal(lambda call=call, tensors=tensors: call(*tensors), "driver")
            with fastgan.ops.use("auto"):
                yield f"{op}, auto", differ(call(*tensors), expected)


# -- the run ---------------------------------------------------------------------------------------------------------
def why_not(device: torch.device) -> str | None:
    """Why the checks cannot run on ``device``."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return "no GPU: torch.cuda.is_available() is False"
    if not _library.LOADED:
        return f"no kernels: {_library.REASON}"
    if device.type == "cuda" and not _library.C.build_info().get("cuda"):
        return "no kernels: the extension was built without CUDA"
    gap = _dispatch.kernel_gap(torch.zeros(1, device=device))
    return gap and f"no kernels: {gap}"


def run(name: str, device: torch.device) -> dict[str, str | None]:
    """The outcomes of one check; an error in it is one of them, so that it hides no other check."""
    outcomes: dict[str, str | None] = {}
    try:
        with torch.device(device), fastgan.ops.use("kernel"):
            for case, text in CHECKS[name](device):
                outcomes[case] = text
    except Exception as error:
        traceback.print_exc()
        outcomes["(stopped)"] = f"{type(error).__name__}: {error}"
    return outcomes


def failures(outcomes: dict[str, str | None]) -> dict[str, str]:
    return {case: text for case, text in outcomes.items() if text and not text.startswith(SKIPPED)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N; cpu tries the checks themselves")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="checks with one of these words")
    parser.add_argument("--seed", type=int, default=0, help="of the values that are drawn")
    parser.add_argument("--out", help="write every case and its outcome to this JSON file")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if reason := why_not(device):
        print(f"gpu_check: {reason}")
        return 2
    if device.type == "cuda":
        torch.cuda.set_device(device)
        device = torch.device("cuda", torch.cuda.current_device())
    os.environ["FASTGAN_CACHE"] = ""  # trials of earlier runs say nothing here
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    chosen = [name for name in CHECKS if any(word in name for word in options.only)]
    results = {}
    for name in chosen:
        torch.manual_seed(options.seed)  # one check alone sees what it sees among all
        outcomes = results[name] = run(name, device)
        failed = failures(outcomes)
        skipped = sum((text or "").startswith(SKIPPED) for text in outcomes.values())
        counts = f"{len(outcomes) - len(failed) - skipped} of {len(outcomes) - skipped} cases"
        print(f"{'FAIL' if failed else 'ok':4} {name}: {counts}" + (f", {skipped} skipped" if skipped else ""))
        for case, text in list(failed.items())[:10]:
            print(f"       {case}: {text}")
    if options.out:
        content = {"environment": report.environment(device), "complete": chosen == list(CHECKS), "checks": results}
        Path(options.out).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return int(any(map(failures, results.values())))


if __name__ == "__main__":
    sys.exit(main())
