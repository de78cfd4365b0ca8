"""A recurrent PPO in JAX as a peer of the speed benchmark: one compiled function plays CartPole and learns from it.

The network is a dense layer, a GRU and two heads of one hidden layer, all of 128 units. A rollout has 128 steps, whose
whole sequences are the minibatches: 4 epochs of 4. Needs the package `jax`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random

UNITS, STEPS, EPOCHS, MINIBATCHES = 128, 128, 4, 4
GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, LEARNING_RATE, MAX_NORM = 0.99, 0.95, 0.2, 0.01, 0.5, 2.5e-4, 0.5
EPISODE = 500  # steps of the longest

Tree = Any  # of arrays


class Batch(NamedTuple):
    """Steps of a rollout, `[T, E, ...]`; `resets` marks the first step of an episode."""

    observations: jax.Array
    resets: jax.Array
    actions: jax.Array
    log_probs: jax.Array
    values: jax.Array
    rewards: jax.Array
    ends: jax.Array


class Player(NamedTuple):
    """State of the environments and the policy between two rollouts."""

    physics: jax.Array  # [E, 4]
    time: jax.Array  # [E]
    resets: jax.Array  # [E]
    hidden: jax.Array  # [E, H]


def make_training(n_envs: int, seed: int = 0) -> Callable[[int], None]:
    """Returns a function that runs a number of rollouts with their updates; the first call compiles it."""
    key = random.key(seed)
    parameters = _initial_parameters(key)
    moments = (jax.tree.map(jnp.zeros_like, parameters),) * 2
    physics = _initial_physics(key, n_envs)
    player = Player(physics, jnp.zeros(n_envs), jnp.ones(n_envs, bool), jnp.zeros((n_envs, UNITS)))
    state = [parameters, moments, jnp.zeros(()), player, key]

    def run(rollouts: int) -> None:
        for _ in range(rollouts):
            state[:] = _iteration(*state)
        jax.block_until_ready(state[0])

    return run


def _iterate(parameters: Tree, moments: Tree, count: jax.Array, player: Player, key: jax.Array) -> tuple[Any, ...]:
    """Plays a rollout and learns from it."""
    key, play_key, shuffle_key = random.split(key, 3)
    start = player.hidden
    player, batch = lax.scan(partial(_play, parameters), player, random.split(play_key, STEPS))
    features = _core(parameters, _current(player), player.hidden)[0][0]
    advantages = _advantages(batch, _heads(parameters, features)[1])
    data = (batch, advantages, advantages + batch.values)

    def minibatch(carry: tuple[Any, ...], indices: jax.Array) -> tuple[Any, None]:
        parameters, moments, count = carry
        part = jax.tree.map(lambda each: each[:, indices], data)
        gradients = jax.grad(_loss)(parameters, start[indices], *part)
        return _adam(parameters, gradients, moments, count), None

    def epoch(carry: tuple[Any, ...], key: jax.Array) -> tuple[Any, None]:
        order = random.permutation(key, len(start)).reshape(MINIBATCHES, -1)
        carry, _ = lax.scan(minibatch, carry, order)
        return carry, None

    (parameters, moments, count), _ = lax.scan(epoch, (parameters, moments, count), random.split(shuffle_key, EPOCHS))
    return parameters, moments, count, player, key


_iteration = jax.jit(_iterate)


def _current(player: Player) -> tuple[jax.Array, jax.Array]:
    """Returns the current observations and resets as a sequence of one step."""
    return player.physics[None], player.resets[None]


def _initial_parameters(key: jax.Array) -> Tree:
    sizes = {
        "embed": (4, UNITS),
        "input": (UNITS, 3 * UNITS),
        "hidden": (UNITS, 3 * UNITS),
        "actor": (UNITS, UNITS),
        "logits": (UNITS, 2),
        "critic": (UNITS, UNITS),
        "value": (UNITS, 1),
    }
    keys = random.split(key, len(sizes))
    return {
        name: (random.normal(each, size) / jnp.sqrt(size[0]), jnp.zeros(size[1]))
        for each, (name, size) in zip(keys, sizes.items(), strict=True)
    }


def _dense(parameters: Tree, name: str, inputs: jax.Array) -> jax.Array:
    weight, bias = parameters[name]
    return inputs @ weight + bias


def _core(parameters: Tree, steps: tuple[jax.Array, jax.Array], hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Runs the dense layer and the GRU over observations and resets `[T, E, ...]`; returns outputs and last state."""
    observations, resets = steps
    inputs = _dense(parameters, "input", jax.nn.relu(_dense(parameters, "embed", observations)))

    def step(hidden: jax.Array, each: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        of_input, reset = each
        hidden = jnp.where(reset[:, None], 0.0, hidden)
        of_hidden = _dense(parameters, "hidden", hidden)
        gates = jax.nn.sigmoid(of_input[:, : 2 * UNITS] + of_hidden[:, : 2 * UNITS])
        candidate = jnp.tanh(of_input[:, 2 * UNITS :] + gates[:, :UNITS] * of_hidden[:, 2 * UNITS :])
        hidden = candidate + gates[:, UNITS:] * (hidden - candidate)
        return hidden, hidden

    last, outputs = lax.scan(step, hidden, (inputs, resets))
    return outputs, last


def _heads(parameters: Tree, features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns log probabilities and values."""
    logits = _dense(parameters, "logits", jax.nn.relu(_dense(parameters, "actor", features)))
    values = _dense(parameters, "value", jax.nn.relu(_dense(parameters, "critic", features)))
    return jax.nn.log_softmax(logits), values[..., 0]


def _play(parameters: Tree, player: Player, key: jax.Array) -> tuple[Player, Batch]:
    """Acts once in every environment."""
    act_key, reset_key = random.split(key)
    outputs, hidden = _core(parameters, _current(player), player.hidden)
    log_probs, values = _heads(parameters, outputs[0])
    actions = random.categorical(act_key, log_probs)
    taken = jnp.take_along_axis(log_probs, actions[:, None], axis=1)[:, 0]
    physics, fallen = _cart_pole(player.physics, actions)
    ends = fallen | (player.time + 1 >= EPISODE)
    after = jnp.where(ends[:, None], _initial_physics(reset_key, len(ends)), physics)
    batch = Batch(player.physics, player.resets, actions, taken, values, jnp.ones_like(values), ends)
    return Player(after, jnp.where(ends, 0.0, player.time + 1), ends, hidden), batch


def _initial_physics(key: jax.Array, n_envs: int) -> jax.Array:
    return random.uniform(key, (n_envs, 4), minval=-0.05, maxval=0.05)


def _cart_pole(physics: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gymnasium's CartPole-v1: returns the next state and whether the pole has fallen."""
    velocity, angle, rotation = physics.T[1:]
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    push = (jnp.where(actions == 1, 10.0, -10.0) + 0.05 * rotation**2 * sine) / 1.1
    angular = (9.8 * sine - cosine * push) / (0.5 * (4.0 / 3.0 - 0.1 * cosine**2 / 1.1))
    linear = push - 0.05 * angular * cosine / 1.1
    change = jnp.stack([velocity, linear, rotation, angular], axis=1)
    after = physics + 0.02 * change
    return after, (jnp.abs(after[:, 0]) > 2.4) | (jnp.abs(after[:, 2]) > 12 * jnp.pi / 180)


def _advantages(batch: Batch, last_values: jax.Array) -> jax.Array:
    def step(carry: tuple[jax.Array, jax.Array], each: Batch) -> tuple[Any, jax.Array]:
        advantage, next_values = carry
        goes_on = 1.0 - each.ends
        error = each.rewards + GAMMA * next_values * goes_on - each.values
        advantage = error + GAMMA * LAMBDA * goes_on * advantage
        return (advantage, each.values), advantage

    _, advantages = lax.scan(step, (jnp.zeros_like(last_values), last_values), batch, reverse=True)
    return advantages


def _loss(parameters: Tree, start: jax.Array, batch: Batch, advantages: jax.Array, returns: jax.Array) -> jax.Array:
    outputs, _ = _core(parameters, (batch.observations, batch.resets), start)
    all_log_probs, values = _heads(parameters, outputs)
    log_probs = jnp.take_along_axis(all_log_probs, batch.actions[..., None], axis=-1)[..., 0]
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = jnp.exp(log_probs - batch.log_probs)
    gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantages).mean()
    entropy = -(jnp.exp(all_log_probs) * all_log_probs).sum(-1).mean()
    return VALUE * jnp.square(values - returns).mean() - gain - ENTROPY * entropy


def _adam(parameters: Tree, gradients: Tree, moments: Tree, count: jax.Array) -> tuple[Tree, Tree, jax.Array]:
    norm = jnp.sqrt(sum(jnp.square(each).sum() for each in jax.tree.leaves(gradients)))
    gradients = jax.tree.map(lambda each: each * jnp.minimum(1.0, MAX_NORM / norm), gradients)
    count = count + 1
    first = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, moments[0], gradients)
    second = jax.tree.map(lambda old, new: 0.999 * old + 0.001 * new**2, moments[1], gradients)
    rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    parameters = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-5), parameters, first, second)
    return parameters, (first, second), count
