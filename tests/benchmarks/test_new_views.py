"""Views, encoders and sounds that training has not met, on small domains whose classes are clouds."""

import pytest
from new_views import SPOKEN, TRIALS, measure, prepare
from spoken_titles import FIELD
from synthetic import VIEWS, make_domain

from data_contracts.configs import BenchmarkConfig, TrainConfig
from models.evaluation import UNTRAINED
from models.features import ViewSpec

SOUNDS = tuple(ViewSpec(f"{FIELD}.{facet}", "audio", f"{facet}-1", 10) for facet in ("spectrum", "speech"))
DOMAINS = {
    name: make_domain(name, classes=28, views=views, missing=0.1, seed=seed)
    for seed, (name, views) in enumerate({"a": VIEWS, "b": VIEWS, "c": (*VIEWS, *SOUNDS)}.items())
}
LEARNERS = ("metric", "similarity")
CONFIG = BenchmarkConfig(
    train=("a", "b"),
    test=("c",),
    learners=LEARNERS,
    shots=(1, 5),
    episodes=100,
    training=TrainConfig(steps=60, n_query=5, meta_batch=8, validate_every=20),
)


@pytest.mark.parametrize(
    ("trial", "field", "what"),
    [
        ("view", "picture", "name"),
        ("encoder", "picture", "encoder_id"),
        ("spoken", FIELD, "modality"),
        ("untitled", FIELD, "modality"),
    ],
)
def test_training_has_not_met_what_is_new(trial, field, what):
    training, test = prepare(trial, field, [DOMAINS["a"], DOMAINS["b"]], [DOMAINS["c"]])
    new = [spec for spec in test[0].views if spec.name.partition(".")[0] == field]
    met = {getattr(spec, what) for domain in training for spec in domain.views}
    assert len(new) == (2 if field == FIELD else 1)
    assert not met & {getattr(spec, what) for spec in new}
    for domain in (*training, *test):
        for number, spec in enumerate(domain.views):
            assert domain.features[spec.name].shape == (len(domain), spec.dim)
            assert not domain.features[spec.name][~domain.presence[:, number]].any()


def test_only_trials_with_sound_have_it_and_only_one_has_no_title():
    views = {
        trial: {spec.name for spec in prepare(trial, "picture", [DOMAINS["a"]], [DOMAINS["c"]])[1][0].views}
        for trial in TRIALS
    }
    silent, sounds = {"title", "picture", "facts"}, {spec.name for spec in SOUNDS}
    assert views == {
        "view": silent,
        "encoder": silent,
        "spoken": silent | sounds,
        "untitled": silent - {"title"} | sounds,
    }


@pytest.mark.slow
def test_views_encoders_and_modalities_never_met_in_training_are_gains_where_they_tell_classes():
    rows = {(row.trial, row.shot, row.learner): row for row in measure(DOMAINS, CONFIG, ["picture"])}
    assert set(rows) == {(trial, shot, name) for trial in TRIALS for shot in (1, 5) for name in (UNTRAINED, *LEARNERS)}
    for row in rows.values():
        assert row.gain == pytest.approx(row.accuracy - row.ignoring, abs=1e-6)
    for row in (row for row in rows.values() if row.learner in LEARNERS):
        assert row.gain > row.gain_ci95
        is_trusted_late = (
            row.trial in SPOKEN and row.shot == 5
        )  # nearest centroid counts good sounds in full from the start
        assert row.lead > (-row.lead_ci95 if is_trusted_late else row.lead_ci95)
