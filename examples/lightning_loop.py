"""Lightning: what the network costs on a phone and on a server's GPU is logged with each epoch's accuracy.

`python examples/lightning_loop.py` runs it; what is added to an own loop is marked.
"""

import lightning.pytorch as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

from predictors.training import lightning_callback  # + ridgeline


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


pl.seed_everything(0)
digits = load_digits()
images, labels = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
train, valid = random_split(TensorDataset(images, labels), [0.7, 0.3])
trainer = pl.Trainer(
    max_epochs=4,
    accelerator="cpu",
    callbacks=[lightning_callback(["mobile_gpu", "v100"], torch.zeros(1, 1, 8, 8))],  # + ridgeline
    logger=pl.loggers.CSVLogger("runs"),
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Digits(), DataLoader(train, 64, shuffle=True), DataLoader(valid, 256))
last = trainer.callback_metrics
print(f"accuracy: {last['accuracy']:.3f}  latency: {last['mobile_gpu/latency_ms']:.3f} ms")
