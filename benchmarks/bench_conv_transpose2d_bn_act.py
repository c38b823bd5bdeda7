"""conv_transpose2d_bn_act on DCGAN's generator layers."""

OP = "conv_transpose2d_bn_act"


def test_conv_transpose2d_bn_act(measure, case, mode, provider):
    measure(case, mode, provider)
