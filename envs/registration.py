"""The package's own Gymnasium ids, registered by `import ntm_rl`."""

from typing import Any

import gymnasium as gym


def make_no_velocity(id: str, **kwargs: object) -> gym.Env[Any, Any]:
    """Makes a classic control task whose velocities are hidden."""
    from ntm_rl.envs.masking import MaskVelocity

    return MaskVelocity(gym.make(id, **kwargs))  # type: ignore[arg-type]


def register_environments() -> None:
    """Registers the ids by the name of what makes them: nothing but Gymnasium is imported."""
    for name, original in (("CartPoleNoVelocity-v0", "CartPole-v1"), ("PendulumNoVelocity-v0", "Pendulum-v1")):
        gym.register(
            f"ntm_rl/{name}",
            entry_point="ntm_rl.envs.registration:make_no_velocity",
            kwargs={"id": original},
            disable_env_checker=True,
        )
