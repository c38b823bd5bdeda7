"""gradient_penalty and its gradients in the critic's parameters."""

OP = "gradient_penalty"


def test_gradient_penalty(measure, case, mode, provider):
    measure(case, mode, provider)
