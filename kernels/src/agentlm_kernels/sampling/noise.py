"""The sampling noise: a pure function of (seed, parallel sample, position, token id), as every backend computes it.

Philox4x32-10 with key (seed low, seed high) and counter (id / 4, position, sample index, 0); word id % 4 is x; then
u = ((x >> 9) + 0.5) * 2^-23 and the noise is -ln(-ln u). Refuses to know logits.
"""

import triton
import triton.language as tl


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Ten rounds on uint32 blocks of equal shape (the keys scalars): four words."""
    for _ in tl.static_range(10):
        # One instruction gives both halves of a wide product.
        a = c0.to(tl.uint64) * 0xD2511F53
        b = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (b >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = b.to(tl.uint32)
        c2 = (a >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = a.to(tl.uint32)
        k0 = k0 + tl.full(c0.shape, 0x9E3779B9, tl.uint32)
        k1 = k1 + tl.full(c0.shape, 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def words_of(quads, seed_lo, seed_hi, position, sample):
    """The four words of ids `4 * quads + 0 … 3`; `quads` is an int32 block, the rest int32 scalars."""
    zero = tl.zeros(quads.shape, tl.uint32)
    return philox(
        quads.to(tl.uint32),
        zero + position.to(tl.uint32, bitcast=True),
        zero + sample.to(tl.uint32, bitcast=True),
        zero,
        zero + seed_lo.to(tl.uint32, bitcast=True),
        zero + seed_hi.to(tl.uint32, bitcast=True),
    )


@triton.jit
def gumbel(x):
    """The noise of a word."""
    u = ((x >> 9).to(tl.float32) + 0.5) * (1.0 / 8388608.0)
    return -tl.log(-tl.log(u))
