"""Gymnasium environments and wrappers: NumPy only, apart from the one adapter to SB3's `VecEnv`."""

if __name__ != "ntm_rl.envs":
    raise ImportError(f"import this package as ntm_rl.envs, not as {__name__}")
