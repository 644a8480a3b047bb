"""Random numbers by position, see ``csrc/include/gs_ir/philox.h``; words are int64 tensors in [0, 2^32)."""

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF


def philox(c0: Tensor, c1: Tensor | int, c2: int, key: Tensor) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al. 2011) of counters (c0, c1, c2, 0) [N] under ``key`` [] int64: four words [N]."""
    words: list[Tensor] = [c0, torch.zeros_like(c0) + c1, torch.full_like(c0, c2), torch.zeros_like(c0)]
    k0, k1 = key & _LOW, (key >> 32) & _LOW
    for _ in range(10):
        (high_a, low_a), (high_b, low_b) = _product(0xD2511F53, words[0]), _product(0xCD9E8D57, words[2])
        words = [high_b ^ words[1] ^ k0, low_b, high_a ^ words[3] ^ k1, low_a]
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return words


def uniform(word: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers [N] in [0, 1) of 24 bits."""
    return (word >> 8).to(dtype) / 2**24


def permuted(i: Tensor, count: Tensor, keys: list[Tensor]) -> Tensor:
    """Where permutations of [0, count) [N] take ``i`` [N]: Feistel networks walked to the range, then rotations."""
    half = torch.ones_like(count)
    while (short := (1 << (2 * half)) < count).any():
        half = half + short
    mask = (1 << half) - 1
    outside = torch.ones_like(i, dtype=torch.bool)
    while outside.any():
        left, right = i >> half, i & mask
        for number in range(8):
            key = (keys[number % 4] + number) & _LOW
            left, right = right, left ^ (_scrambled(right ^ key) & mask)
        i = torch.where(outside, left << half | right, i)
        outside = i >= count
    turn = _scrambled(keys[0] ^ _scrambled(keys[1] ^ _scrambled(keys[2] ^ keys[3])))
    return (i + (turn * count >> 32)) % count


def _scrambled(x: Tensor) -> Tensor:
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _LOW
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _LOW
    return x ^ (x >> 16)


def _product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower word of a product of words, whose 64 bits an int64 cannot hold."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)
