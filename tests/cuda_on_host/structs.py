"""The params structs of csrc/cuda/*.h as ctypes sees them, and calls of the compiled kernels with torch CPU tensors."""

from __future__ import annotations

import ctypes as c
from pathlib import Path

import torch

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ACTIVATIONS = {"none": 0, "relu": 1, "leaky_relu": 2, "tanh": 3}
ORDERS = {"forward": 0, "reverse": 1, "random": 2}
LANDINGS = {"late": 0, "eager": 1}

_POINTER, _INT, _SIZE, _FLOAT, _DOUBLE, _BOOL = c.c_void_p, c.c_int, c.c_int64, c.c_float, c.c_double, c.c_bool


class ImageShape(c.Structure):
    _fields_ = [("samples", _SIZE), ("channels", _SIZE), ("pixels", _SIZE), ("layout", _INT)]


class BnChannels(c.Structure):
    _fields_ = [(name, _POINTER) for name in ("mean", "invstd", "gamma", "beta")] + [("affine_dtype", _INT)]


class BnStatsParams(c.Structure):
    _fields_ = [
        ("z", _POINTER), ("shape", ImageShape), ("dtype", _INT), ("mean", _POINTER), ("var", _POINTER),
        ("invstd", _POINTER), ("eps", _FLOAT), ("workspace", _POINTER),
    ]  # fmt: skip


class InverseStdParams(c.Structure):
    _fields_ = [("var", _POINTER), ("invstd", _POINTER), ("channels", _SIZE), ("eps", _FLOAT)]


class RunningStatsParams(c.Structure):
    _fields_ = [
        *[(name, _POINTER) for name in ("mean", "invstd", "running_mean", "running_var")],
        ("channels", _SIZE), ("dtype", _INT), ("momentum", _FLOAT), ("correction", _FLOAT), ("eps", _FLOAT),
    ]  # fmt: skip


class BnActParams(c.Structure):
    _fields_ = [
        ("z", _POINTER), ("y", _POINTER), ("shape", ImageShape), ("dtype", _INT), ("channels", BnChannels),
        ("activation", _INT), ("negative_slope", _FLOAT),
    ]  # fmt: skip


class BnActBackwardParams(c.Structure):
    _fields_ = [
        ("grad_y", _POINTER), ("y", _POINTER), ("z", _POINTER), ("shape", ImageShape), ("dtype", _INT),
        ("channels", BnChannels), ("activation", _INT), ("negative_slope", _FLOAT),
    ]  # fmt: skip


class BnActBackwardReduceParams(BnActBackwardParams):
    _fields_ = [("sum_g", _POINTER), ("sum_g_xhat", _POINTER), ("workspace", _POINTER)]


class BnActBackwardElemtParams(BnActBackwardParams):
    _fields_ = [("g", _POINTER), ("g_xhat", _POINTER), ("sum_weight", _FLOAT), ("grad_z", _POINTER)]


class ClipWeightsParams(c.Structure):
    _fields_ = [
        ("weights", _POINTER), ("numel", _POINTER), ("tensors", _INT), ("dtype", _INT), ("clip_value", _FLOAT),
    ]  # fmt: skip


class RmspropClipParams(c.Structure):
    _fields_ = [
        *[(name, _POINTER) for name in ("weights", "grads", "square_avgs", "grad_avgs", "momentum_buffers", "numel")],
        ("tensors", _INT), ("dtype", _INT), ("device_lr", _POINTER),
        *[(name, _DOUBLE) for name in ("lr", "alpha", "eps", "weight_decay", "momentum")],
        ("maximize", _BOOL), ("clip_value", _DOUBLE),
    ]  # fmt: skip


class InterpolateParams(c.Structure):
    _fields_ = [
        *[(name, _POINTER) for name in ("real", "fake", "epsilon", "out")],
        ("samples", _SIZE), ("elements", _SIZE), ("dtype", _INT), ("epsilon_dtype", _INT),
    ]  # fmt: skip


class PenaltyParams(c.Structure):
    _fields_ = [
        *[(name, _POINTER) for name in ("grad", "grad_penalty", "penalty", "norms")],
        ("samples", _SIZE), ("elements", _SIZE), ("dtype", _INT), ("weight", _FLOAT), ("target", _FLOAT),
        ("one_sided", _BOOL), ("workspace", _POINTER),
    ]  # fmt: skip


class LeakyMaskMulParams(c.Structure):
    _fields_ = [
        ("t", _POINTER), ("y", _POINTER), ("out", _POINTER), ("numel", _SIZE), ("dtype", _INT),
        ("negative_slope", _FLOAT),
    ]  # fmt: skip


class ConvShape(c.Structure):
    _fields_ = [
        *[(name, _SIZE) for name in ("samples", "coarse_h", "coarse_w", "coarse_channels")],
        *[(name, _SIZE) for name in ("fine_h", "fine_w", "fine_channels")],
        *[(name, _INT) for name in ("kernel_h", "kernel_w", "stride_h", "stride_w", "padding_h", "padding_w")],
    ]


class ConvGemmParams(c.Structure):
    _fields_ = [
        ("shape", ConvShape), ("direction", _INT), ("dtype", _INT), ("tf32", _BOOL), ("x", _POINTER),
        ("weight", _POINTER), ("weight_layout", _INT), ("bias", _POINTER), ("out", _POINTER), ("z", _POINTER),
        ("epilogue", _INT), ("mean", _POINTER), ("var", _POINTER), ("invstd", _POINTER), ("eps", _FLOAT),
        ("channels", BnChannels), ("activation", _INT), ("negative_slope", _FLOAT), ("workspace", _POINTER),
    ]  # fmt: skip


class ConvWeightGradParams(c.Structure):
    _fields_ = [
        ("shape", ConvShape), ("dtype", _INT), ("tf32", _BOOL), ("coarse", _POINTER), ("fine", _POINTER),
        ("grad_weight", _POINTER), ("weight_layout", _INT), ("workspace", _POINTER),
    ]  # fmt: skip


PARAMS = {  # in the order of size_of_params in kernels.cpp
    "bn_stats": BnStatsParams,
    "bn_act": BnActParams,
    "bn_act_backward_reduce": BnActBackwardReduceParams,
    "bn_act_backward_elemt": BnActBackwardElemtParams,
    "clip_weights": ClipWeightsParams,
    "rmsprop_clip": RmspropClipParams,
    "interpolate": InterpolateParams,
    "penalty": PenaltyParams,
    "leaky_mask_mul": LeakyMaskMulParams,
    "inverse_std": InverseStdParams,
    "conv_gemm": ConvGemmParams,
    "conv_gemm_weight_grad": ConvWeightGradParams,
    "conv_thin": ConvGemmParams,
    "conv_thin_weight_grad": ConvWeightGradParams,
    "running_stats": RunningStatsParams,
}


class Kernels:
    """The compiled kernels by name: ``kernels.call("penalty", grad=tensor, samples=4, ...)``.

    A tensor becomes its address, a list of tensors an array of addresses, a list of ints an array of int64; a field not
    named stays zero.
    """

    def __init__(self, library: Path) -> None:
        self.library = c.CDLL(str(library))
        self.library.size_of_params.restype = c.c_int64
        self.library.set_order.argtypes = [c.c_int, c.c_uint64, c.c_int]
        for i, (name, struct) in enumerate(PARAMS.items()):
            assert self.library.size_of_params(i) == c.sizeof(struct), f"{struct.__name__} differs from csrc/cuda"
            function = getattr(self.library, f"run_{name}")
            function.argtypes, function.restype = [struct], c.c_char_p

    def set_order(self, order: str, seed: int = 1, landing: str = "late") -> None:
        self.library.set_order(ORDERS[order], seed, LANDINGS[landing])

    def set_resident_blocks(self, blocks: int) -> None:
        """How many blocks of a cooperative launch there may be."""
        self.library.set_resident_blocks(blocks)

    def plan(self, name: str, blocks: int = 8, **fields) -> list[int]:
        """What ``plan_of_<name>`` in conv_kernels.cpp says of a call. blocks: in place of FASTGAN_CONV_BLOCKS."""
        plan, conv_blocks = (_INT * 5)(), _INT.in_dll(self.library, "conv_blocks")
        function = getattr(self.library, f"plan_of_{name}")
        function.argtypes, function.restype = [PARAMS[name], c.POINTER(_INT)], None
        before, conv_blocks.value = conv_blocks.value, blocks
        function(PARAMS[name](**fields), plan)
        conv_blocks.value = before
        return list(plan)

    def covers(self, name: str, **fields) -> bool:
        function = getattr(self.library, f"covers_{name}")
        function.argtypes, function.restype = [PARAMS[name]], _BOOL
        return function(PARAMS[name](**fields))

    def call(self, name: str, **fields) -> None:
        alive = []  # arrays that the struct points to
        params = PARAMS[name]()
        for field, value in fields.items():
            if isinstance(value, torch.Tensor):
                value = value.data_ptr()
            elif isinstance(value, list):
                pointers = isinstance(value[0], torch.Tensor)
                items = [v.data_ptr() for v in value] if pointers else value
                alive.append(((_POINTER if pointers else _SIZE) * len(items))(*items))
                value = c.cast(alive[-1], _POINTER)
            setattr(params, field, value)
        error = getattr(self.library, f"run_{name}")(params)
        if error:
            raise RuntimeError(error.decode())
