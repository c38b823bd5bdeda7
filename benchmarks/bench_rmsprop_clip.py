"""optim.RMSprop(clip_value=) on all parameters of WGAN's critics."""

OP = "rmsprop_clip_"


def test_rmsprop_clip(measure, case, mode, provider):
    measure(case, mode, provider)
