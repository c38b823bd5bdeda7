"""Every op of fastgan with a CUDA kernel, on the device, against its reference in float64.

    python benchmarks/gpu_check.py [--device cuda] [--only WORD ...] [--out FILE.json]

A result passes when its error against float64, both largest and root mean square, is at most twice that of the
reference in the same dtype, plus one unit in the last place of the result's scale; sums, which torch may take in
another and luckier order, get four. Beside that: the same bits from repeated runs, a stream of one's own, a CUDA graph,
the second device where there is one.
Exit status: 0 all passed, 1 something failed, 2 no such device or no kernels for it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import traceback
from collections.abc import Callable, Iterator

import torch

import fastgan
from fastgan.ops import _library, _penalty_ops
from fastgan.ops._dispatch import use_kernel
from fastgan.ops.bn_act import (
    bn_act_backward_elemt_reference,
    bn_act_backward_reduce_reference,
    bn_act_reference,
    bn_stats_reference,
)

OPS = torch.ops.fastgan
SUM_ULPS = 4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# (N, C, H, W): odd planes, whole vectors, single pixels, a real layer; more channels than a block has lanes
IMAGES = [(2, 3, 5, 7), (3, 8, 4, 4), (5, 40, 1, 1), (16, 64, 32, 32), (2, 515, 3, 3)]
FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
ACTIVATIONS = ["none", "relu", "leaky_relu", "tanh"]
CHECKS: dict[str, Callable] = {}


def check(function: Callable) -> Callable:
    """Collects ``function(device) -> Iterator[(case, failure or None)]``."""
    CHECKS[function.__name__] = function
    return function


def errors(actual: torch.Tensor, oracle: torch.Tensor) -> tuple[float, float]:
    difference = (actual.double() - oracle.double()).abs()
    return difference.max().item(), difference.square().mean().sqrt().item()


def failure(actual, same_dtype, oracle, ulps: int = 1) -> str | None:
    """Why ``actual`` is not as good as the bound above asks; None where it is. Sequences: the first that fails."""
    if isinstance(actual, (tuple, list)):
        found = (failure(*triple, ulps) for triple in zip(actual, same_dtype, oracle, strict=True))
        return next((f"output {i}: {text}" for i, text in enumerate(found) if text), None)
    if actual.shape != oracle.shape:
        return f"shape {tuple(actual.shape)}, expected {tuple(oracle.shape)}"
    if actual.numel() == 0:
        return None
    ulp = ulps * torch.finfo(actual.dtype).eps * max(oracle.abs().max().item(), 1e-30)
    for name, ours, theirs in zip(("largest", "rms"), errors(actual, oracle), errors(same_dtype, oracle), strict=True):
        if not ours <= 2 * theirs + ulp:
            return f"{name} error {ours:.3g}, the reference's {theirs:.3g}, {ulps} ulp {ulp:.3g}"
    return None


def randn(shape, device, dtype=torch.float32, memory_format=torch.contiguous_format) -> torch.Tensor:
    return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=memory_format)


def wide(*tensors):
    return [t.double() if t is not None and t.is_floating_point() else t for t in tensors]


def image_cases() -> Iterator[tuple]:
    for shape, (dtype_name, dtype), (format_name, memory_format) in itertools.product(
        IMAGES, DTYPES.items(), FORMATS.items()
    ):
        yield f"{'x'.join(map(str, shape))} {dtype_name} {format_name}", shape, dtype, memory_format


@check
def bn_stats(device) -> Iterator:
    for case, shape, dtype, memory_format in image_cases():
        z = randn(shape, device, dtype, memory_format) + 3
        yield case, failure(OPS.bn_stats(z), bn_stats_reference(z), bn_stats_reference(z.double()), SUM_ULPS)
    far = randn((8, 4, 64, 64), device) + 1e4  # E[z^2] - mean^2 in float32 would be off by about 6
    (_, var), (_, exact) = OPS.bn_stats(far), bn_stats_reference(far.double())
    worst = (var - exact).abs().max().item()
    yield "mean 1e4, deviation 1", None if worst < 1e-4 else f"variance off by {worst:.3g}"


@check
def bn_act_and_backward(device) -> Iterator:
    for (case, shape, dtype, memory_format), activation in itertools.product(image_cases(), ACTIVATIONS):
        z, grad_y = (randn(shape, device, dtype, memory_format) for _ in range(2))
        mean, beta = randn(shape[1], device), randn(shape[1], device, dtype)
        invstd, gamma = randn(shape[1], device).abs() + 0.5, randn(shape[1], device, dtype) + 1
        affine, act = (mean, invstd, gamma, beta), (activation, 0.2)
        y = OPS.bn_act(z, *affine, *act)
        reference = bn_act_reference
        text = failure(y, reference(z, *affine, *act), reference(*wide(z, *affine), *act))
        # tanh takes its derivative from the rounded y, as torch's own does; the reference would compute tanh(u) anew
        tanh = activation == "tanh"
        g = grad_y.float() * (1 - y.float() ** 2) if tanh else grad_y
        wide_g = grad_y.double() * (1 - y.double() ** 2) if tanh else grad_y.double()
        ref_act = ("none", 0.0) if tanh else act
        sums = OPS.bn_act_backward_reduce(grad_y, y, z, *affine, *act)
        reference = bn_act_backward_reduce_reference
        oracle = reference(wide_g, *wide(z, *affine), *ref_act)
        text = text or failure(sums, reference(g, z, *affine, *ref_act), oracle, SUM_ULPS)
        means = [s.float() / (z.numel() // shape[1]) for s in oracle]
        grad_z = OPS.bn_act_backward_elemt(grad_y, y, z, *affine, *means, *act)
        reference = bn_act_backward_elemt_reference
        baseline = reference(g, z, *affine, *means, *ref_act)
        text = text or failure(grad_z, baseline, reference(wide_g, *wide(z, *affine, *means), *ref_act))
        yield f"{case} {activation}", text


@check
def conv_bn_act(device) -> Iterator:
    """The fused convolutions with every gradient, through the public functions."""
    layers = [
        ("conv2d_bn_act", (4, 16, 16, 16), (24, 16, 4, 4), dict(stride=2, padding=1)),
        ("conv_transpose2d_bn_act", (4, 16, 8, 8), (16, 24, 4, 4), dict(stride=2, padding=1)),
        ("conv_transpose2d_bn_act", (3, 6, 5, 5), (6, 7, 3, 3), dict(stride=2, padding=1, output_padding=1)),
    ]
    modes = [dict(), dict(training=False), dict(norm=False)]
    grid = itertools.product(layers, DTYPES.items(), FORMATS.items(), modes, ACTIVATIONS)
    for (name, x_shape, w_shape, geometry), (dtype_name, dtype), (format_name, memory_format), mode, activation in grid:
        channels = 24 if 24 in w_shape else 7
        tensors = [randn(x_shape, device, dtype, memory_format), randn(w_shape, device, dtype) * 0.1]
        tensors.append(randn(channels, device, dtype) if not mode.get("norm", True) else None)
        norm = mode.get("norm", True)
        tensors += [randn(channels, device) + 1, randn(channels, device)] if norm else [None, None]
        running = [randn(channels, device), torch.rand(channels, device=device) + 0.5] if norm else [None, None]
        cotangent = None

        def run(implementation, *inputs, fixed=running, options=(name, geometry, mode, activation)):
            nonlocal cotangent
            leaves = [t if t is None else t.clone().requires_grad_() for t in inputs]
            op, geometry, mode, activation = options
            with fastgan.ops.use(implementation):
                y = getattr(fastgan.ops, op)(*leaves, *fixed, **geometry, **mode, activation=activation).y
                if cotangent is None:
                    cotangent = torch.randn_like(y)
                grads = torch.autograd.grad(y, [t for t in leaves if t is not None], cotangent.to(y.dtype))
            return [y.detach(), *grads]

        ours = run("kernel", *tensors)
        same = run("reference", *tensors)
        oracle = run("reference", *wide(*tensors), fixed=wide(*running))
        # rounding may flip the sign of a u near 0 and with it a whole gradient; y is continuous there, so y is held to
        # the bound, and gradients to a share of their norm
        text = failure(ours[0], same[0], oracle[0])
        limit = {torch.float32: 2e-3, torch.bfloat16: 4e-2, torch.float16: 1e-2}[dtype]
        for i, (a, b, exact) in enumerate(zip(ours[1:], same[1:], oracle[1:], strict=True)):
            ours_off, same_off = ((t.double() - exact).norm() / exact.norm().clamp_min(1e-30) for t in (a, b))
            if not ours_off <= 2 * same_off + limit:
                text = text or f"gradient {i}: relative error {ours_off:.3g}, the reference's {same_off:.3g}"
        yield f"{name} {dtype_name} {format_name} {mode or 'train'} {activation}", text


@check
def penalty_inner_ops(device) -> Iterator:
    for shape, (dtype_name, dtype) in itertools.product(
        [(1, 1), (5, 2), (3, 35), (64, 3, 64, 64), (7, 8200)], DTYPES.items()
    ):
        case = f"{'x'.join(map(str, shape))} {dtype_name}"
        real, fake = randn(shape, device, dtype), randn(shape, device, dtype)
        epsilon = torch.rand(shape[0], device=device).to(dtype)

        def mix(real, fake, epsilon):
            e = _penalty_ops.per_sample(epsilon, real)
            return e * real + (1 - e) * fake

        oracle = mix(*wide(real, fake, epsilon))
        yield f"interpolate {case}", failure(OPS.interpolate(real, fake, epsilon), mix(real, fake, epsilon), oracle)
        mask = torch.where(fake > 0, 1.0, 0.2)
        yield (
            f"leaky_mask_mul {case}",
            failure(OPS.leaky_mask_mul(real, fake, 0.2), real * mask.to(dtype), real.double() * mask.double()),
        )
        grad = real / math.sqrt(real[0].numel())
        grad[shape[0] // 2] = 0
        for one_sided in (False, True):

            def penalty_of(grad, one_sided=one_sided):
                leaf = grad.clone().requires_grad_()
                value, norms = _penalty_ops._penalty_reference(leaf, 10.0, 1.0, one_sided)
                return value.detach(), norms.detach(), torch.autograd.grad(value, leaf)[0]

            ours, oracle = OPS.penalty(grad, 10.0, 1.0, one_sided), penalty_of(grad.double())
            text = failure(ours[1:], penalty_of(grad)[1:], oracle[1:], SUM_ULPS)
            off = abs(ours[0].item() - oracle[0].item())  # norm - 1 cancels: judged by the size of what cancelled
            text = text or (None if off <= 1e-5 * max(1, oracle[0].item()) else f"penalty off by {off:.3g}")
            yield f"penalty {case} one_sided={one_sided}", text


def parameters(device, dtype=torch.float32) -> list[torch.Tensor]:
    sizes = [(1,), (3,), (4097,), (64, 3, 4, 4), (512, 256, 4, 4), *[(5,)] * 260]
    return [randn(size, device, dtype) * 0.02 for size in sizes]


@check
def clip_weights(device) -> Iterator:
    for dtype_name, dtype in DTYPES.items():
        weights = parameters(device, dtype)
        expected = [w.clamp(-0.01, 0.01) for w in weights]
        OPS.clip_weights_(weights, 0.01)
        equal = all(torch.equal(w, e) for w, e in zip(weights, expected, strict=True))
        yield dtype_name, None if equal else "differs from clamp"
    mixed = [randn((9,), device), randn((9,), device, torch.bfloat16), torch.tensor([math.nan, 1.0], device=device)]
    OPS.clip_weights_(mixed, 0.01)
    fine = all((w.isnan() | (w.abs() <= 0.0101)).all() for w in mixed) and mixed[2].isnan().tolist() == [True, False]
    yield "mixed dtypes and NaN", None if fine else "wrong values"


@check
def rmsprop_clip(device) -> Iterator:
    for options in [{}, {"weight_decay": 0.1, "maximize": True}, {"centered": True}, {"momentum": 0.9}]:
        ours = [p.requires_grad_() for p in parameters(device)]
        theirs = [p.detach().clone().requires_grad_() for p in ours]
        mine = fastgan.optim.RMSprop(ours, lr=1e-3, clip_value=0.01, **options)
        torchs = torch.optim.RMSprop(theirs, lr=1e-3, foreach=False, **options)
        for _ in range(3):
            for a, b in zip(ours, theirs, strict=True):
                a.grad = torch.randn_like(a)
                b.grad = a.grad.clone()
            with fastgan.ops.use("kernel"):
                mine.step()
            torchs.step()
            for b in theirs:
                b.data.clamp_(-0.01, 0.01)
        worst = max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
        yield str(options), None if worst <= 1e-6 else f"differs from torch by {worst:.3g}"


@check
def same_bits_twice(device) -> Iterator:
    z = randn((16, 64, 32, 32), device)
    for name, run in {"bn_stats": lambda: OPS.bn_stats(z), "penalty": lambda: OPS.penalty(z, 10.0, 1.0, False)}.items():
        first, *others = [run() for _ in range(20)]
        equal = all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
        yield name, None if equal else "differs between runs"


@check
def streams_graphs_and_devices(device) -> Iterator:
    if torch.device(device).type != "cuda":
        return
    weights = parameters(device)
    expected = [w.clamp(-0.01, 0.01) for w in weights]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        OPS.clip_weights_(weights, 0.01)
    stream.synchronize()
    equal = all(torch.equal(w, e) for w, e in zip(weights, expected, strict=True))
    yield "a stream of one's own", None if equal else "wrong result"

    z, weights = randn((16, 64, 32, 32), device), parameters(device)
    mean, var = OPS.bn_stats(z)  # loads the kernels before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mean, var = OPS.bn_stats(z)
        y = OPS.bn_act(z, mean, (var + 1e-5).rsqrt(), None, None, "relu", 0.0)
        value, _, _ = OPS.penalty(z, 10.0, 1.0, False)
        OPS.clip_weights_(weights, 0.01)
    z.copy_(torch.randn_like(z))
    for w in weights:
        w.fill_(1.0)
    graph.replay()
    torch.cuda.synchronize()
    expected = torch.relu((z - z.mean((0, 2, 3), keepdim=True)) * (var + 1e-5).rsqrt().view(1, -1, 1, 1))
    right = torch.allclose(y, expected, atol=1e-4) and all((w == 0.01).all() for w in weights)
    right = right and torch.allclose(value, OPS.penalty(z, 10.0, 1.0, False)[0])
    yield "a captured graph, replayed on new data", None if right else "wrong result"

    if torch.cuda.device_count() > 1:
        z = randn((4, 8, 6, 6), "cuda:1")  # while cuda:0 is current
        right = torch.allclose(OPS.bn_stats(z)[0], z.mean((0, 2, 3)), atol=1e-5)
        yield "the second device", None if right else "wrong result"


def why_not(device: torch.device) -> str | None:
    """Why the checks cannot run on ``device``."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return "no GPU: torch.cuda.is_available() is False"
    if not _library.LOADED:
        return f"no kernels: {_library.REASON}"
    if device.type == "cuda" and not _library.C.build_info().get("cuda"):
        return "no kernels: the extension was built without CUDA"
    with fastgan.ops.use("kernel"):
        use_kernel("bn_stats", torch.zeros(1, 1, device=device))  # raises, with the reason, where there is none
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N; cpu tries the checks themselves")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="checks with one of these words")
    parser.add_argument("--out", help="write every case and its failure, if any, to this JSON file")
    options = parser.parse_args()
    device = torch.device(options.device)
    if reason := why_not(device):
        print(f"gpu_check: {reason}")
        return 2
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    results: dict[str, dict[str, str | None]] = {}
    for name, function in CHECKS.items():
        if not any(word in name for word in options.only):
            continue
        results[name] = {}
        try:
            for case, text in function(device):
                results[name][case] = text
        except Exception as error:  # one broken check must not hide the others
            traceback.print_exc()
            results[name]["(stopped)"] = f"{type(error).__name__}: {error}"
        failed = {case: text for case, text in results[name].items() if text}
        print(
            f"{'FAIL' if failed else 'ok':4} {name}: {len(results[name]) - len(failed)} of {len(results[name])} cases"
        )
        for case, text in list(failed.items())[:10]:
            print(f"       {case}: {text}")
    if options.out:
        with open(options.out, "w") as file:
            json.dump(results, file, indent=1)
    return int(any(text for cases in results.values() for text in cases.values()))


if __name__ == "__main__":
    sys.exit(main())
