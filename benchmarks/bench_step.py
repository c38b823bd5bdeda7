"""Whole training steps: DCGAN, WGAN's critic, WGAN-GP's critic."""

OP = "step"


def test_step(measure, case, mode, provider):
    measure(case, mode, provider)
