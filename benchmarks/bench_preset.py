"""One training step of every preset of every architecture, without kernels and with them."""

OP = "preset"


def test_preset(measure, case, mode, provider):
    measure(case, mode, provider)
