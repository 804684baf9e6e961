"""What all forms of the step have in common."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """`max_norm` is None where gradients are not clipped."""

    size: str
    rank: int
    ranks: int
    max_norm: float | None
    learning_rate: float = 1e-3
    betas: tuple = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1

    def adamw(self):
        """For torch.optim.AdamW. On a CPU its fused loop takes a quarter of the time of foreach, or of the plain one."""
        return dict(lr=self.learning_rate, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True)
