"""TensorBoard: what a network costs is drawn beside its accuracy, also while it is pruned.

`python examples/tensorboard_loop.py` runs it, `tensorboard --logdir runs` draws it; what is added to an own
loop is marked.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter

from predictors.training import log_costs  # + ridgeline


def keep_widest(net: nn.Sequential, num: int) -> None:
    """Cut the hidden layer to its units of largest weights."""
    first, last = net[1], net[3]
    kept = first.weight.norm(dim=1).topk(num).indices
    net[1], net[3] = nn.Linear(64, num), nn.Linear(num, 10)
    net[1].load_state_dict({"weight": first.weight[kept], "bias": first.bias[kept]})
    net[3].load_state_dict({"weight": last.weight[:, kept], "bias": last.bias})


torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
order = torch.randperm(len(labels))
train, valid = order[:1300], order[1300:]

net = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
writer = SummaryWriter("runs/tensorboard")
for epoch in range(8):
    if epoch in (4, 6):
        keep_widest(net, num=net[1].out_features // 4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for batch in train[torch.randperm(len(train))].split(64):
        optimizer.zero_grad()
        cross_entropy(net(images[batch]), labels[batch]).backward()
        optimizer.step()
    with torch.inference_mode():
        accuracy = (net(images[valid]).argmax(1) == labels[valid]).float().mean().item()
    writer.add_scalar("accuracy", accuracy, epoch)
    costs = log_costs(writer, net, torch.zeros(1, 1, 8, 8), ["mobile_gpu", "v100"], epoch)  # + ridgeline
writer.close()
print(f"accuracy: {accuracy:.3f}  traffic: {1e3 * costs['mobile_gpu/traffic_mb']:.1f} kB")
