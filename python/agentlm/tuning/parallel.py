"""The ranks of a run: who shares matrices out, who has packs of its own, and how a model is laid over them.

FSDP2 and DTensor, straight from torch. Refuses to know data, optimizers and files.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement

from agentlm.errors import ConfigError
from agentlm.model.config import ModelConfig
from agentlm.tuning.model import TrainableDecoder


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the others of the run."""

    rank: int
    world: int
    device: torch.device
    tensor: int
    """Ranks that share each matrix out."""
    mesh: DeviceMesh | None
    """`["data", "tensor"]`; None for one process that computes in float32."""
    owned: bool
    """Whether the ranks met for this run, and part when it ends."""

    @classmethod
    def join(cls, device: torch.device, tensor: int, *, sharded: bool, rank: int = 0, world: int = 1) -> Self:
        """Meets the other ranks, if there are any; `sharded` lays the model out for FSDP even if there are none.

        Raises `ConfigError` if the ranks cannot be divided.
        """
        if world % tensor:
            raise ConfigError(
                f"`parallel.tensor` = {tensor} does not divide the {world} processes of this run: start a multiple of it "
                f"with torchrun --nproc-per-node"
            )
        mesh = None
        owned = (world > 1 or sharded) and not dist.is_initialized()
        if world > 1 or sharded:
            if owned:
                if world > 1:
                    dist.init_process_group()
                else:
                    dist.init_process_group(store=HashStore(), rank=0, world_size=1)
            mesh = init_device_mesh(device.type, (world // tensor, tensor), mesh_dim_names=("data", "tensor"))
        return cls(rank, world, device, tensor, mesh, owned)

    @property
    def data(self) -> int:
        """Ranks, or groups of them, that have packs of their own."""
        return self.world // self.tensor

    @property
    def data_rank(self) -> int:
        """Which of those this process belongs to."""
        return self.rank // self.tensor

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns once every rank has come here."""
        if self.world > 1:
            dist.barrier()

    def sum_over_data(self, values: Tensor) -> Tensor:
        """The sum over the data ranks; ranks that share matrices hold equal values."""
        if self.mesh is not None and self.data > 1:
            dist.all_reduce(values, group=self.mesh["data"].get_group())
        return values

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        if self.world == 1:
            return flag
        told = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return bool(told.item())

    def busy(self) -> None:
        """Tells ranks in `wait_for_first` that the first one still works alone: often enough, or they take it for dead."""
        self.any(True)

    def done(self) -> None:
        """Lets them go on."""
        self.any(False)

    def wait_for_first(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """What the others do until the first says `done`; after each `busy` it and they call the same `meanwhile`."""
        while self.any(False):
            meanwhile()

    def leave(self) -> None:
        """Ends the meeting."""
        if self.owned:
            dist.destroy_process_group()


def launched() -> tuple[int, int, int]:
    """Rank, world size and local rank as torchrun says them; one process without it."""
    return tuple(int(os.environ.get(name, default)) for name, default in _TORCHRUN)  # type: ignore[return-value]


_TORCHRUN = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))


def check_shares(config: ModelConfig, tensor: int) -> None:
    """Raises `ConfigError` if the model's parts cannot be shared out evenly."""
    for name, size in (
        ("key and value heads", config.kv_heads),
        ("heads", config.heads),
        ("feed-forward width", config.inter),
        ("vocabulary", config.vocab),
    ):
        if size % tensor:
            raise ConfigError(f"`parallel.tensor` = {tensor} does not divide the model's {name} ({size})")


def lay_out(model: TrainableDecoder, ranks: Ranks, dtype: torch.dtype) -> None:
    """Shares the parameters out among the ranks. They are float32; `dtype` is what is computed in.

    Whole layers are gathered while they compute; what they compute with is this rank's share of the tensors.
    """
    if ranks.mesh is None:
        return
    if ranks.tensor > 1:
        check_shares(model.config, ranks.tensor)
        mesh = ranks.mesh["tensor"]
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                placement = _placement(model, module, name)
                shared = distribute_tensor(parameter.data, mesh, [placement], src_data_rank=None)
                setattr(module, name, nn.Parameter(shared, requires_grad=parameter.requires_grad))
        model.bind(mesh.get_group())
    if ranks.data == 1 and dtype == torch.float32:
        return
    # Norms and rotations ask for float32 themselves where they need it.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for part in (*model.layers, model):
        fully_shard(part, mesh=ranks.mesh["data"], mp_policy=policy)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            # The loss is already divided by all ranks' trained tokens: gradients are added up, not averaged.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def regroup(model: nn.Module) -> None:
    """Gives back what a pass without a way back has left gathered, in the type that is computed in.

    Else the parameters outside of layers would be those copies, to whoever asks for the model's.
    """
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _placement(model: nn.Module, module: nn.Module, name: str) -> Placement:
    path = next(path for path, found in model.named_modules() if found is module)
    last = path.rpartition(".")[2]
    if last in ("o_proj", "down_proj"):
        return Shard(1) if name in ("weight", "lora_a") else Replicate()
    if last.endswith("norm"):
        return Replicate()
    return Replicate() if name == "lora_a" else Shard(0)


def copies(parameter: Tensor) -> int:
    """How many ranks hold each element."""
    if not isinstance(parameter, DTensor):
        return 1
    mesh = parameter.device_mesh
    held = 1
    for dim, placement in enumerate(parameter.placements):
        if placement.is_replicate():
            held *= mesh.size(dim)
    return held


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float | None, ranks: Ranks) -> Tensor:
    """Scales gradients down to a norm of `largest` over all ranks, and returns what the norm was, float32."""
    gradients = [(p.grad, copies(p)) for p in parameters if p.grad is not None]
    locals_ = [g.to_local() if isinstance(g, DTensor) else g for g, _ in gradients]
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(locals_)])
    held = torch.tensor([float(held) for _, held in gradients], device=norms.device)
    total = (norms.square() / held).sum()
    if ranks.world > 1:
        dist.all_reduce(total)
    norm = total.sqrt()
    if largest is not None:
        torch._foreach_mul_(locals_, torch.clamp(largest / (norm + 1e-6), max=1.0))
    return norm


def whole(parameter: Tensor) -> Tensor:
    """A parameter's full value, on every rank: all of them must ask for it."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter.detach()


def fill(parameter: Tensor, value: Tensor) -> None:
    """Writes a full value, the same on every rank, into a parameter: each takes its share, and nobody sends anything."""
    if not isinstance(parameter, DTensor):
        parameter.copy_(value)
        return
    own = distribute_tensor(
        value.to(parameter.device, parameter.dtype),
        parameter.device_mesh,
        parameter.placements,
        src_data_rank=None,
    )
    parameter.to_local().copy_(own.to_local())
