"""What every Backbone promises to objectives, whatever its architecture."""

import copy
from collections.abc import Callable

import pytest
import torch

from tests.models.small_models import images, shake
from tests.objectives.small import without_gradient
from vitlab.models import Backbone, SwinTransformer, SwinTransformerV2, VisionTransformer
from vitlab.models.layers import fan_in, trunc_normal

Build = Callable[..., Backbone]


def test_the_three_steps_have_the_shapes_of_the_contract(small: Build) -> None:
    model = small(img_size=(16, 32), in_chans=2).eval()
    x = images(model, batch=3)
    tokens = model.patch_embed(x)
    assert tokens.shape[:3] == (3, 16 // model.patch_size, 32 // model.patch_size)
    positioned = model.add_pos_embed(tokens)
    assert positioned.shape == tokens.shape
    features = model.encode(positioned)
    assert features.patches.shape[0] == features.prefix.shape[0] == 3
    assert features.patches.shape[2] == features.prefix.shape[2] == model.num_features
    assert model.pool(features).shape == (3, model.num_features)
    assert model.forward_head(features).shape == (3, model.num_classes) == (3, 5)
    torch.testing.assert_close(model(x), model.forward_head(features))
    torch.testing.assert_close(model.embed(x), model.pool(features))


def test_images_of_other_sizes_are_refused_on_request(small: Build) -> None:
    model = small(img_size=16, dynamic_img_size=False)
    with pytest.raises(ValueError, match=r"\(24, 24\).*\(16, 16\).*dynamic_img_size"):
        model(torch.randn(1, 3, 24, 24))


def test_images_that_patches_do_not_divide_are_refused_with_sizes_that_fit(small: Build) -> None:
    with pytest.raises(ValueError, match=r"\(15, 15\)"):
        small(img_size=15)
    with pytest.raises(ValueError, match=r"\(16, 15\).*14 or 16|\(16, 15\).*12 or 16"):
        small(img_size=16)(torch.randn(1, 3, 16, 15))


def test_layers_partition_the_parameters(small: Build) -> None:
    model = small()
    listed = [id(parameter) for group in model.parameters_by_depth() for parameter in group]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    assert {id(p) for p in model.patch_embed.parameters()} <= {id(p) for p in model.parameters_by_depth()[0]}
    assert {id(p) for p in model.head_parameters()} <= {id(p) for p in model.parameters_by_depth()[-1]}


def test_layers_follow_a_copy_and_a_new_head(small: Build) -> None:
    model = copy.deepcopy(small())
    model.reset_classifier(7)
    listed = {id(parameter) for group in model.parameters_by_depth() for parameter in group}
    assert listed == {id(parameter) for parameter in model.parameters()}


def test_gradients_reach_every_parameter(small: Build) -> None:
    model = shake(small()).train()  # Swin v2's norms start at 0, and with them every gradient behind them
    model(images(model)).square().sum().backward()
    assert without_gradient(model) == []


def test_a_new_head_has_the_new_classes_and_is_the_only_thing_new(small: Build) -> None:
    model = small()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model.reset_classifier(11)
    assert model.num_classes == 11
    assert model(images(model)).shape == (2, 11)
    changed = {
        name for name, p in model.named_parameters() if before[name].shape != p.shape or (before[name] != p).any()
    }
    assert changed
    assert all(name.startswith("head") for name in changed)


def test_checkpointing_changes_memory_and_not_gradients(small: Build) -> None:
    # With random branches: what is computed again must drop what was dropped the first time.
    rates = {"drop_path_rate": 0.5, "attn_drop_rate": 0.3, "proj_drop_rate": 0.3}
    plain, checkpointed = shake(small(**rates)), small(**rates, grad_checkpointing=True)
    checkpointed.load_state_dict(plain.state_dict())
    x = images(plain)
    for model in (plain, checkpointed):
        torch.manual_seed(1)
        model(x).square().sum().backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_dropout_and_drop_path_act_in_training_only(small: Build) -> None:
    rates = {"drop_rate": 0.5, "proj_drop_rate": 0.3, "attn_drop_rate": 0.3, "drop_path_rate": 0.5}
    model = small(**rates).eval()
    x = images(model)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_linear_layers_start_as_the_argument_says(small: Build) -> None:
    # σ = 0.02 whatever the width, and σ = 1/√fan_in.
    for init, spread in ((trunc_normal, lambda fan: 0.02), (fan_in, lambda fan: fan**-0.5)):
        for name, module in small(init=init).named_modules():
            if isinstance(module, torch.nn.Linear) and module.weight.numel() > 500:
                assert module.weight.std().item() == pytest.approx(spread(module.in_features), rel=0.15), name
                assert module.bias is None or not module.bias.any(), name


@pytest.mark.parametrize(
    ("build", "published"), [(VisionTransformer, 192), (SwinTransformer, 96), (SwinTransformerV2, 96)]
)
def test_models_narrower_than_any_published_one_start_with_larger_weights(build: Build, published: int) -> None:
    # timm's σ = 0.02 from DeiT-Ti's and Swin-T's width on; below it 1/√fan_in.
    for width, spread in ((published, 0.02), (published // 2, (published // 2) ** -0.5)):
        heads = {} if build is VisionTransformer else {"depths": (2,), "window_size": 4}
        model = build(img_size=32, patch_size=4, embed_dim=width, num_heads=3 if not heads else (3,), **heads)
        assert model.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(spread, rel=0.1)  # type: ignore[union-attr]


def test_a_head_reset_starts_as_the_argument_says(small: Build) -> None:
    model = small(init=fan_in)
    model.reset_classifier(500)
    head = model.head_parameters()[0]
    assert head.std().item() == pytest.approx(model.num_features**-0.5, rel=0.15)


def test_state_dict_holds_parameters_only(small: Build) -> None:
    # Index tables and masks follow from sizes: stored, they would come back wrong at another size.
    model = small()
    assert model.state_dict().keys() == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("impulses", [0, 1])
def test_models_are_built_without_memory(small: Build, impulses: int) -> None:
    """As studies do, which compare costs before they train."""
    with torch.device("meta"):
        model = small(impulses=impulses)
        assert model(torch.empty(2, 3, *model.img_size)).shape == (2, 5)
    assert all(parameter.is_meta for parameter in model.parameters())
