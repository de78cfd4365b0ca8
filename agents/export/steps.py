"""Modules that run one step of an agent or network with an explicit memory state."""

from copy import deepcopy
from dataclasses import replace

from torch import Tensor, nn

from ntm_rl.agents.export.actions import actions_of
from ntm_rl.agents.export.observations import Observations
from ntm_rl.agents.export.ports import NEXT_STATE, Port, of_masks, of_state
from ntm_rl.agents.policy.files import LoadedAgent
from ntm_rl.agents.policy.image_extractor import ImageExtractor
from ntm_rl.agents.policy.sequence_network import SequenceNetwork


class StepModule(nn.Module):
    """One step of B sequences: inputs in the order of `inputs`, outputs in the order of `outputs`.

    Attributes:
        inputs: The observations, action masks if the step has them, the state and the resets.
        outputs: The results and, last, the state after the step.
        core: Name of the memory core.
        state_size: S, elements of a state.
    """

    inputs: list[Port]
    outputs: list[Port]
    core: str
    state_size: int


class AgentStep(StepModule):
    """One step of an agent, from the environment's observations to its actions.

    Outputs: the action, the parameters of its distribution, the value and the state.

    Args:
        agent: The agent, which is copied to the CPU.
        channels_last: Whether images come as `[H, W, C]`.
        action_masks: Whether the step has action masks.

    Raises:
        InputError: options that do not fit the agent's spaces.
    """

    def __init__(self, agent: LoadedAgent, channels_last: bool = False, action_masks: bool = False):
        super().__init__()
        policy = agent.policy
        # Shared: noise that gSDE has drawn cannot be copied, and the optimizer's state need not be.
        shared = {id(each): each for each in (policy.action_dist, policy.optimizer)}
        self.policy = deepcopy(policy, shared).cpu()
        self.policy.set_training_mode(False)
        for module in self.policy.modules():
            if isinstance(module, ImageExtractor):
                module.precision = "fp32"
        self.observations = Observations(replace(agent, policy=self.policy), channels_last)
        self.actions = actions_of(self.policy)
        self.core, self.state_size = self.policy.core_name, self.policy.state_size
        self._masks = [of_masks(policy.action_space)] if action_masks else []
        self.inputs = [*self.observations.ports, *self._masks, *of_state(self.state_size)]
        self.outputs = [
            self.actions.action_port,
            *self.actions.parameter_ports,
            Port("value", (), "float32", "expected discounted return, in the units of the rewards in the training"),
            Port(NEXT_STATE, (self.state_size,), "float32", "memory after the step"),
        ]
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Runs the step."""
        *observed, state, reset = inputs
        masks = observed.pop() if self._masks else None
        latent, values, state = self.policy.actor_outputs(self.observations(observed, reset), state, reset)
        return *self.actions(latent, masks), values, state


class NetworkStep(StepModule):
    """One step of a supervised network; outputs the logits of its answers and the state.

    Args:
        network: The network, which is copied to the CPU.
    """

    def __init__(self, network: SequenceNetwork):
        super().__init__()
        self.network = deepcopy(network).cpu()
        core = self.network.core
        self.core, self.state_size = network.core_name, core.state_size
        self.inputs = [
            Port("input", (core.input_size,), "float32", "input of the task"),
            *of_state(self.state_size),
        ]
        self.outputs = [
            Port("logits", (self.network.output.out_features,), "float32", "logits of the answer"),
            Port(NEXT_STATE, (self.state_size,), "float32", "memory after the step"),
        ]
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Runs the step."""
        value, state, reset = inputs
        output, state = self.network.core(value.unsqueeze(0), state, reset.unsqueeze(0))
        return self.network.output(output[0]), state
