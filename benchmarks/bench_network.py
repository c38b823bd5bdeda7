"""Whole networks: DCGAN's generator and discriminator, forward and backward, and in eval mode."""

OP = "network"


def test_network(measure, case, mode, provider):
    measure(case, mode, provider)
