"""How a network is trained: numbers and names, no tensors."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from search_spaces.loading import record_from_mapping

OPTIMISERS = ("adamw", "sgd")
PRECISIONS = ("float32", "bfloat16", "float16")
RULES = ("sandwich", "sampled")
ACCELERATORS = ("auto", "cpu", "cuda", "mps")
WITHOUT_EFFECT_ON_WEIGHTS = ("accelerator", "log_steps")
"""Fields that another machine may set otherwise and still go on with the same training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of a supernet's training in which some knobs are elastic and the others keep their largest value.

    Args:
        elastic: families of knobs, e.g. `kernel` for all whose name ends in `_kernel`; `expansion:2` lets only the two
            largest values of each vary. None: all knobs, all values.
        num_random: as in `Recipe`; None takes the recipe's.
        distilled: the largest network as the first phase left it is the teacher.

    Raises:
        ValueError: a number is out of its range.
    """

    num_steps: int
    learning_rate: float
    elastic: tuple[str, ...] | None = None
    num_random: int | None = None
    distilled: bool = False

    def __post_init__(self) -> None:
        _check_positive(self, ("num_steps", "learning_rate"), "training: phases")
        if self.num_random is not None and self.num_random < 0:
            raise ValueError(f"training: phases: num_random must not be negative, found {self.num_random}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a supernet, or one network, is trained: a linear warm-up, then a cosine down to 0, in each phase.

    Args:
        num_steps: batches; every pass over the training images has another order, and its last, incomplete batch is
            left out. With `phases`, theirs count and this is 0; so it is with `learning_rate`.
        batch_size: images of a step, over all processes and all micro-batches.
        optimiser: `adamw`, or `sgd` with Nesterov's momentum.
        momentum: of `sgd`.
        weight_decay: of weights; norms, biases and other vectors have none.
        warmup: fraction of a phase's steps in which the learning rate rises.
        clip_norm: gradients of a larger Euclidean norm are scaled down to it; 0 leaves them.
        label_smoothing: this part of a label's weight goes to all classes alike.
        ema: decay of the moving average of the weights, which then is the result; 0 is none.
        precision: of what is computed; weights stay float32. `float16` scales the loss and needs a GPU.
        accumulate: micro-batches of a batch. Gradients are those of the whole batch, but for batch normalizations,
            whose statistics are those of a micro-batch.
        rule: `sandwich` trains the largest subnet on the labels, the smallest and `num_random` random ones on the
            largest one's answers; `sampled` trains `num_random` random ones, at one image size, on the labels.
        num_random: random subnets of a step.
        phases: what is elastic when, for progressive shrinking; none is one phase with everything elastic.
        teacher: `package.module:callable` that returns the network to learn from, beside the labels.
        teacher_weights: a safetensors file of its weights.
        temperature: divides logits before they teach and learn.
        distillation: weight of the teacher's answers; labels have the rest of 1.
        synchronise_norms: batch statistics are those of all processes, not of each.
        accelerator: `auto` takes a GPU where there is one.
        log_steps: steps between two points of the curves in TensorBoard; 0 writes none.

    Raises:
        ValueError: a number is out of its range, a name unknown, or two fields contradict each other.
    """

    num_steps: int = 0
    batch_size: int
    learning_rate: float = 0.0
    optimiser: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.02
    warmup: float = 0.1
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    precision: str = "float32"
    accumulate: int = 1
    rule: str = "sandwich"
    num_random: int = 2
    phases: tuple[Phase, ...] = ()
    teacher: str | None = None
    teacher_weights: str | None = None
    temperature: float = 1.0
    distillation: float = 0.5
    synchronise_norms: bool = True
    accelerator: str = "auto"
    log_steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.phases:
            _check_positive(self, ("num_steps", "learning_rate"), "training")
        elif self.num_steps or self.learning_rate:
            raise ValueError(
                f"training: with phases, num_steps and learning_rate stand in each of them; found num_steps "
                f"{self.num_steps} and learning_rate {self.learning_rate} outside"
            )
        _check_positive(self, ("batch_size", "accumulate", "temperature"), "training")
        for name in ("weight_decay", "num_random", "clip_norm", "log_steps", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"training: {name} must not be negative, found {getattr(self, name)}")
        for name in ("warmup", "label_smoothing", "ema", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"training: {name} must be in 0 <= {name} < 1, found {getattr(self, name)}")
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"training: distillation must be in 0 <= distillation <= 1, found {self.distillation}")
        for name, allowed in (
            ("optimiser", OPTIMISERS), ("precision", PRECISIONS), ("rule", RULES), ("accelerator", ACCELERATORS),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"training: unknown {name} {getattr(self, name)!r}; there are {list(allowed)}")
        if self.accumulate > self.batch_size:
            raise ValueError(f"training: accumulate {self.accumulate} leaves nothing of batch_size {self.batch_size}")
        if self.teacher_weights is not None and self.teacher is None:
            raise ValueError("training: teacher_weights are given, but no teacher to load them into")
        if any(phase.distilled for phase in self.phases[:1]):
            raise ValueError("training: the first phase cannot be distilled from the network that it trains")
        if self.rule == "sampled":
            for phase in self.schedule:
                if phase.num_random == 0 or (phase.num_random is None and self.num_random == 0):
                    raise ValueError("training: rule 'sampled' trains only random subnets; num_random must be positive")
        if self.phases and not (self.phases[-1].elastic is None or self.phases[-1].elastic):
            raise ValueError("training: the last phase has nothing elastic, so that no subnet would be trained")

    @property
    def schedule(self) -> tuple[Phase, ...]:
        """The phases, at least one."""
        return self.phases or (Phase(num_steps=self.num_steps, learning_rate=self.learning_rate),)

    @property
    def total_steps(self) -> int:
        return sum(phase.num_steps for phase in self.schedule)

    def phase_at(self, step: int) -> tuple[int, int]:
        """The index of the phase that a step is in, and the steps before it in that phase."""
        for index, phase in enumerate(self.schedule):
            if step < phase.num_steps:
                return index, step
            step -= phase.num_steps
        raise IndexError(f"step {step} is beyond the last phase")

    @property
    def determining(self) -> dict[str, Any]:
        """The fields that determine the weights, JSON-able."""
        return {name: value for name, value in asdict(self).items() if name not in WITHOUT_EFFECT_ON_WEIGHTS}


def recipe_from_mapping(mapping: Mapping[str, Any]) -> Recipe:
    """The recipe that a plain mapping describes, e.g. the content of configs/training/default.yaml."""
    return record_from_mapping(Recipe, mapping, where="training")


# ------------------------------------------------------------------------------------------------------------ private


def _check_positive(record: object, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if not getattr(record, name) > 0:
            raise ValueError(f"{where}: {name} must be positive, found {getattr(record, name)}")
