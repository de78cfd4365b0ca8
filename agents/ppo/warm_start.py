"""Begins a training by PPO with the memory core of an earlier run, supervised or not."""

import torch
from gymnasium import spaces
from torch import Tensor, nn

from ntm_rl.agents.policy.policies import MlpNtmPolicy
from ntm_rl.agents.runs.loading import load_run_agent, load_run_network
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
from ntm_rl.agents.storage.tensors import put_weights, require_matching, weights_of


def warm_start(policy: MlpNtmPolicy, run: Run) -> None:
    """Puts a run's weights into a policy: those of its memory core, and a supervised run's output layer if it fits.

    The output layer fits where nothing stands between the core and the actions (`policy.net_arch.pi=[]`).

    Raises:
        InputError: no run, or one whose core has another kind, other options or another input.
    """
    settings = run.settings()
    if not isinstance(settings, SupervisedTrainingSettings):
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
    """Returns weight and bias of the layer whose action probabilities are the network's answers."""
    if isinstance(policy.action_space, spaces.MultiBinary):
        return output.weight, output.bias
    if isinstance(policy.action_space, spaces.Discrete) and policy.action_space.n == 2 and output.out_features == 1:
        weight, bias = (torch.cat([torch.zeros_like(each), each]) for each in (output.weight, output.bias))
        return weight, bias  # the logit of action 1 against that of action 0
    return None
