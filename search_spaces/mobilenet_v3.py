"""The MobileNetV3 space of Once-for-All: elastic kernels, expansions and depths in stages of inverted residual blocks.

Structure: H. Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020,
https://arxiv.org/abs/1908.09791, and their code (`OFAMobileNetV3`, https://github.com/mit-han-lab/once-for-all).
"""

from dataclasses import dataclass
from functools import cached_property

from search_spaces.inverted_residuals import BlockSpec, Head, InvertedResidualSpace, Layout, StageSpec, Stem

ACTIVATIONS = ("relu", "hardswish")


@dataclass(frozen=True, kw_only=True)
class MobileNetV3Space(InvertedResidualSpace):
    """Elastic MobileNetV3. Knobs: `stage{i}_depth`, `stage{i}_block{j}_kernel`, `stage{i}_block{j}_expansion`, from 1;
    and `resolution`, if there is more than one.

    Args:
        kernels, expansions, depths: choices of every block and stage, increasing; kernels are odd.
        resolutions: heights and widths of the input images in pixels, increasing.
        stage_widths, stage_strides, stage_se, stage_activations: one entry for each stage, before `width_multiplier`.
        stem_width, head_width, feature_width: channels of the first convolution and of the last two.
        width_multiplier: scales all widths, which are then rounded to multiples of 8.
        deployed_resolution, batch: set by `deployed`.

    Raises:
        ValueError: a field is empty, out of order, not positive, or of a length that does not fit the others.
    """

    stage_se: tuple[bool, ...]
    stage_activations: tuple[str, ...]
    stem_activation: str = "hardswish"
    head_width: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_stages("stage_widths", "stage_se", "stage_activations")
        self._check_positive("head_width")
        for activation in (self.stem_activation, *self.stage_activations):
            if activation not in ACTIVATIONS:
                raise ValueError(
                    f"space {self.name!r}: unknown activation {activation!r}; there are {list(ACTIVATIONS)}"
                )

    @property
    def norm_epsilon(self) -> float:
        return 1e-5

    @cached_property
    def stage_specs(self) -> tuple[StageSpec, ...]:
        rows = zip(self.stage_widths, self.stage_strides, self.stage_se, self.stage_activations)
        return tuple(StageSpec(*row, self.depths) for row in rows)

    @cached_property
    def fixed_layers(self) -> Layout:
        stem = self.scaled(self.stem_width)
        return Layout(
            stem=Stem(stem, self.stem_stride, self.stem_activation),
            first_block=BlockSpec(stem, stem, stem, 3, 1, 0, "relu"),
            stages=(),
            head=Head(self.scaled(self.head_width), self.scaled(self.feature_width), "hardswish", self.num_classes),
        )
