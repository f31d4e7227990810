"""Hugging Face's Trainer: what the model costs on a phone stands in the log beside its accuracy.

`python examples/huggingface_loop.py` runs it; what is added to an own loop is marked.
"""

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from predictors.training import huggingface_callback  # + ridgeline

set_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
examples = [{"pixel_values": images[index], "labels": labels[index]} for index in torch.randperm(len(labels))]
config = ViTConfig(
    image_size=8, patch_size=2, num_channels=1, num_labels=10,
    hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, initializer_range=0.1,
)  # fmt: skip
trainer = Trainer(
    model=ViTForImageClassification(config),
    args=TrainingArguments(
        output_dir="runs",
        num_train_epochs=5,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=256,
        learning_rate=2e-3,
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=examples[:1300],
    eval_dataset=examples[1300:],
    compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
)
example_input = {"pixel_values": torch.zeros(1, 1, 8, 8)}  # + ridgeline
trainer.add_callback(huggingface_callback(trainer, "mobile_gpu", example_input))  # + ridgeline
trainer.train()
last = {key: value for row in trainer.state.log_history for key, value in row.items()}
print(f"accuracy: {last['eval_accuracy']:.3f}  latency: {last['mobile_gpu/latency_ms']:.3f} ms")
