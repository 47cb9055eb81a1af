"""An exported aligner as something to train on from: its weights, out of the ONNX file.

The exporter has folded each batch normalisation into the convolution before it. Here the convolution keeps the folded
weights, and the normalisation undoes itself: its mean and deviation are measured, and given back as shift and scale.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import torch
from torch import Tensor, nn

from engines.export import stored_weights
from trainer.aligner.network import AlignNet, as_input
from unmask_rt.errors import ModelError

OWN = "net."
"""Beginning of the names of weights that are still their own: neither folded nor added up."""


def read_net(model: bytes) -> AlignNet:
    """The network of an exported aligner, in evaluation mode; to be trained on it needs `measure`.

    Raises:
        ModelError: it is no such model.
    """
    net = AlignNet()
    try:
        graph = onnx.load_from_string(model).graph
        stored = {name: torch.tensor(weight) for name, weight in stored_weights(graph).items()}
        folded = [[stored[edge] for edge in node.input[1:]] for node in graph.node
                  if node.op_type == "Conv" and not node.input[1].startswith(OWN)]  # fmt: skip
        state = net.state_dict()
        state |= {name.removeprefix(OWN): value for name, value in stored.items() if name.startswith(OWN)}
        for (conv, norm), (weight, bias) in zip(_normalised(net), folded, strict=True):
            state |= {f"{conv}.weight": weight, f"{norm}.bias": bias}
            state[f"{norm}.running_var"] = torch.full_like(bias, 1 - nn.BatchNorm2d(1).eps)
        net.load_state_dict(state)
    except Exception as error:  # protobuf has its own errors, by its implementation
        raise ModelError("this is no exported aligner", "Give one made by trainer.aligner.export.") from error
    return net.eval()


@torch.no_grad()
def measure(net: AlignNet, crops: Iterable[Tensor]) -> None:
    """Gives the normalisations of `read_net`'s network the statistics of some crops, uint8 (B, 128, 128, 3).

    What it computes in evaluation mode stays; trained on, it is normalised by batches as any.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    seen: dict[nn.BatchNorm2d, list[Tensor]] = {norm: [] for norm in norms}
    hooks = [
        norm.register_forward_pre_hook(lambda norm, given: seen[norm].append(_moments(given[0]))) for norm in norms
    ]
    for batch in crops:
        net(as_input(batch))
    for hook in hooks:
        hook.remove()
    for norm in norms:
        mean, square = torch.stack(seen[norm]).mean(0)
        variance = square - mean.square()
        assert norm.running_mean is not None and norm.running_var is not None
        norm.bias.add_(mean)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def _moments(x: Tensor) -> Tensor:
    """Mean and mean square of each channel of (B, C, H, W): (2, C)."""
    return torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])


def _normalised(net: AlignNet) -> list[tuple[str, str]]:
    """Names of the convolutions that a normalisation follows, and of these, in the order in which they are used."""
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d) and module.bias is None]
    norms = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return list(zip(names, norms, strict=True))
