"""Checks of arguments."""

from numbers import Integral, Real

from ntm_rl.errors import InputError, did_you_mean


def require_at_least(minimum: int, reason: str = "", /, **values: int) -> None:
    """Raises an `InputError`, with `reason`, for the first of `values` that is not an integer of at least `minimum`.

    NumPy integers are valid.
    """
    for key, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
            raise InputError(f"{key} = {value!r}: must be an integer of at least {minimum}{reason}")


def require_positive(**values: float) -> None:
    """Raises an `InputError` for the first of `values` that is not a number above 0."""
    for key, value in values.items():
        if not isinstance(value, Real) or isinstance(value, bool) or not value > 0:
            raise InputError(f"{key} = {value!r}: must be a number above 0")


def require_bool(**values: bool) -> None:
    """Raises an `InputError` for the first of `values` that is not a bool."""
    for key, value in values.items():
        if not isinstance(value, bool):
            raise InputError(f"{key} = {value!r}: must be true or false")


def require_one_of(valid: tuple[str, ...], **values: str) -> None:
    """Raises an `InputError` for the first of `values` that is not in `valid`."""
    for key, value in values.items():
        if value not in valid:
            raise InputError(f"{key} = {value!r}: must be one of {', '.join(valid)}.{did_you_mean(str(value), valid)}")
