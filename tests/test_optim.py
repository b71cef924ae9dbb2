"""Step sizes are what the configuration says: rates, multipliers, decay, accumulation, the step of 2018."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_adaptseg.config.loading import override
from paddle_adaptseg.config.optim import SGD, Adam, AdamW, LegacySGD
from paddle_adaptseg.config.schema import Schedule
from paddle_adaptseg.core import runtime
from paddle_adaptseg.core.errors import CheckpointError, TrainingError
from paddle_adaptseg.data import TrainData
from paddle_adaptseg.methods.base import Clock, Term
from paddle_adaptseg.models.segmenter import ParamGroup
from paddle_adaptseg.training.optim import Player, poly
from paddle_adaptseg.training.precision import Precision
from paddle_adaptseg.training.start import build_state
from paddle_adaptseg.training.step import backward, train_step


def parameter(value=1.0):
    p = paddle.create_parameter([], "float32", default_initializer=paddle.nn.initializer.Constant(value))
    p.clear_grad()
    return p


def player(settings, *groups):
    return Player(groups, {p.name: f"net.p{i}" for i, g in enumerate(groups) for p in g.parameters}, settings)


def test_poly_warms_up_and_decays_to_a_horizon_beyond_the_stop():
    schedule = Schedule(horizon=250_000, stop=150_000, power=0.9)
    assert poly(0, schedule) == 1.0
    assert poly(125_000, schedule) == pytest.approx(0.5**0.9)
    warm = Schedule(horizon=100, stop=100, warmup=10)
    assert [poly(s, warm) for s in (0, 5)] == [0.0, 0.5]


def test_a_warm_up_ratio_scales_the_decayed_rate():
    schedule = Schedule(horizon=100, stop=100, power=1.0, warmup=10, warmup_ratio=0.1)
    assert [poly(s, schedule) for s in (0, 5, 10, 50)] == pytest.approx([0.1, 0.95 * 0.55, 0.9, 0.5])
    daformer = Schedule(horizon=40_000, stop=40_000, power=1.0, warmup=1500, warmup_ratio=1e-6)
    learning_rates = {
        0: 6e-11,
        1: 4.0058958501e-08,
        1499: 5.77129990385e-05,
        1500: 5.775e-05,
        39_999: 1.5e-09,
    }  # of its code
    assert {s: 6e-5 * poly(s, daformer) for s in learning_rates} == pytest.approx(learning_rates, rel=1e-8)


def test_a_group_moves_at_its_multiple_of_the_base_rate():
    with runtime.fresh_names():
        base, head = parameter(), parameter()
        one = player(SGD(lr=0.1, momentum=0.9, weight_decay=0.0), group("a", base), group("b", head, 10.0))
        assert one.set_learning_rate(0.5) == {"a": 0.05, "b": 0.5}
        (base * 1.0 + head * 1.0).backward()
        one.step()
        assert 1 - float(base) == pytest.approx(0.05)
        assert 1 - float(head) == pytest.approx(0.5)


def group(name, p, lr_factor=1.0, listings=1, decay=1.0):
    return ParamGroup(name, (p,), lr_factor, listings, decay)


LR, WD = 0.1, 0.2


def by_hand(kind, lr_factor, decay, gradients):
    """Where a parameter that starts at 1 goes, from the definitions of the optimisers."""
    p, m, v = 1.0, 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        if kind in (SGD, LegacySGD):
            m = 0.9 * m + g + WD * decay * p
            p -= LR * lr_factor * m
            continue
        if kind is AdamW:
            p -= LR * lr_factor * WD * decay * p
        else:
            g += WD * decay * p
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        p -= LR * lr_factor * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)) ** 0.5 + 1e-8)
    return p


@pytest.mark.parametrize("kind", [SGD, LegacySGD, Adam, AdamW])
def test_every_optimiser_takes_the_factors_of_a_group_on_learning_rate_and_decay(kind):
    settings = kind(LR, 0.9, WD) if kind in (SGD, LegacySGD) else kind(LR, 0.9, 0.99, WD)
    factors, gradients = [(1.0, 1.0), (10.0, 1.0), (1.0, 0.0), (0.5, 3.0)], [1.0, -0.3, 2.0]
    with runtime.fresh_names():
        parameters = [parameter() for _ in factors]
        groups = [group(str(i), p, r, decay=d) for i, (p, (r, d)) in enumerate(zip(parameters, factors))]
        one = player(settings, *groups)
        for gradient in gradients:
            one.set_learning_rate(1.0)
            sum(p * gradient for p in parameters).backward()
            one.step()
        found = [float(p) for p in parameters]
    assert found == pytest.approx([by_hand(kind, r, d, gradients) for r, d in factors], rel=2e-5)
    assert len({round(p, 3) for p in found}) == 4


@pytest.mark.parametrize(
    ("legacy", "listings", "travelled"),
    [(False, 3, [0.1, 0.29, 0.561]), (True, 1, [0.1, 0.29, 0.561]), (True, 3, [0.561, 1.78297, 3.48678])],
)
def test_the_step_of_2018_repeats_per_listing(legacy, listings, travelled):
    with runtime.fresh_names():
        p = parameter(0.0)
        one = player((LegacySGD if legacy else SGD)(0.1, 0.9, 0.0), group("a", p, listings=listings))
        for distance in travelled:
            one.set_learning_rate(1.0)
            (p * 1.0).backward()
            one.step()
            assert -float(p) == pytest.approx(distance, abs=2e-4)


def test_the_step_of_2018_accumulates_decay_in_the_gradient():
    with runtime.fresh_names():
        p = parameter(1.0)
        one = player(LegacySGD(0.1, 0.5, 0.2), group("a", p, listings=2))
        one.set_learning_rate(1.0)
        (p * 1.0).backward()
        one.step()
        # g = 1 + .2*1 = 1.2, v = 1.2, p = .88; g = 1.2 + .2*.88 = 1.376, v = .6 + 1.376 = 1.976, p = .6824
        assert float(p) == pytest.approx(0.6824, abs=1e-6)


def test_state_is_stored_under_structured_names_and_order_of_building_does_not_matter():
    def pair(swap):
        first, second = (parameter(), parameter(2.0)) if not swap else reversed((parameter(2.0), parameter()))
        one = Player([group("a", first)], {first.name: "net.first"}, Adam(lr=0.1))
        two = Player([group("b", second)], {second.name: "net.second"}, Adam(lr=0.1))
        return first, second, one, two

    def step(first, second, one, two):
        (first * 3.0 + second * second).backward()
        one.step(), two.step()
        return float(first), float(second)

    with runtime.fresh_names():
        parts = pair(swap=False)
        step(*parts)
        saved, values = [p.state() for p in parts[2:]], [p.numpy() for p in parts[:2]]
        expected = step(*parts)
    assert all(k.split("/")[0] == "net.first" for k in saved[0])
    with runtime.fresh_names():
        parts = pair(swap=True)
        for p, value in zip(parts[:2], values):
            p.set_value(value)
        for one, state in zip(parts[2:], saved):
            one.load(state)
        assert step(*parts) == expected
    with pytest.raises(CheckpointError, match="unknown parameters: net.third"):
        parts[2].load({"net.third/moment1_0": np.zeros(1)})


def test_accumulated_parts_equal_one_large_batch(tiny):
    config = tiny("toy/source_only", "data.batch_size=1", "schedule.iter_size=2", "data.augment.mirror=false")

    def run(config):
        with runtime.fresh_names():
            state, data = build_state(config), TrainData(config, with_target=False)
            train_step(state, Clock(0, 8), config.schedule, data.batches(0))
            return {k: v.numpy() for k, v in state.method.state_dict().items()}

    parts, whole = run(config), run(override(config, "data.batch_size=2", "schedule.iter_size=1"))
    for name in parts:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_loss_that_is_not_finite_stops_before_any_weight_is_touched(tiny):
    config = tiny("toy/source_only")
    with runtime.fresh_names():
        state = build_state(config)
        data = TrainData(config, with_target=False)
        before = {k: v.numpy() for k, v in state.method.state_dict().items()}
        real = state.method.seg_terms
        state.method.seg_terms = lambda *a: {**real(*a), "seg_aux": Term(paddle.to_tensor(float("nan")))}
        with pytest.raises(TrainingError, match=r"step 4: seg_aux = nan; batch: .*images.000"):
            train_step(state, Clock(3, 8), config.schedule, data.batches(0))
        assert all((state.method.state_dict()[k].numpy() == v).all() for k, v in before.items())


def test_terms_are_weighted_and_divided_over_the_parts():
    p = parameter(2.0)
    backward({"a": Term(p * p, 0.5), "b": Term(p * 1.0, 3.0)}, 0.5, Precision())
    assert float(p.grad) == pytest.approx((0.5 * 4 + 3) / 2)


def test_every_trainable_parameter_needs_a_player(tiny):
    from paddle_adaptseg.training.optim import build_players

    config = tiny()
    with runtime.fresh_names():
        method = build_state(config).method
        method.players = lambda: {"segmenter": method.segmenter.groups()}
        with pytest.raises(AssertionError, match="exactly once"):
            build_players(method, config)


def test_a_state_that_was_loaded_is_there_before_any_step_has_used_it(tiny):
    config = tiny("toy/adaptsegnet_multi", "method.ramp.start=0")
    with runtime.fresh_names():
        state = build_state(config)
        train_step(state, Clock(0, 8), config.schedule, TrainData(config, True).batches(0))
        trained = {name: player.state() for name, player in state.players.items()}
    with runtime.fresh_names():
        fresh = build_state(config)
    for name, player in fresh.players.items():
        player.load(trained[name])
        again = player.state()
        assert set(again) == set(trained[name]) and all((again[k] == v).all() for k, v in trained[name].items())
