"""Packs as what one forward pass computes. Refuses to know steps, ranks and losses."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from agentlm.ops.packed import PackedContext
from agentlm.tuning.model import Batch
from agentlm.tuning.plan import Pack
from agentlm.tuning.rendering import Rendered


def make_batch(
    rendered: Rendered, packs: Sequence[Pack], device: torch.device
) -> tuple[Batch, npt.NDArray[np.int64]]:
    """The batch of some packs, and for each of its trained tokens the index of its conversation.

    Without packs it is one token that is not trained: what a rank computes that has none where others have.
    """
    conversations = [conversation for pack in packs for conversation in pack]
    if not conversations:
        context = PackedContext.make(np.zeros(1, dtype=np.int32), [1], device)
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return Batch(context, nothing, nothing), np.zeros(0, dtype=np.int64)
    ids, rows, owners, lengths = [], [], [], []
    start = 0
    for conversation in conversations:
        own_ids, own_mask = rendered.tokens(conversation)
        # The token before predicts a trained one; before the first there is none.
        own_rows = np.flatnonzero(own_mask[1:])
        ids.append(own_ids)
        rows.append(own_rows + start)
        owners.append(np.full(len(own_rows), conversation, dtype=np.int64))
        lengths.append(len(own_ids))
        start += len(own_ids)
    all_ids = np.concatenate(ids)
    all_rows = np.concatenate(rows)
    batch = Batch(
        context=PackedContext.make(all_ids, lengths, device),
        rows=torch.from_numpy(all_rows).to(device),
        targets=torch.from_numpy(all_ids[all_rows + 1].astype(np.int64)).to(device),
    )
    return batch, np.concatenate(owners)
