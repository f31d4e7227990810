"""A loop with timm's parts, as in its train.py: costs are columns of summary.csv.

`python examples/timm_loop.py` runs it; what is added to an own loop is marked.
"""

from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from timm.utils import AverageMeter, accuracy, get_outdir, update_summary

from predictors.training import predicted_costs  # + ridgeline

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32).repeat_interleave(4, 2).repeat_interleave(4, 3)
labels = torch.tensor(digits.target)
order = torch.randperm(len(labels))
train, valid = order[:1300], order[1300:]

model = timm.create_model("test_resnet", in_chans=1, num_classes=10)
task = ClassificationTask(model, verbose=False)
optimizer = create_optimizer_v2(model, opt="adamw", lr=3e-3)
folder = Path(get_outdir("runs", "timm"))
for epoch in range(3):
    model.train()
    losses = AverageMeter()
    for batch in train[torch.randperm(len(train))].split(64):
        optimizer.zero_grad()
        loss = task(images[batch], labels[batch])["loss"]
        loss.backward()
        optimizer.step()
        losses.update(loss.item(), len(batch))
    model.eval()
    with torch.inference_mode():
        [top1] = accuracy(model(images[valid]), labels[valid])
    train_metrics, eval_metrics = {"loss": losses.avg}, {"top1": top1.item()}
    eval_metrics |= predicted_costs(model, torch.zeros(1, 1, 32, 32), ["mobile_gpu", "v100"])  # + ridgeline
    update_summary(epoch, train_metrics, eval_metrics, folder / "summary.csv")
print(f"accuracy: {eval_metrics['top1'] / 100:.3f}  latency: {eval_metrics['mobile_gpu/latency_ms']:.3f} ms")
