"""The order in which frames are seen."""

from collections import Counter

from explicit_branch.distillation.sampler import FrameSampler


def test_mix_is_exact_and_every_frame_is_seen_once_a_pass():
    """Fails when one set is drawn in blocks, with replacement, or at another rate than asked."""
    sampler = FrameSampler(20, 8, real_fraction=0.6, seed=3)
    draws = [sampler.draw(i) for i in range(100)]
    assert sum(distilled for distilled, _ in draws) == 40
    real = Counter(index for distilled, index in draws if not distilled)
    assert real == Counter(dict.fromkeys(range(20), 3))
    taught = Counter(index for distilled, index in draws if distilled)
    assert taught == Counter(dict.fromkeys(range(8), 5))
    switches = sum(a[0] != b[0] for a, b in zip(draws, draws[1:]))
    assert switches > 30


def test_draws_depend_on_the_iteration_alone():
    """Fails when a resumed run would see other frames."""
    first, second = (FrameSampler(7, 5, real_fraction=0.5, seed=1) for _ in range(2))
    expected = [first.draw(i) for i in range(250)]
    assert [second.draw(i) for i in reversed(range(250))] == expected[::-1]
    assert expected != [FrameSampler(7, 5, real_fraction=0.5, seed=2).draw(i) for i in range(250)]


def test_an_empty_set_is_never_drawn():
    """Fails when training without a teacher, or on the distillation avatar alone, crashes."""
    assert not any(FrameSampler(3, 0, real_fraction=0.6, seed=0).draw(i)[0] for i in range(100))
    assert all(FrameSampler(0, 3, real_fraction=0.6, seed=0).draw(i)[0] for i in range(100))
