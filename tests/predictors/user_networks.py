"""Networks as their users write them: plain torch, with the habits that tracers trip over."""

from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """A module whose forward is a function of itself and its inputs."""

    def __init__(self, forward: Any, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._forward = forward

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self._forward(self, *inputs, **named)


def conv(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, bias=False),
        nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True),
    )  # fmt: skip


class Backbone(nn.Module):
    """Features at strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 2), conv(8, 16, 2))
        self.stages = nn.ModuleList([conv(16, 24, 2), conv(24, 32, 2), conv(32, 48, 2)])

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


# ---------------------------------------------------------------------------------------------------------- detection


class FeaturePyramid(nn.Module):
    def __init__(self, channels: tuple[int, ...] = (24, 32, 48), width: int = 32) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(each, width, 1) for each in channels])
        self.smooth = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in channels])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [lateral(each) for lateral, each in zip(self.lateral, features)]
        for index in range(len(levels) - 1, 0, -1):
            larger = levels[index - 1]
            levels[index - 1] = larger + functional.interpolate(levels[index], size=larger.shape[-2:], mode="nearest")
        return [smooth(each) for smooth, each in zip(self.smooth, levels)]


class Detections(NamedTuple):
    boxes: Tensor
    scores: Tensor
    labels: Tensor


class RetinaNet(nn.Module):
    """One head for all levels, anchors of the features' sizes, boxes decoded, the best of each image picked."""

    def __init__(self, num_classes: int = 5, num_anchors: int = 3, width: int = 32) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone, self.neck = Backbone(), FeaturePyramid(width=width)
        self.classes = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_anchors * num_classes, 3, padding=1)
        )
        self.boxes = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_anchors * 4, 3, padding=1)
        )
        self.register_buffer("sizes", torch.tensor([[32.0, 32.0], [45.0, 22.0], [22.0, 45.0]]))

    def anchors(self, features: list[Tensor], image: Tensor) -> Tensor:
        found = []
        for each in features:
            height, width = each.shape[-2:]
            stride = image.shape[-1] // width
            ys = torch.arange(height, device=each.device, dtype=each.dtype) * stride + stride / 2
            xs = torch.arange(width, device=each.device, dtype=each.dtype) * stride + stride / 2
            y, x = torch.meshgrid(ys, xs, indexing="ij")
            centres = torch.stack((x, y), dim=-1).reshape(-1, 1, 2)
            sizes = self.sizes[None] * (stride / 8)
            found.append(torch.cat(torch.broadcast_tensors(centres, sizes), dim=-1).reshape(-1, 4))
        return torch.cat(found)

    def forward(self, x: Tensor) -> Detections:
        features = self.neck(self.backbone(x))
        scores, deltas = [], []
        for each in features:
            scores.append(self.classes(each).permute(0, 2, 3, 1).reshape(len(x), -1, self.num_classes))
            deltas.append(self.boxes(each).permute(0, 2, 3, 1).reshape(len(x), -1, 4))
        score, delta, anchors = torch.cat(scores, 1).sigmoid(), torch.cat(deltas, 1), self.anchors(features, x)
        centres = anchors[:, :2] + delta[..., :2] * anchors[:, 2:]
        sizes = anchors[:, 2:] * delta[..., 2:].clamp(max=4.0).exp()
        boxes = torch.cat((centres - sizes / 2, centres + sizes / 2), -1).clamp(0, x.shape[-1])
        best, labels = score.max(dim=-1)
        best, places = best.topk(min(10, best.shape[1]), dim=1)
        return Detections(boxes.gather(1, places.unsqueeze(-1).expand(-1, -1, 4)), best, labels.gather(1, places))


class SSD(nn.Module):
    """Heads of their own at each level, softmax over the classes, a dictionary of lists."""

    def __init__(self, num_classes: int = 5, num_anchors: int = 4) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = Backbone()
        self.heads = nn.ModuleList([nn.Conv2d(each, num_anchors * (num_classes + 4), 3, 1, 1) for each in (24, 32, 48)])

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {"scores": [], "boxes": []}
        for head, each in zip(self.heads, self.backbone(x)):
            y = head(each)
            y = y.view(y.size(0), -1, self.num_classes + 4, y.size(2), y.size(3)).permute(0, 3, 4, 1, 2)
            y = y.reshape(y.size(0), -1, self.num_classes + 4)
            scores, boxes = y.split((self.num_classes, 4), dim=-1)
            found["scores"].append(functional.softmax(scores, dim=-1))
            found["boxes"].append(boxes)
        return found


class Yolo(nn.Module):
    """A grid kept from one call to the next, and predictions decoded in place."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.outputs = num_classes + 5
        self.backbone = Backbone()
        self.heads = nn.ModuleList([nn.Conv2d(each, 3 * self.outputs, 1) for each in (24, 32, 48)])
        self.strides = torch.tensor([8.0, 16.0, 32.0])
        self.grids: list[Tensor] = [torch.empty(0)] * 3
        self.register_buffer("anchors", torch.ones(3, 1, 3, 1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for index, (head, each) in enumerate(zip(self.heads, self.backbone(x))):
            y = head(each)
            batch, _, height, width = y.shape
            y = y.view(batch, 3, self.outputs, height, width).permute(0, 1, 3, 4, 2).contiguous()
            if self.grids[index].shape[2:4] != y.shape[2:4] or self.grids[index].device != y.device:
                ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
                self.grids[index] = torch.stack((xs, ys), 2).view(1, 1, height, width, 2).to(y.device)
            y = y.sigmoid()
            y[..., 0:2] = (y[..., 0:2] * 2.0 - 0.5 + self.grids[index]) * float(self.strides[index])
            y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * self.anchors[index]
            found.append(y.view(batch, -1, self.outputs))
        return torch.cat(found, 1)


class Suppressed(nn.Module):
    """A detector's boxes without those that overlap better ones: which these are only data can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = RetinaNet()

    def forward(self, x: Tensor) -> Tensor:
        boxes, scores, _ = self.detector(x)
        keep = scores[0] > 0.0
        return boxes[0][keep]


# ------------------------------------------------------------------------------------------------------- segmentation


class DeepLab(nn.Module):
    """Dilated branches and pooled ones, resized to the input with corners aligned or not."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.branches = nn.ModuleList([conv(48, 16, dilation=rate) for rate in (1, 2, 3)])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(48, 16, 1), nn.ReLU())
        self.project, self.classifier = conv(64, 32), nn.Conv2d(32, num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)[-1]
        pooled = functional.interpolate(self.pooled(features), features.shape[-2:], mode="bilinear")
        y = torch.cat([*(branch(features) for branch in self.branches), pooled], dim=1)
        y = self.classifier(self.project(y))
        return {"out": functional.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)}


class UNet(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (8, 16, 24)) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv(before, width) for before, width in zip((3, *widths), widths)])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(large, small, 2, 2) for large, small in zip(widths[:0:-1], widths[-2::-1])]
        )
        self.merge = nn.ModuleList([conv(2 * width, width) for width in widths[-2::-1]])
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skipped = []
        for index, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if index else x)
            skipped.append(x)
        for up, merge, skip in zip(self.up, self.merge, skipped[-2::-1]):
            x = up(x)
            height, width = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
            x = functional.pad(x, [width // 2, width - width // 2, height // 2, height - height // 2])
            x = merge(torch.cat([skip, x], dim=1))
        return self.head(x).argmax(1)


# ----------------------------------------------------------------------------------------------------------- language


class Tagger(nn.Module):
    """Recurrent layers over embedded words; the last state of both directions decides."""

    def __init__(self, layer: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 12)
        self.layers = layer(12, 16, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1)
        self.head = nn.Linear(32, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        y, state = self.layers(self.embedding(tokens))
        hidden = state[0] if isinstance(state, tuple) else state
        return self.head(y) + self.head(torch.cat((hidden[-2], hidden[-1]), dim=-1)).unsqueeze(1)


@dataclass
class Step:
    """What a decoder gives: scores, and the keys and values that the next step needs."""

    logits: Tensor
    cache: list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch, length, width = x.shape
        query, key, value = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        query, key, value = (
            each.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for each in (query, key, value)
        )
        if before is not None:
            key, value = torch.cat((before[0], key), dim=2), torch.cat((before[1], value), dim=2)
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=before is None)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x)), (key, value)


class GPT(nn.Module):
    """A decoder with tied embeddings; with the keys and values of the words before, it takes one word more."""

    def __init__(self, width: int = 32, heads: int = 4, num_layers: int = 2, num_words: int = 50) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(num_words, width), nn.Embedding(16, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(num_layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor, cache: list[tuple[Tensor, Tensor]] | None = None) -> Step:
        begin = cache[0][0].shape[2] if cache else 0
        places = torch.arange(begin, begin + tokens.shape[1], device=tokens.device)
        x = self.words(tokens) + self.places(places)
        kept = []
        for block, before in zip(self.blocks, cache or [None] * len(self.blocks)):
            x, now = block(x, before)
            kept.append(now)
        return Step(self.head(self.norm(x)), kept)


class SpelledOut(nn.Module):
    """Attention in its parts, with a causal mask kept as a buffer and sines computed once."""

    def __init__(self, width: int = 16, heads: int = 2, longest: int = 12) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.register_buffer("mask", torch.tril(torch.ones(longest, longest, dtype=torch.bool)), persistent=False)
        self.angles = nn.Buffer(torch.outer(torch.arange(longest), torch.arange(width // heads // 2) + 1.0))

    def rotated(self, x: Tensor) -> Tensor:
        angles = self.angles[: x.shape[2]]
        even, odd = x[..., ::2], x[..., 1::2]
        turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
        return torch.stack(turned, dim=-1).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = torch.einsum("bhqd,bhkd->bhqk", self.rotated(query), self.rotated(key)) / sqrt(query.shape[-1])
        scores = scores.masked_fill(~self.mask[:length, :length], float("-inf"))
        return torch.einsum("bhqk,bhkd->bqhd", scores.softmax(-1), value).reshape(batch, length, width)


class Translator(nn.Module):
    """torch's own decoder, with a mask made on the fly that it looks into."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(width, 2, 32, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)

    def forward(self, target: Tensor, memory: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], device=target.device)
        return self.decoder(target, memory, tgt_mask=mask)
