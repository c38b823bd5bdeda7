"""clip_weights_ on all parameters of WGAN's critics."""

OP = "clip_weights_"


def test_clip_weights(measure, case, mode, provider):
    measure(case, mode, provider)
