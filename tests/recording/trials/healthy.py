"""Sound trainings, of which nothing may be said."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.recording.trials.nets import FIRST, NETS
from tests.recording.trials.training import Trial


def constant(done: float) -> float:
    return 1.0


def cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2


def one_cycle(done: float) -> float:
    if done < 0.3:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / 0.3)) / 2
    return (1 + math.cos(math.pi * (done - 0.3) / 0.7)) / 2


def warm_up(done: float) -> float:
    """Linear for a tenth, then steps down."""
    return done / 0.1 if done < 0.1 else 0.1 ** (int(done > 0.6) + int(done > 0.85))


def restarts(done: float) -> float:
    return (1 + math.cos(math.pi * (done * 3 % 1))) / 2


def growing_restarts(done: float) -> float:
    """SGDR with T_mult = 2: cycles of 1/7, 2/7 and 4/7."""
    start, length = (
        (0.0, 1 / 7) if done < 1 / 7 else (1 / 7, 2 / 7) if done < 3 / 7 else (3 / 7, 4 / 7)
    )
    return (1 + math.cos(math.pi * (done - start) / length)) / 2


def cyclic(done: float) -> float:
    """Triangles, as CyclicLR makes them."""
    return 0.1 + 0.9 * (1 - abs(2 * (done * 4 % 1) - 1))


SCHEDULES = (constant, cosine, one_cycle, warm_up, restarts, growing_restarts, cyclic)

#: Learning rates that people use for each.
RATES = {"SGD": 0.05, "Nesterov": 0.1, "Adam": 2e-3, "AdamW": 1e-3, "RMSprop": 1e-3}


def scheduled() -> dict[str, Trial]:
    """Networks x schedules; the rest in turn."""
    found = {}
    batches, everies, names = (32, 128, 16), (20, 5, 50, 1), list(RATES)
    for number, (net, schedule) in enumerate((n, s) for n in FIRST for s in SCHEDULES):
        optimizer = names[number % len(names)]
        trial = Trial(
            net, optimizer, RATES[optimizer], batches[number % 3], everies[number % 4],
            schedule=schedule, seed=number,
        )  # fmt: skip
        found[f"{schedule.__name__} {net} {optimizer} b{trial.batch} every {trial.every}"] = trial
    return found


class Finetuned(Trial):
    """Trained for 200 steps on half of the classes before the recorder comes."""

    frozen = False
    evaluated = False

    def begin(self) -> None:
        super().begin()
        self.model.train()
        for step in range(1, 201):
            self.update(step)
        head: Any = [m for m in self.model.modules() if isinstance(m, nn.Linear)][-1]
        head.reset_parameters()
        if self.frozen:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_("head" in name or parameter is head.weight
                                         or parameter is head.bias)  # fmt: skip
        self.lr /= 5
        self.optimizer = self.made_optimizer()
        self.act = lambda trial, step, x: self.hold()

    def hold(self) -> None:
        if self.evaluated:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()


class Frozen(Finetuned):
    frozen = evaluated = True


class Averaged(Trial):
    """An average with its own buffers, and one that averages the buffers, as series."""

    def begin(self) -> None:
        super().begin()
        follow = get_ema_multi_avg_fn(0.95)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.model, multi_avg_fn=follow, use_buffers=True)
        self.also = lambda model: {"ema": self.average}

    def update(self, step: int) -> Tensor:
        loss = super().update(step)
        self.average.update_parameters(self.model)
        return loss


class Gan(Trial):
    """DCGAN in small: the generator's norms and the discriminator's, on real and fake images."""

    def begin(self) -> None:
        torch.manual_seed(self.seed)
        self.model = nn.Sequential(
            nn.Linear(16, 128), nn.Unflatten(1, (32, 2, 2)), nn.BatchNorm2d(32), nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 2, 2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 2, 2), nn.Tanh(),
        )  # fmt: skip
        self.other = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(128, 1),
        )  # fmt: skip
        self.images = torch.Generator().manual_seed(self.seed)
        self.optimizer = torch.optim.Adam(self.model.parameters(), self.lr, (0.5, 0.999))
        self.theirs = torch.optim.Adam(self.other.parameters(), self.lr, (0.5, 0.999))
        self.also = lambda model: {"D": self.other}

    def update(self, step: int) -> Tensor:
        from tests.recording.trials.training import digits

        pixels, _ = digits()
        real = pixels[torch.randint(len(pixels), (self.batch,), generator=self.images)]
        fake = self.model(torch.randn(self.batch, 16, generator=self.images))
        loss = nn.functional.softplus(-self.other(real)).mean()
        loss = loss + nn.functional.softplus(self.other(fake.detach())).mean()
        self.theirs.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.theirs.step()
        own = nn.functional.softplus(-self.other(fake)).mean()
        self.optimizer.zero_grad()
        own.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return own


class Cumulative(Trial):
    """momentum=None."""

    def begin(self) -> None:
        super().begin()
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None


class Evaluated(Trial):
    """Validates in eval() every 25 steps, on quite other images."""

    def update(self, step: int) -> Tensor:
        if step % 25 == 0:
            self.model.eval()
            with torch.no_grad():
                self.model(torch.randn(16, 1, 8, 8) * 5)
            self.model.train()
        return super().update(step)


class Resumed(Trial):
    """Saved at step 170, killed at 200, loaded into a new model, optimizer and recorder."""

    def update(self, step: int) -> Tensor:
        if step == 171:
            self.memory["saved"] = copy.deepcopy(
                (self.model.state_dict(), self.optimizer.state_dict())
            )
        if step == 201:
            weights, moments = self.memory["saved"]
            self.model = NETS[self.net]()
            self.model.load_state_dict(weights)
            self.optimizer = self.made_optimizer()
            self.optimizer.load_state_dict(moments)
            self.recording = self.recorder(self.folder)
        return super().update(step)


def others() -> dict[str, Trial]:
    return {
        "fine-tuning ResNet": Finetuned("ResNet", "SGD", 0.05, every=10),
        "fine-tuning U-Net": Finetuned("U-Net", "AdamW", 2e-3, every=20),
        "frozen in eval() conv": Frozen("conv", "Adam", 5e-3, every=10),
        "frozen in eval() separable": Frozen("separable", "SGD", 0.05, every=25),
        "accumulated 4 x 16 ResNet": Trial("ResNet", "SGD", 0.1, 16, 10, 200, accumulate=4),
        "accumulated 8 x 8 MLP": Trial("MLP", "Adam", 3e-3, 8, 20, 200, accumulate=8),
        "GAN": Gan("", "Adam", 1e-3, every=20, steps=500),
        "GAN slow": Gan("", "Adam", 2e-4, 32, every=50, steps=500, seed=1),
        "EMA conv": Averaged("conv", "SGD", 0.05, every=20),
        "EMA pre-activation": Averaged("pre-activation", "AdamW", 2e-3, every=5, seed=3),
        "cumulative conv": Cumulative("conv", "SGD", 0.02, every=20),
        "validating conv": Evaluated("conv", "Adam", 2e-3, every=25),
        "tiny batches conv": Trial("conv", "SGD", 0.01, 4, 20),
        "tiny batches MLP": Trial("MLP", "Adam", 1e-3, 4, 10, 600),
        "high rate ResNet": Trial("ResNet", "SGD", 0.5, 64, 20, schedule=cosine),
        "high rate MLP": Trial("MLP", "Adam", 0.02, 64, 10, schedule=one_cycle),
        "rate not told, warm-up": Trial("conv", "SGD", 0.1, schedule=warm_up, tell_rate=False),
        "rate not told, one cycle": Trial("ResNet", "Adam", 5e-3, schedule=one_cycle,
                                          tell_rate=False),
        "resumed conv": Resumed("conv", "SGD", 0.05, every=20),
        "resumed GRU": Resumed("GRU", "Adam", 2e-3, every=10),
        "one class at a time never": Trial("GRU", "RMSprop", 3e-3, 16, 5),
    }  # fmt: skip


def healthy() -> dict[str, Trial]:
    return {**scheduled(), **others()}
