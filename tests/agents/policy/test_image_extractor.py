"""The image extractors beside the same sums written out, in both precisions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN

from ntm_rl.agents.policy.image_extractor import ImageExtractor, MultiInputExtractor
from ntm_rl.agents.policy.policies import CnnNtmPolicy, MultiInputNtmPolicy
from ntm_rl.errors import InputError


def space(channels=1, size=84):
    return spaces.Box(0, 255, (channels, size, size), np.uint8)


def images(count, channels=1, size=84, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def test_nature_is_sb3s_network_on_images_scaled_by_sb3():
    ours, theirs = ImageExtractor(space(4), precision="fp32"), NatureCNN(space(4))
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(images(3, 4)), theirs(images(3, 4).float() / 255), rtol=1e-4, atol=1e-5)


def test_impala_is_the_network_of_the_papers_figure():
    extractor = ImageExtractor(space(3, 20), 7, architecture="impala", precision="fp32")
    weights = iter(extractor.state_dict().values())

    def convolve(x):
        return F.conv2d(x, next(weights).contiguous(), next(weights), padding=1)

    x = images(2, 3, 20).float() / 255
    for channels in (16, 32, 32):
        x = F.max_pool2d(convolve(x), 3, 2, 1)
        for _ in range(2):
            x = x + convolve(F.relu(convolve(F.relu(x))))
        assert x.shape[1] == channels
    expected = F.relu(F.linear(F.relu(x).flatten(1), next(weights), next(weights)))
    torch.testing.assert_close(extractor(images(2, 3, 20)), expected, rtol=1e-4, atol=1e-5)
    assert next(weights, None) is None


@pytest.mark.parametrize("architecture", ["nature", "impala"])
def test_bfloat16_gives_float32_features_and_gradients_near_those_of_float32(architecture):
    exact = ImageExtractor(space(), 32, architecture=architecture, precision="fp32")
    rough = ImageExtractor(space(), 32, architecture=architecture, precision="bf16")
    rough.load_state_dict(exact.state_dict())
    outputs = [extractor(images(4)) for extractor in (exact, rough)]
    assert outputs[1].dtype == torch.float32
    assert not torch.equal(*outputs)  # the precision does something
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0.1, atol=0.02)
    for output in outputs:
        output.square().sum().backward()
    for rougher, parameter in zip(rough.parameters(), exact.parameters(), strict=True):
        assert rougher.grad.dtype == torch.float32 and rougher.grad.isfinite().all()
        assert F.cosine_similarity(rougher.grad.flatten(), parameter.grad.flatten(), dim=0) > 0.95


@pytest.mark.parametrize("size", [(84, 84), (45, 44), (44, 46)])  # 46 columns are no multiple of the stride
@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_convolution_in_bfloat16_is_that_of_float64(size, channels):
    generator = torch.Generator().manual_seed(1)
    block = torch.randint(0, 256, (4, channels, *size), dtype=torch.uint8, generator=generator)
    shape = spaces.Box(0, 255, (channels, *size), np.uint8)
    extractor, outputs = ImageExtractor(shape, 8, precision="bf16"), []
    first = extractor.cnn[0]
    first.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    extractor(block)
    (found,) = outputs
    weight, bias = (each.detach().double().requires_grad_() for each in (first.weight, first.bias))
    expected = F.conv2d(block.double() / 255, weight, bias, stride=4)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02)
    gradient = torch.randn(expected.shape, generator=generator)
    found.backward(gradient.bfloat16())
    expected.backward(gradient.double())
    for ours, exact in ((first.weight, weight), (first.bias, bias)):
        assert (ours.grad - exact.grad).norm() < 0.01 * exact.grad.norm()


LAYOUTS = {
    "channels last": lambda block: block.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "part of a wider image": lambda block: F.pad(block, (0, 4))[..., :-4],
    "at an odd address": lambda block: torch.cat([block.new_zeros(1), block.flatten()])[1:].view_as(block),
}


@pytest.mark.parametrize("lay_out", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_may_have_any_layout(lay_out, channels):
    extractor, block = ImageExtractor(space(channels), 8, precision="bf16"), images(2, channels)
    torch.testing.assert_close(extractor(lay_out(block)), extractor(block), rtol=0, atol=0)


@pytest.mark.parametrize("network", [torch.nn.Flatten(), torch.nn.Sequential(torch.nn.Conv2d(1, 4, 8, 4))])
def test_a_network_of_the_user_gets_scaled_images(network):
    extractor, seen = ImageExtractor(space(), precision="bf16"), []
    extractor.cnn, extractor.linear = network, torch.nn.Identity()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    extractor(images(2))
    torch.testing.assert_close(seen[0].float(), images(2).float() / 255, rtol=0.01, atol=0)


def test_bfloat16_draws_the_initial_weights_of_sb3():
    torch.manual_seed(0)
    ours = ImageExtractor(space(4), precision="bf16").state_dict()
    torch.manual_seed(0)
    theirs = NatureCNN(space(4)).state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("architecture", ["nature", "impala"])
def test_a_step_has_the_features_of_the_extractor_without_its_float32_weights(architecture):
    extractor = ImageExtractor(space(), 32, architecture=architecture, precision="bf16")
    step = extractor.make_step()
    assert {each.dtype for each in step.parameters()} == {torch.bfloat16}
    assert {each.dtype for each in extractor.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(step(images(3)), extractor(images(3)), rtol=0.02, atol=0.01)
    exact = ImageExtractor(space(), 32, architecture=architecture, precision="fp32")
    assert exact.make_step() is exact


def test_a_step_of_a_dict_copies_its_images():
    parts = {"image": space(), "vector": spaces.Box(-1, 1, (3,), np.float32)}
    extractor = MultiInputExtractor(spaces.Dict(parts), 16, precision="bf16")
    step, block = extractor.make_step(), {"image": images(2), "vector": torch.rand(2, 3)}
    assert {each.dtype for each in step.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        torch.testing.assert_close(step(block), extractor(block), rtol=0.02, atol=0.01)


def test_the_policy_hands_bytes_to_the_extractor_and_float32_to_the_core(monkeypatch):
    policy = CnnNtmPolicy(
        space(), spaces.Discrete(3), lambda _: 1e-3, features_extractor_kwargs={"precision": "bf16", "features_dim": 16}
    )
    seen = []
    forward = policy.features_extractor.forward
    monkeypatch.setattr(policy.features_extractor, "forward", lambda x: seen.append(x.dtype) or forward(x))
    block = images(10)
    values, log_probs, _ = policy.evaluate_sequences(
        block, torch.zeros(10), policy.initial_state(2), torch.zeros(5, 2, dtype=torch.bool)
    )
    assert seen == [torch.uint8]  # the whole block, once
    assert values.dtype == log_probs.dtype == torch.float32


def test_scaled_images_are_taken_as_they_are():
    extractor = ImageExtractor(space(), precision="fp32")
    torch.testing.assert_close(extractor(images(2)), extractor(images(2).float() / 255), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((space(1, 35), 8, "nature"), r"extractor = 'nature': images of 35 x 35 are too small, it needs 36 x 36"),
        ((space(), 0), "features_dim = 0"),
        ((spaces.Box(0, 1, (40, 40, 3)),), r"its channels come last.*make_vec_env, or transpose it"),
        ((space(), 8, "vgg"), "extractor = 'vgg'"),
        ((space(), 8, "nature", "fp16"), "precision = 'fp16'"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        ImageExtractor(*arguments)


def test_the_smallest_image_works():
    assert ImageExtractor(space(1, 36), 8)(images(2, 1, 36)).shape == (2, 8)


@pytest.mark.parametrize(("size", "architecture"), [(36, "nature"), (35, "impala"), (7, "impala")])
def test_auto_reads_images_that_are_too_small_for_nature_by_impala(size, architecture):
    extractor = ImageExtractor(space(3, size), 8)
    assert extractor.architecture == architecture
    assert extractor(images(2, 3, size)).shape == (2, 8)


# Keys that torch refuses as names of modules, and a number without a dimension.
MIXED = spaces.Dict(
    {
        "a.b": space(1, 36),
        "": space(3, 9),
        "keys": spaces.Box(0, 1, (1, 40, 40), np.float32),
        "scalar": spaces.Box(-1, 1, ()),
        "matrix": spaces.Box(-1, 1, (2, 2)),
        "gear": spaces.Discrete(3),
    }
)


SMALL = {"features_extractor_kwargs": {"cnn_output_dim": 5, "precision": "fp32"}}


def mixed(count):
    generator = torch.Generator().manual_seed(1)
    return {
        "a.b": images(count, 1, 36),
        "": images(count, 3, 9),
        "keys": torch.rand(count, 1, 40, 40, generator=generator),
        "scalar": torch.rand(count, generator=generator),
        "matrix": torch.rand(count, 2, 2, generator=generator),
        "gear": torch.arange(count) % 3,
    }


def test_every_image_of_a_dict_has_its_network_and_other_parts_pass_as_numbers():
    policy = MultiInputNtmPolicy(MIXED, spaces.Discrete(2), lambda _: 1e-3, **SMALL, core="lstm")
    extractor, obs = policy.features_extractor, mixed(4)
    assert {key: each.architecture for key, each in extractor.images.items()} == {
        "a.b": "nature",
        "": "impala",
        "keys": "nature",
    }
    features = policy._features(obs, extractor)
    expected = {key: extractor.images[key](obs[key]) for key in extractor.images}
    expected |= {"scalar": obs["scalar"][:, None], "matrix": obs["matrix"].flatten(1)}
    expected["gear"] = F.one_hot(obs["gear"], 3).float()
    torch.testing.assert_close(features, torch.cat([expected[key] for key in MIXED.spaces], dim=1))
    assert extractor.features_dim == features.shape[1] == 3 * 5 + 1 + 4 + 3


def test_a_dict_scales_bytes_once_and_floats_never():
    policy = MultiInputNtmPolicy(MIXED, spaces.Discrete(2), lambda _: 1e-3, **SMALL, core="lstm")
    obs = mixed(2)
    scaled = {**obs, "a.b": obs["a.b"].float() / 255, "": obs[""].float() / 255, "gear": F.one_hot(obs["gear"], 3)}
    torch.testing.assert_close(
        policy._features(obs, policy.features_extractor), policy.features_extractor(scaled), rtol=1e-4, atol=1e-5
    )


def test_an_image_of_a_dict_that_is_too_small_is_named():
    with pytest.raises(InputError, match=r"observation '': extractor = 'nature': images of 9 x 9 are too small"):
        MultiInputExtractor(MIXED, architecture="nature")


def test_the_size_of_other_parts_alone_is_that_of_their_numbers():
    parts = spaces.Dict(n=spaces.MultiDiscrete([2, 3]), b=spaces.MultiBinary(4))
    assert MultiInputExtractor(parts).features_dim == 9
