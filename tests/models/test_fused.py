"""What holds for every kind of learner, `auto` among them; what belongs to one head alone is tested beside it."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from synthetic import (
    TITLE,
    VIEWS,
    departed_learner,
    draw,
    make_domain,
    support_of,
    with_other_hidden_features,
    without_view,
)
from test_auto_invariances import undecided
from torch import Tensor
from torch.nn.functional import normalize

from data_contracts.errors import ModelError, ModelRefused
from models.catalogue import AUTO, AUTO_MEMBERS, CATALOGUE, LEARNERS, build_learner, load_domain_model, load_prior
from models.episodes import EpisodeBatch, as_episode
from models.features import ViewSpec
from models.fused import positions_in_class
from models.heads import AdversarialHead, query_loss
from models.learner import DomainModel, MetaLearner, Prior
from models.pool import POOL_SIZE
from models.temperature import decision_loss


def answers(learner: Prior, batch: EpisodeBatch) -> Tensor:
    with torch.no_grad():
        return learner.log_probabilities(batch).exp()


def stored_and_loaded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return load(save(weights))


def assert_near(found: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.fixture(scope="module", params=(*LEARNERS, AUTO))
def trained(request: pytest.FixtureRequest) -> Prior:
    """A learner with every strength on, and a basis for the encoder of the title; tests must not change it."""
    many = make_domain("many", per_class=40, views=(TITLE,), seed=9)
    if request.param == AUTO:
        return undecided({kind: departed_learner(kind, [many]) for kind in AUTO_MEMBERS}, draw(many, batch=20))
    return departed_learner(request.param, [many])


def test_untrained_learner_is_the_nearest_centroid_of_centred_views_of_equal_weight(kind):
    domain = make_domain()
    batch = draw(domain, n_shot=3)
    unit = {view.name: normalize(domain.features[view.name], dim=-1) for view in VIEWS}
    centred = [normalize(items - items.mean(0), dim=-1) for items in unit.values()]
    items = torch.cat(centred, dim=-1) / 3**0.5
    prototypes = batch.membership.mT @ items[batch.support] / 3
    nearest = torch.cdist(items[batch.query], prototypes).argmin(-1)
    assert torch.equal(answers(build_learner(kind), batch).argmax(-1), nearest)


def test_answers_are_distributions(trained, toys):
    assert_near(answers(trained, draw(toys)).sum(-1), torch.ones(6, 20))
    probabilities = trained.adapt(toys, support_of(toys, 3)).predict(toys)
    assert_near(probabilities.sum(-1), torch.ones(len(toys)))
    assert (probabilities >= 0).all()


def test_what_the_features_of_hidden_views_are_plays_no_part(trained, toys):
    hidden = toys.with_hidden_views(0.4, torch.Generator().manual_seed(0))
    other = with_other_hidden_features(hidden)
    assert torch.equal(answers(trained, draw(other)), answers(trained, draw(hidden)))
    models = [trained.adapt(domain, support_of(domain, 3)) for domain in (hidden, other)]
    assert torch.equal(models[1].predict(other), models[0].predict(hidden))
    assert torch.equal(models[1].embed(other), models[0].embed(hidden))


def test_no_items_get_no_rows(trained, toys):
    nobody = toys.take(torch.tensor([], dtype=torch.long))
    assert trained.adapt(toys, support_of(toys, 3)).predict(nobody).shape == (0, len(toys.classes))


def test_classes_without_labels_are_no_part_of_the_shot(trained, toys):
    support = support_of(toys, 3)
    some = support[toys.labels[support] < 2]
    assert trained.adapt(toys, some).tensors["shot"].item() == trained.adapt(toys, support).tensors["shot"].item() == 3


def test_loss_is_that_of_the_answers_unless_the_learner_has_its_own(kind, toys):
    learner, batch = departed_learner(kind), draw(toys)
    learner.temperature.exponents.zero_()  # the loss knows one temperature a batch
    expected = decision_loss(answers(learner, batch).log(), batch.query_labels)
    is_own = CATALOGUE[kind].loss is not query_loss or isinstance(learner.head, AdversarialHead)
    assert is_own or learner.meta_loss(batch).item() == pytest.approx(expected.item(), abs=1e-4)


def test_loss_reaches_what_places_and_weighs_items(kind, toys):
    learner = departed_learner(kind)
    learner.meta_loss(draw(toys)).backward()
    gradients = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["view_weights.evidence"].any()
    assert gradients["placement.smoothing.level"].any()


def test_gradient_is_finite_at_the_start_where_items_miss_views(kind, toys):
    learner = departed_learner(kind)
    for parameter, fresh in zip(learner.parameters(), build_learner(kind).parameters(), strict=True):
        parameter.data.copy_(fresh)
    learner.meta_loss(draw(toys)).backward()
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)


def test_order_of_the_support_changes_nothing(trained, toys):
    support = support_of(toys, 3)
    shuffled = support[torch.randperm(len(support), generator=torch.Generator().manual_seed(0))]
    assert_near(trained.adapt(toys, shuffled).predict(toys), trained.adapt(toys, support).predict(toys))


def test_order_of_the_classes_permutes_the_answers(trained, toys):
    order = (3, 1, 7, 0, 5, 2, 6, 4)
    renamed = toys.with_classes(tuple(toys.classes[number] for number in order))
    support = support_of(toys, 3)
    expected = trained.adapt(toys, support).predict(toys)[:, list(order)]
    assert_near(trained.adapt(renamed, support).predict(renamed), expected)


def test_order_of_the_views_changes_nothing(trained, toys):
    turned = replace(toys, views=toys.views[::-1], presence=toys.presence.flip(1))
    support = support_of(toys, 3)
    assert_near(trained.adapt(turned, support).predict(turned), trained.adapt(toys, support).predict(toys))


def test_answer_to_one_query_depends_on_the_others_only_if_the_learner_is_transductive(trained, toys):
    model = trained.adapt(toys, support_of(toys, 2))
    rows = torch.tensor([50, 3, 77])
    change = (model.predict(toys.take(rows)) - model.predict(toys)[rows]).abs().max()
    assert (change > 1e-4) == CATALOGUE[model.kind].is_transductive


def test_view_that_every_item_misses_is_as_if_it_were_not_there(trained):
    domain = make_domain(missing=0.1)
    presence = domain.presence.clone()
    presence[:, 1] = False
    hidden, support = domain.with_presence(presence), support_of(domain, 3)
    reduced = without_view(domain, "picture")
    with_hole, without = trained.adapt(hidden, support), trained.adapt(reduced, support)
    assert_near(with_hole.predict(hidden), without.predict(reduced))
    assert with_hole.view_weights["picture"] == 0.0
    assert_near(answers(trained, draw(hidden)), answers(trained, draw(reduced)))


@pytest.mark.parametrize("is_constant", [False, True], ids=["absent", "constant"])
def test_view_of_a_new_modality_that_tells_nothing_apart_takes_nothing_from_another(trained, is_constant):
    sounds = tuple(ViewSpec(f"sound-{number}", "audio", f"waves-{number}", 9) for number in range(3))
    domain = make_domain(views=(TITLE, *sounds), missing=0.2, seed=7)
    presence = domain.presence.clone()
    presence[:, 3] = is_constant
    features = {**domain.features, "sound-2": torch.ones(len(domain), 9) * presence[:, 3:]}
    domain = replace(domain, presence=presence, features=features)
    reduced, support = without_view(domain, "sound-2"), support_of(domain, 3)
    found, expected = (trained.adapt(data, support).predict(data) for data in (domain, reduced))
    assert_near(found, expected, atol=1e-3)
    for data in (domain, reduced):
        assert_near(answers(trained, as_episode(data, support, torch.arange(len(data))))[0], expected, atol=5e-3)


def test_missing_view_reads_the_same_absent_from_the_presence_mask_or_from_the_data(trained):
    domain = make_domain()
    model = trained.adapt(domain, support_of(domain, 3))
    presence = domain.presence.clone()
    presence[:, 2] = False
    assert_near(model.predict(without_view(domain, "facts")), model.predict(domain.with_presence(presence)))


def test_item_without_any_view_gets_the_uniform_row(trained, toys):
    presence = toys.presence.clone()
    presence[5] = False
    probabilities = trained.adapt(toys, support_of(toys, 3)).predict(toys.with_presence(presence))
    assert_near(probabilities[5], torch.full((8,), 1 / 8))
    assert probabilities[4].max() > 0.2


@pytest.mark.parametrize("n_shot", [1, 2, 5])
def test_answers_to_a_batch_equal_those_of_the_adapted_domain_model(trained, toys, n_shot):
    domain = toys.with_classes(toys.classes[:5])
    support = support_of(domain, n_shot)
    query = torch.tensor([row for row in range(60) if row not in support.tolist()])
    model = trained.adapt(domain, support)
    batch = as_episode(domain, support, query)
    found, expected = model.predict(domain.take(query)), answers(trained, batch)[0]
    assert_near(found, expected, atol=5e-3)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_each_episode_of_a_batch_is_answered_as_if_alone(trained, toys):
    batch = draw(toys)
    assert_near(answers(trained, batch)[2:3], answers(trained, batch[2:3]))


def test_padded_support_changes_nothing(trained, toys):
    batch = draw(toys)
    padded = replace(
        batch,
        support=torch.cat([batch.support, batch.query[:, :2]], dim=1),
        support_labels=torch.cat([batch.support_labels, torch.full((6, 2), -1)], dim=1),
    )
    assert_near(answers(trained, padded), answers(trained, batch))


def test_learner_comes_back_from_its_stored_form(trained, toys):
    again = load_prior(trained.config(), stored_and_loaded(trained.weights()))
    batch = draw(toys)
    assert again.kind == trained.kind
    assert torch.equal(answers(again, batch), answers(trained, batch))


def test_domain_model_comes_back_from_its_stored_form(trained, toys):
    model = trained.adapt(toys, support_of(toys, 3))
    again = load_domain_model(model.config(), stored_and_loaded(model.weights()))
    assert isinstance(again, DomainModel)
    assert (again.kind, again.views, again.classes) == (model.kind, toys.views, toys.classes)
    assert torch.equal(again.predict(toys), model.predict(toys))
    assert torch.equal(again.embed(toys), model.embed(toys))
    assert again.view_weights == model.view_weights


def test_domain_model_stays_as_it_was_when_its_prior_is_trained_on(trained, toys):
    prior = deepcopy(trained)
    model = prior.adapt(toys, support_of(toys, 3))
    before = model.predict(toys)
    for value in prior.weights().values():
        value.fill_(1)
    assert all((value == 1).all() for value in prior.weights().values())
    prior.fit_statistics([toys], toys.classes)
    assert torch.equal(model.predict(toys), before)


def test_weights_of_the_views_sum_to_one(trained, toys):
    weights = trained.adapt(toys, support_of(toys, 3)).view_weights
    assert set(weights) == {"title", "picture", "facts"}
    assert sum(weights.values()) == pytest.approx(1.0, abs=1e-5)


def test_distance_in_the_fused_space_is_the_weighted_sum_over_views(trained):
    domain = make_domain()
    model = trained.adapt(domain, support_of(domain, 3))
    embedded = model.embed(domain)
    assert embedded.shape == (len(domain), sum(view.dim for view in VIEWS))
    assert_near(embedded.square().sum(-1), torch.ones(len(domain)))


def test_views_encoders_and_dimensions_never_met_in_training_work(trained):
    strange = (
        ViewSpec("sound", "audio", "waves-7", 33),
        ViewSpec("film", "video", "frames/of a kind-2", 9),
        ViewSpec("caption", "text", "words-99", 5),
    )
    domain = make_domain("strange", views=strange, missing=0.1, seed=4)
    model = trained.adapt(domain, support_of(domain, 5))
    right = model.predict(domain).argmax(-1) == domain.labels
    assert right.float().mean() > 0.8
    again = load_domain_model(model.config(), stored_and_loaded(model.weights()))
    assert torch.equal(again.predict(domain), model.predict(domain))


def test_domain_larger_than_the_pool_keeps_an_evenly_spaced_part_of_it(trained):
    domain = make_domain(classes=4, per_class=600, views=(TITLE,))
    model = trained.adapt(domain, support_of(domain, 2))
    assert len(model.weights()["pool/title"]) == POOL_SIZE
    assert model.predict(domain).shape == (2400, 4)


def test_built_learner_is_a_meta_learner_of_its_kind(kind):
    learner = build_learner(kind)
    assert isinstance(learner, MetaLearner)
    assert learner.config()["kind"] == learner.kind == kind


def test_unknown_kind_is_refused_with_the_kinds_there_are():
    with pytest.raises(ModelError, match=f"no learner 'oracle'.*{LEARNERS[0]}"):
        build_learner("oracle")
    for load_it in (load_prior, load_domain_model):
        with pytest.raises(ModelRefused, match="of kind 'oracle'"):
            load_it({"kind": "oracle"}, {})
        with pytest.raises(ModelRefused, match="of kind 'None'"):
            load_it({}, {})


def test_learner_with_a_missing_or_misshapen_tensor_is_refused(trained):
    weights = trained.weights()
    for name in weights:
        if not name.startswith("bases/"):
            with pytest.raises(ModelRefused, match="do not fit"):
                load_prior(trained.config(), {other: value for other, value in weights.items() if other != name})
        with pytest.raises(ModelRefused, match="do not fit"):
            load_prior(trained.config(), {**weights, name: torch.zeros(1, 2, 3)})


def test_domain_model_with_a_missing_or_misshapen_tensor_is_refused(trained, toys):
    model = trained.adapt(toys, support_of(toys, 2))
    config, weights = model.config(), model.weights()
    for name in weights:
        if not name.startswith("prior/bases/"):
            with pytest.raises(ModelRefused, match="do not fit"):
                load_domain_model(config, {other: value for other, value in weights.items() if other != name})
        with pytest.raises(ModelRefused, match="do not fit"):
            load_domain_model(config, {**weights, name: torch.zeros(1, 2, 3)})


def test_domain_model_whose_whitening_is_for_another_dimension_is_refused(trained, toys):
    model = trained.adapt(toys, support_of(toys, 2))
    strange = {"directions": torch.eye(5), "ratios": torch.ones(5)}
    for view in model.views:
        bases = {f"prior/bases/{view.encoder_id}/{part}": value for part, value in strange.items()}
        with pytest.raises(ModelRefused, match=f"the basis of {view.encoder_id} is for 5 numbers"):
            load_domain_model(model.config(), {**model.weights(), **bases})


@pytest.mark.parametrize(
    "change",
    [
        {"views": [{"name": "title"}]},
        {"classes": ["only"]},
        {"pool_ids": ["one"]},
        {"views": "title"},
        {"classes": None},
        {"views": [{"name": "title", "modality": "smell", "encoder_id": "nose", "dim": 12}]},
    ],
    ids=["view without dim", "too few classes", "too few ids", "views no list", "classes no list", "unknown modality"],
)
def test_domain_model_whose_config_does_not_fit_is_refused(toys, change):
    model = build_learner("metric").adapt(toys, support_of(toys, 2))
    with pytest.raises(ModelRefused, match="do not fit"):
        load_domain_model({**model.config(), **change}, model.weights())


def test_position_in_the_class_counts_those_before():
    assert positions_in_class(torch.tensor([3, -1, 3, 0, -1, 3])).tolist() == [0, 0, 1, 0, 1, 2]
