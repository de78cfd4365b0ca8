"""What features extractors are given of a rollout's observations."""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from ntm_rl.agents.policy.image_extractor import ImageExtractor, MultiInputExtractor


def extract(
    obs: PyTorchObs, extractor: BaseFeaturesExtractor, space: spaces.Space[Any], normalize_images: bool
) -> Tensor:
    """Returns the features `[B, F]` of observations `[B, ...]`, a dict of such for a Dict space.

    As SB3's `preprocess_obs` and the extractor, apart from two things: bytes go to our own extractors as they are
    (SB3 turns images into float32 first), and scalars `[B]` become `[B, 1]`, since extractors flatten what follows the
    batch.
    """
    if isinstance(obs, dict):
        assert isinstance(space, spaces.Dict)
        images = extractor.images if normalize_images and isinstance(extractor, MultiInputExtractor) else {}
        features: Tensor = extractor(
            {
                key: part
                if key in images and part.dtype == torch.uint8
                else _prepared(part, space.spaces[key], normalize_images)
                for key, part in obs.items()
            }
        )
        return features
    if normalize_images and isinstance(extractor, ImageExtractor) and obs.dtype == torch.uint8:
        features = extractor(obs)
        return features
    features = extractor(_prepared(obs, space, normalize_images))
    return features


def _prepared(part: Tensor, space: spaces.Space[Any], normalize_images: bool) -> Tensor:
    prepared = preprocess_obs(part, space, normalize_images)
    assert isinstance(prepared, Tensor)
    return prepared.unsqueeze(1) if prepared.dim() == 1 else prepared
