"""conv2d_bn_act on DCGAN's discriminator layers."""

OP = "conv2d_bn_act"


def test_conv2d_bn_act(measure, case, mode, provider):
    measure(case, mode, provider)
