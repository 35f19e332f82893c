"""Any timm model by its name: baselines and teachers. timm is imported when a model is built; it takes seconds."""

import difflib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitlab.models.backbone import FeatureInfo, ImageModel, Indices, in_eval_mode, taken
from vitlab.models.layers import pair


class TimmModel(ImageModel):
    """Wrap a timm model as an ImageModel; its parameters are under `net`.

    Args:
        name: timm's name, with or without the tag of its weights: `resnet18`, `convnext_atto.d2_in1k`.
        img_size: side of the images in pixels; None for timm's default.
        drop_path_rate: None for timm's default.
        small_stem: a ResNet's stem keeps the resolution of small images: its first convolution has stride 1, and no
            pooling follows.
        pretrained: download timm's weights; `checkpoint_path` reads a file instead.
        model_kwargs: further arguments of the model, by timm's names. For views or images of several sizes a ViT needs
            `dynamic_img_size: true`, a Swin `strict_img_size: false`.

    A file of another image size or window is not resized, as `pretrained` is: give the file's `img_size`.
    """

    net: Any  # a module; timm's models have no common type with forward_head

    def __init__(
        self,
        name: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int | tuple[int, int] | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        small_stem: bool = False,
        pretrained: bool = False,
        checkpoint_path: str | Path | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        import timm
        from huggingface_hub import try_to_load_from_cache

        from vitlab.models.weights import hub_answers, load_weights

        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
            raise ValueError(f"timm {timm.__version__} has no model {name!r}; the nearest are {', '.join(near)}.")
        arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans, "drop_rate": drop_rate}
        if drop_path_rate is not None:
            arguments["drop_path_rate"] = drop_path_rate
        try:
            cfg: Any = timm.get_pretrained_cfg(name)
            hub, files = str(cfg.hf_hub_id), ("model.safetensors", "pytorch_model.bin")
            here = not pretrained or any(isinstance(try_to_load_from_cache(hub, file), str) for file in files)
            if not here and cfg.hf_hub_id and not hub_answers(hub, files[0]):
                raise ValueError(f"{hub} is not on this machine, and the Hugging Face Hub cannot be reached.")
            if img_size is not None and cfg.fixed_input_size:  # convolutional nets take any size without this argument
                arguments["img_size"] = pair(img_size)
            net: Any = timm.create_model(name, pretrained=pretrained, **arguments | (model_kwargs or {}))
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"timm {timm.__version__} cannot build {name}: {error}") from None
        if small_stem:  # as for CIFAR (He et al. 2016, section 4.2); weights stay
            if not isinstance(net, timm.models.resnet.ResNet):
                raise ValueError(f"small_stem is for ResNets, not for {type(net).__name__}.")
            next(module for module in net.conv1.modules() if isinstance(module, nn.Conv2d)).stride = (1, 1)
            net.maxpool = nn.Identity()  # type: ignore[assignment]
        # channels_last: the forward pass of a ResNet-18 takes 0.7 of the time in float32 and half of it in bfloat16.
        self.net = net.to(memory_format=torch.channels_last)
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = int(net.head_hidden_size)
        self.pretrained, self.small_stem = pretrained, small_stem
        self.img_size = pair(img_size) if img_size is not None else (cfg.input_size[1], cfg.input_size[2])
        self.mean: tuple[float, ...] = tuple(cfg.mean)
        """The normalization that timm's weights expect; a teacher needs it, whatever its student's is."""
        self.std: tuple[float, ...] = tuple(cfg.std)
        if checkpoint_path is not None:
            load_weights(self, checkpoint_path)

    def forward(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B K"]:
        return self.net(images)

    def embed(self, images: Float[Tensor, "B Cin Hpx Wpx"]) -> Float[Tensor, "B C"]:
        return self.net.forward_head(self.net.forward_features(images), pre_logits=True)

    @torch.no_grad()
    def check(self, size: int | tuple[int, int]) -> None:
        """Raise a ValueError unless the model takes images of this size in pixels."""
        black = next(self.parameters()).new_zeros(1, self.in_chans, *pair(size))
        try:
            with in_eval_mode(self):
                self.embed(black)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            wrong = f"{type(self.net).__name__} takes no images of {size} px ({error})"
            options = "dynamic_img_size or dynamic_img_pad of a ViT, strict_img_size of a Swin"
            raise ValueError(f"{wrong}. Take images of one size, or give model_kwargs: {options}.") from None

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """timm's; nothing for its few models without maps. A `small_stem` leaves out two of the halvings."""
        known = self.net.feature_info if isinstance(getattr(self.net, "feature_info", None), list) else []
        halved = [info | {"reduction": info["reduction"] // (4 if i else 2)} for i, info in enumerate(known)]
        return halved if self.small_stem else known

    def forward_intermediates(
        self, images: Float[Tensor, "B Cin Hpx Wpx"], indices: Indices = None, **options: bool | str
    ) -> Any:
        """Return what timm's method of this name does; convolutional models take fewer of its options."""
        return self.net.forward_intermediates(images, taken(indices, self.feature_info), **options)

    @property
    def stored_module(self) -> nn.Module:
        net: nn.Module = self.net
        return net

    @property
    def blocks(self) -> list[nn.Module]:  # type: ignore[override]
        return [self.net]

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.net.reset_classifier(num_classes)

    def no_weight_decay(self) -> set[str]:
        # timm's transformers define the method, most convolutional nets do not.
        named: set[str] = getattr(self.net, "no_weight_decay", set)()
        return {f"net.{name}" for name in named} & {name for name, _ in self.named_parameters()}

    def parameters_by_depth(self) -> list[list[nn.Parameter]]:
        """Return all parameters as timm's layer decay groups them."""
        from timm.models import group_parameters

        depth_of = group_parameters(self.net, self.net.group_matcher(coarse=False), reverse=True)
        groups: list[list[nn.Parameter]] = [[] for _ in range(max(depth_of.values()) + 1)]
        for name, parameter in self.net.named_parameters():
            groups[depth_of[name]].append(parameter)
        return [group for group in groups if group]

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """The classifier, of which a few models have two."""
        heads = self.net.get_classifier()
        return heads if isinstance(heads, tuple) else (heads,)

    def head_parameters(self) -> list[nn.Parameter]:
        return [p for head in self.heads for p in head.parameters()]


def normalization_of(name: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return mean and standard deviation of the images that timm's weights of a name expect; None where not known."""
    import timm  # here, because it takes seconds to import

    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that this version does not know
        return None, None
    return (tuple(cfg.mean), tuple(cfg.std)) if cfg and cfg.mean and cfg.std else (None, None)
