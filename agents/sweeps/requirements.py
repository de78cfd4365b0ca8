"""The optional packages of sweeps."""

from importlib.util import find_spec

from ntm_rl.errors import InputError


def require_optuna() -> None:
    """Raises an `InputError` with the pip command if Optuna or matplotlib is not installed."""
    for package in ("optuna", "matplotlib"):
        if find_spec(package) is None:
            raise InputError(f'ntm-rl sweep: {package} is not installed; run: pip install "ntm-rl[sweep]"')
