"""Vision transformers as a torch module, made of plain torch.nn layers so that every tracer and exporter reads it."""

from collections import OrderedDict

import torch
from torch import nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from search_spaces.vit import BlockSpec, EmbeddingSpec, Layout

EPSILON = 1e-6
"""Of layer norms, as in the original vision transformer and DeiT."""


class ViT(nn.Module):
    """One arch with fresh weights: images (batch, in_channels, height, width) to logits (batch, num_classes)."""

    def __init__(self, layout: Layout, in_channels: int) -> None:
        super().__init__()
        dim = layout.embedding.dim
        self.embedding = PatchEmbedding(layout.embedding, in_channels)
        self.blocks = nn.Sequential(*(Block(dim, spec) for spec in layout.blocks))
        self.norm = nn.LayerNorm(dim, eps=EPSILON)
        self.pool = FirstToken() if layout.head.pooling == "token" else MeanOfTokens()
        self.classifier = nn.Linear(dim, layout.head.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BLE = self.norm(self.blocks(self.embedding(x_BCHW)))
        logits_BK: torch.Tensor = self.classifier(self.pool(x_BLE))
        return logits_BK


class PatchEmbedding(nn.Module):
    """Patches as vectors, the class token before them where there is one, and learned positions added."""

    def __init__(self, spec: EmbeddingSpec, in_channels: int) -> None:
        super().__init__()
        self.grid = spec.grid
        self.patches = nn.Conv2d(in_channels, spec.dim, spec.patch, spec.patch)
        self.token = nn.Parameter(torch.empty(1, 1, spec.dim)) if spec.has_token else None
        self.positions = nn.Parameter(torch.empty(1, spec.num_positions, spec.dim))
        for parameter in (self.token, self.positions):
            if parameter is not None:
                nn.init.normal_(parameter, std=spec.position_std)

    def no_weight_decay(self) -> set[str]:
        """Parameters that training leaves undecayed, as DeiT and AutoFormer do."""
        return {"token", "positions"}

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BEHW: torch.Tensor = self.patches(x_BCHW)
        height, width = x_BEHW.shape[2:]
        x_BLE = x_BEHW.flatten(2).transpose(1, 2)
        if self.token is not None:
            x_BLE = torch.cat([self.token.expand(x_BLE.shape[0], -1, -1), x_BLE], dim=1)
        else:  # else all sums would keep the memory layout of images, and all norms copy
            x_BLE = x_BLE.contiguous()
        positions_1LE: torch.Tensor = self.positions
        if (height, width) != (self.grid, self.grid):
            positions_1LE = interpolated(positions_1LE, self.grid, height, width)
        return x_BLE + positions_1LE


class Block(nn.Module):
    """Attention, then an MLP, each on normalized tokens and added to what came in."""

    def __init__(self, dim: int, spec: BlockSpec) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, eps=EPSILON)
        self.attention = SelfAttention(dim, spec.heads, spec.head_dim)
        self.mlp_norm = nn.LayerNorm(dim, eps=EPSILON)
        self.mlp = nn.Sequential(
            OrderedDict(expand=nn.Linear(dim, spec.hidden), act=nn.GELU(), project=nn.Linear(spec.hidden, dim))
        )

    def forward(self, x_BLE: torch.Tensor) -> torch.Tensor:
        x_BLE = x_BLE + self.attention(self.attention_norm(x_BLE))
        out_BLE: torch.Tensor = x_BLE + self.mlp(self.mlp_norm(x_BLE))
        return out_BLE


class SelfAttention(nn.Module):
    """Heads whose width does not depend on the embedding's.

    One layer makes queries, keys and values, as one kernel. Its rows are ordered by head, each head's `head_dim`
    queries, keys and values together, so that the leading rows of a larger layer are those of its first heads.
    """

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.qkv = nn.Linear(dim, heads * 3 * head_dim)
        self.project = nn.Linear(heads * head_dim, dim)

    def forward(self, x_BLE: torch.Tensor) -> torch.Tensor:
        qkv_BNLD = self.qkv(x_BLE).unflatten(2, (self.heads, 3 * self.head_dim)).transpose(1, 2)
        query_BNLD, key_BNLD, value_BNLD = qkv_BNLD.chunk(3, dim=-1)
        found_BNLD = scaled_dot_product_attention(query_BNLD, key_BNLD, value_BNLD)
        out_BLE: torch.Tensor = self.project(found_BNLD.transpose(1, 2).flatten(2))
        return out_BLE


class MeanOfTokens(nn.Module):
    """(batch, tokens, dim) to (batch, dim)."""

    def forward(self, x_BLE: torch.Tensor) -> torch.Tensor:
        return x_BLE.mean(dim=1)


class FirstToken(nn.Module):
    """(batch, tokens, dim) to (batch, dim)."""

    def forward(self, x_BLE: torch.Tensor) -> torch.Tensor:
        return x_BLE[:, 0]


def interpolated(positions_1LE: torch.Tensor, grid: int, height: int, width: int) -> torch.Tensor:
    """Learned positions of `grid` x `grid` patches, as bicubic interpolation gives them for `height` x `width` patches.

    What comes before the patches, the position of a class token, stays as it is. Source: H. Touvron et al., DeiT,
    https://arxiv.org/abs/2012.12877, section 3, "Fine-tuning DeiT at larger resolution".

    Args:
        positions_1LE: of shape (1, num_tokens + grid * grid, dim).
    """
    num_tokens = positions_1LE.shape[1] - grid**2
    patches_1EHW = positions_1LE[:, num_tokens:].transpose(1, 2).reshape(1, -1, grid, grid)
    patches_1EHW = interpolate(patches_1EHW, size=(height, width), mode="bicubic", align_corners=False)
    return torch.cat([positions_1LE[:, :num_tokens], patches_1EHW.flatten(2).transpose(1, 2)], dim=1)
