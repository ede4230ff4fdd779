import pytest
import torch

from models.gate import judge, promote_unopposed


def answers(right: int, items: int) -> torch.Tensor:
    return torch.arange(items) < right


def test_clearly_better_challenger_is_promoted():
    verdict = judge(answers(90, 100), answers(50, 100))
    assert verdict.decision == "promote"
    assert verdict.gain == pytest.approx(0.4)
    assert 0 < verdict.gain_low < verdict.gain < verdict.gain_high


def test_same_answers_hold():
    verdict = judge(answers(70, 100), answers(70, 100))
    assert (verdict.decision, verdict.gain) == ("hold", 0.0)


def test_worse_challenger_is_held():
    assert judge(answers(60, 100), answers(70, 100)).decision == "hold"


def test_few_labels_ask_for_as_many_more_as_would_decide():
    verdict = judge(answers(6, 10), answers(4, 10))
    assert verdict.decision == "ask"
    enough = (10 + verdict.labels_needed) / 10
    again = judge(answers(round(6 * enough), round(10 * enough)), answers(round(4 * enough), round(10 * enough)))
    assert again.gain_low > -0.02


def test_gain_must_exceed_what_was_asked():
    assert judge(answers(90, 100), answers(80, 100), min_gain=0.0).decision == "promote"
    assert judge(answers(90, 100), answers(80, 100), min_gain=0.2).decision == "hold"


def test_interval_is_that_of_agresti_and_min():
    # won 4, lost 1, items 20: (4.5 - 1.5) / 22 and 1.96 * sqrt(6 - 9 / 22) / 22, worked out by hand
    verdict = judge(torch.arange(20) < 4, torch.arange(20) == 19)
    assert verdict.gain_low == pytest.approx(0.13636 - 0.21061, abs=1e-4)
    assert verdict.gain_high == pytest.approx(0.13636 + 0.21061, abs=1e-4)


def test_nothing_to_compare_on_asks_for_labels():
    verdict = judge(answers(0, 0), answers(0, 0))
    assert (verdict.decision, verdict.labels_needed) == ("ask", 2)


def test_first_model_has_nobody_to_beat():
    verdict = promote_unopposed(12)
    assert verdict.decision == "promote"
    assert verdict.why() == "promote: the first model of its kind, judged on 12 items"


def test_reason_names_gain_and_items():
    assert judge(answers(90, 100), answers(50, 100)).why().startswith("promote: gain +40.0 points [")
