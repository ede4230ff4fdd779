import pytest

from data_contracts.errors import ModelError
from models.catalogue import (
    AUTO,
    AUTO_MEMBERS,
    LEARNERS,
    auto_members,
    check_learner,
    learners_to_train,
    named_learners,
)


def test_learners_are_named_once_each():
    assert named_learners(("ridge", "auto", "metric", "ridge")) == ("ridge", "auto", "metric")


def test_all_is_every_learner_and_auto():
    assert named_learners(("all",)) == (*LEARNERS, AUTO)
    assert named_learners(("ridge", "all"))[0] == "ridge"
    assert learners_to_train(named_learners(("all",))) == LEARNERS


def test_auto_alone_is_made_of_its_members():
    assert learners_to_train(("auto",)) == auto_members(("auto",)) == AUTO_MEMBERS


def test_auto_chooses_among_all_that_are_trained_beside_it_and_answer_every_item_by_itself():
    assert auto_members(("ridge", "auto", "transductive")) == ("ridge", *AUTO_MEMBERS)
    assert set(LEARNERS) - set(auto_members(LEARNERS)) == {"transductive", "transductive_balanced"}


@pytest.mark.parametrize("asked", [("metric", "oracle"), ("oracle",)])
def test_unknown_learner_is_refused_with_those_there_are(asked):
    with pytest.raises(ModelError, match=r"there is no learner 'oracle'; choose from metric, .*, auto"):
        named_learners(asked)


def test_naming_none_is_refused():
    with pytest.raises(ModelError, match=r"no learner is named; choose from metric, .*, auto, or all"):
        named_learners(())


def test_several_learners_are_no_choice_where_one_is_asked_for():
    assert check_learner("auto") == "auto"
    with pytest.raises(ModelError, match="there is no learner 'all'"):
        check_learner("all")
