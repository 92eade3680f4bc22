"""Windows of symbols: what a model reads of one, what it is to predict, and the loss of that.

Shapes: B samples, T context, V symbols.
"""

from torch import Tensor
from torch.nn import functional as F

from harness.tasks.types import Batch


def split_windows(windows_BT1: Tensor, every: bool) -> Batch:
    """Inputs and targets of windows of T + 1 symbols.

    Returns: symbols_BT and the symbols that follow, targets_BT where every position is predicted, else targets_B.
    """
    return windows_BT1[:, :-1], windows_BT1[:, 1:] if every else windows_BT1[:, -1]


def next_symbol_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats a symbol, the mean over samples and, where there are several, positions.

        loss = mean of log sum_v exp(z_v) - z_target

    Args:
        logits: logits_BTV for targets_BT, or logits_BV for targets_B.

    Raises: ValueError where the model predicts another number of positions than there are targets.
    """
    if logits.shape[:-1] != targets.shape:
        shapes = f"outputs of shape {tuple(logits.shape)} for targets of shape {tuple(targets.shape)}"
        one = "(samples, symbols) where it predicts the last position alone"
        raise ValueError(
            f"the model gives {shapes}: give {one}, or set task.every_position=true where it predicts every one"
        )
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())
