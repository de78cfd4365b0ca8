"""Starts a PPO training with the memory core of an earlier run of either kind."""

import torch
from gymnasium import spaces
from torch import Tensor, nn

from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.runs.loading import load_run_agent, load_run_network
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.kinds import SUPERVISED
from ntm_rl.agents.storage.tensors import put_weights, require_matching, weights_of


def warm_start(policy: MlpNtmPolicy, run: Run) -> None:
    """Copies a run's memory core into a policy, and the output layer of a supervised run if it fits.

    The output layer fits if no layer lies between the core and the actions (`policy.net_arch.pi=[]`). The value network
    and its statistics of the returns start anew.

    Raises:
        InputError: the run cannot be loaded, or its core differs in kind, options or input.
    """
    if run.settings().kind is not SUPERVISED:
        _copy_core(run, load_run_agent(run, device="cpu").policy.core, policy)
        return
    network, _ = load_run_network(run)
    _copy_core(run, network.core, policy)
    layer = _as_action_layer(network.output, policy)
    actions = policy.action_net
    if layer is not None and isinstance(actions, nn.Linear) and actions.weight.shape == layer[0].shape:
        with torch.no_grad():
            actions.weight.copy_(layer[0])
            actions.bias.copy_(layer[1])


def _copy_core(run: Run, core: nn.Module, policy: MlpNtmPolicy) -> None:
    weights = weights_of(core)
    require_matching(run.agent, weights, weights_of(policy.core))
    put_weights(policy.core, weights)


def _as_action_layer(output: nn.Linear, policy: MlpNtmPolicy) -> tuple[Tensor, Tensor] | None:
    """Returns weight and bias of an action layer with the network's output probabilities; None if there is none."""
    if isinstance(policy.action_space, spaces.MultiBinary):
        return output.weight, output.bias
    if isinstance(policy.action_space, spaces.Discrete) and policy.action_space.n == 2 and output.out_features == 1:
        weight, bias = (torch.cat([torch.zeros_like(each), each]) for each in (output.weight, output.bias))
        return weight, bias  # action 0 has logit 0
    return None
