"""The ProxylessNAS space of Once-for-All: MobileNetV2's blocks with elastic kernels, expansions and depths.

Structure: H. Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020,
https://arxiv.org/abs/1908.09791, and their code (`OFAProxylessNASNets`, https://github.com/mit-han-lab/once-for-all).
"""

from dataclasses import dataclass
from functools import cached_property

from search_spaces.inverted_residuals import BlockSpec, Head, InvertedResidualSpace, Layout, StageSpec, Stem

ACTIVATION = "relu6"


@dataclass(frozen=True, kw_only=True)
class ProxylessSpace(InvertedResidualSpace):
    """Elastic ProxylessNAS networks. Knobs: `stage{i}_depth`, `stage{i}_block{j}_kernel`,
    `stage{i}_block{j}_expansion`, from 1; and `resolution`, if there is more than one. Behind the stages comes one more
    of a single block, which has a kernel and an expansion and no depth.

    Args:
        kernels, expansions, depths: choices of every block and stage, increasing; kernels are odd.
        resolutions: heights and widths of the input images in pixels, increasing.
        stage_widths, stage_strides: one entry for each stage with a depth, before `width_multiplier`.
        stem_width, first_block_width, last_stage_width, feature_width: channels of the first convolution, the block
            behind it, the single block behind the stages, and the last convolution.
        width_multiplier: scales all widths, which are then rounded to multiples of 8.
        deployed_resolution, batch: set by `deployed`.

    Raises:
        ValueError: a field is empty, out of order, not positive, or of a length that does not fit the others.
    """

    first_block_width: int
    last_stage_width: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("first_block_width", "last_stage_width")

    @property
    def norm_epsilon(self) -> float:
        return 1e-3

    @cached_property
    def stage_specs(self) -> tuple[StageSpec, ...]:
        stages = (
            StageSpec(width, stride, False, ACTIVATION, self.depths)
            for width, stride in zip(self.stage_widths, self.stage_strides)
        )
        return (*stages, StageSpec(self.last_stage_width, 1, False, ACTIVATION, (1,)))

    @cached_property
    def fixed_layers(self) -> Layout:
        stem = self.scaled(self.stem_width)
        return Layout(
            stem=Stem(stem, self.stem_stride, ACTIVATION),
            first_block=BlockSpec(stem, stem, self.scaled(self.first_block_width), 3, 1, 0, ACTIVATION),
            stages=(),
            head=Head(self.scaled(self.feature_width), 0, ACTIVATION, self.num_classes),
        )
