"""Runs a features extractor on a rollout's observations."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from ntm_rl.agents.policy.image_extractor import ImageExtractor, MultiInputExtractor


def extract(
    obs: PyTorchObs, extractor: BaseFeaturesExtractor, space: spaces.Space[Any], normalize_images: bool
) -> Tensor:
    """Returns the features `[B, F]` of observations `[B, ...]`, or of a dict of them for a Dict space.

    Like SB3's `preprocess_obs` followed by the extractor, with two differences: `ImageExtractor` gets images as uint8
    (SB3 converts them to float32 first), and scalars `[B]` become `[B, 1]`, since extractors flatten from dimension 1.
    """
    if isinstance(obs, dict):
        assert isinstance(space, spaces.Dict)
        images = extractor.images if normalize_images and isinstance(extractor, MultiInputExtractor) else {}
        features: Tensor = extractor(
            {
                key: part
                if key in images and part.dtype == torch.uint8
                else _preprocessed(part, space.spaces[key], normalize_images)
                for key, part in obs.items()
            }
        )
        return features
    if type(extractor) is FlattenExtractor and obs.dtype == torch.float32 and space.dtype == np.float32:
        return obs.flatten(1) if obs.dim() > 1 else obs.unsqueeze(1)  # at a tenth of the overhead
    if normalize_images and isinstance(extractor, ImageExtractor) and obs.dtype == torch.uint8:
        features = extractor(obs)
        return features
    features = extractor(_preprocessed(obs, space, normalize_images))
    return features


def make_step(extractor: BaseFeaturesExtractor) -> BaseFeaturesExtractor:
    """Returns the extractor for `extract` in steps in which its parameters stay the same."""
    if type(extractor) is ImageExtractor or type(extractor) is MultiInputExtractor:
        return extractor.make_step()
    return extractor


def _preprocessed(part: Tensor, space: spaces.Space[Any], normalize_images: bool) -> Tensor:
    preprocessed = preprocess_obs(part, space, normalize_images)
    assert isinstance(preprocessed, Tensor)
    return preprocessed.unsqueeze(1) if preprocessed.dim() == 1 else preprocessed
