import numpy as np
import pytest
import torch

from ntm_rl.agents.settings.sections import OptimizerSettings
from ntm_rl.agents.supervised.optimizers import GravesRmsProp, make_optimizer


def test_rmsprop_follows_the_equations_of_graves():
    # Graves 2013, eqs. 38-41, with an L2 term in the gradient, element by element.
    rng = np.random.default_rng(0)
    weights, gradients = rng.normal(size=(3, 2)), rng.normal(size=(20, 3, 2))
    parameter = torch.nn.Parameter(torch.from_numpy(weights.copy()))
    optimizer = GravesRmsProp([parameter], lr=0.01, momentum=0.9, weight_decay=0.1)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    n, g, delta = (np.zeros((3, 2)) for _ in range(3))
    for gradient in gradients:
        epsilon = gradient + 0.1 * weights
        n = 0.95 * n + 0.05 * epsilon**2
        g = 0.95 * g + 0.05 * epsilon
        delta = 0.9 * delta - 0.01 * epsilon / np.sqrt(n - g**2 + 1e-4)
        weights = weights + delta
    assert parameter.detach().numpy() == pytest.approx(weights, rel=1e-12)


def test_rmsprop_leaves_parameters_without_a_gradient_alone():
    parameter = torch.nn.Parameter(torch.ones(2))
    GravesRmsProp([parameter]).step()
    assert parameter.tolist() == [1, 1]


def test_rmsprop_goes_on_from_its_state():
    def train(optimizer, parameter, steps):
        for _ in range(steps):
            parameter.grad = 2 * parameter.detach()
            optimizer.step()

    through, parts = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    train(GravesRmsProp([through]), through, 6)
    first = GravesRmsProp([parts])
    train(first, parts, 3)
    second = GravesRmsProp([parts])
    second.load_state_dict(first.state_dict())
    train(second, parts, 3)
    assert torch.equal(through, parts)


@pytest.mark.parametrize("name", ["rmsprop", "adam", "sgd"])
def test_every_optimizer_goes_downhill_and_shrinks_weights_by_l2(name):
    network = torch.nn.Linear(2, 1, bias=False)
    settings = OptimizerSettings(name=name, learning_rate=0.05, l2=1.0)
    optimizer = make_optimizer(settings, network)
    before = network.weight.detach().abs().sum()
    for _ in range(100):
        optimizer.zero_grad()
        (0 * network.weight).sum().backward()
        optimizer.step()
    assert network.weight.detach().abs().sum() < 0.2 * before
