"""The supernet of a user's own network: subnets need not be leading slices, e.g. behind a concatenation."""

from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.channel_cutting import is_leading, part
from search_spaces.supernet import Supernet


class ElasticSupernet(Supernet):
    """Slices by the places that a module built by `ElasticSpace` keeps."""

    def __init__(self, space: Any) -> None:
        super().__init__(space)
        self._scattered: list[tuple[Tensor, dict[int, Any], Tensor]] = []

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self._scattered = []
        logits_BK = super().forward(x_BCHW)
        if self.training:
            with torch.no_grad():
                for shared, places, statistics in self._scattered:
                    (axis, kept), *_ = places.items()
                    shared.index_copy_(axis, torch.from_numpy(kept).to(shared.device), statistics)
        self._scattered = []
        return logits_BK

    def slices(self, subnet: nn.Module) -> dict[str, Tensor]:
        """For each parameter and buffer of a module of the space, the part of the shared tensor that belongs to it."""
        places = subnet.kept_places
        assert isinstance(places, dict)
        found = {}
        for name, _ in subnet.named_parameters():
            found[name] = part(self.network.get_parameter(name), places.get(name, {}))
        for name, _ in subnet.named_buffers():
            shared = self.network.get_buffer(name)
            found[name] = part(shared, places.get(name, {}))
            if not is_leading(places.get(name, {})):
                self._scattered.append((shared, places[name], found[name]))
        return found
