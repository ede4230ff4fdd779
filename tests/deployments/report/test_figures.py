import base64
import io

import numpy as np
import pytest
from pets import many_results, result
from PIL import Image

from deployments.report.figures import MAP_HEIGHT, MAP_WIDTH, MARK, Bin, Cell, confusion, embedding_map, reliability
from deployments.report.thumbnails import THUMBNAIL_PX, thumbnail_uri


def test_confusion_counts_true_classes_in_rows():
    matrix = confusion(result())
    assert matrix.classes == ("cat", "dog")
    assert matrix.totals == (2, 2)
    assert matrix.cells == (Cell(0, 0, 1, 0.5), Cell(0, 1, 1, 0.5), Cell(1, 0, 1, 0.5), Cell(1, 1, 1, 0.5))


def test_class_that_was_not_tested_is_not_in_the_matrix():
    matrix = confusion(result(labels=np.array([0, 0, 0, 0]), probabilities=np.tile([0.8, 0.2], (4, 1))))
    assert matrix.classes == ("cat",)
    assert matrix.left_out == 1


def test_large_matrix_keeps_the_classes_with_most_mistakes():
    found = many_results(items=80, classes=40)
    probabilities = np.eye(40)[found.labels]  # all right, but for one item of the last class
    probabilities[39] = np.eye(40)[38]
    matrix = confusion(result(classes=found.classes, labels=found.labels, probabilities=probabilities))
    assert len(matrix.classes) == 30
    assert matrix.left_out == 10
    assert matrix.classes[-2:] == ("class-38", "class-39")


def test_reliability_compares_confidence_with_accuracy_in_each_bin():
    low, middle, high = reliability(result())
    assert low == Bin(0.55, 0.0, 1, 0.25)
    assert middle == Bin(0.75, 1.0, 1, 0.25)
    assert high == Bin(pytest.approx(0.925), 0.5, 2, 0.5)


def test_full_confidence_is_in_the_last_bin():
    assert reliability(result(probabilities=np.tile([1.0, 0.0], (4, 1)))) == [Bin(1.0, 0.5, 4, 1.0)]


def test_map_says_what_each_item_is_and_what_it_was_taken_for():
    marks = embedding_map(result())
    assert [mark.is_right for mark in marks] == [True, True, False, False]
    assert (marks[2].title, marks[2].label, marks[2].predicted, marks[2].picture) == ("<b>Ada</b>", "dog", "cat", None)
    assert marks[3].title == "4"


def test_marks_stay_within_the_map_and_seldom_overlap():
    marks = embedding_map(many_results(items=120, classes=6))
    places = np.array([(mark.x, mark.y) for mark in marks])
    assert (places >= MARK / 2).all()
    assert (places <= (MAP_WIDTH - MARK / 2, MAP_HEIGHT - MARK / 2)).all()
    distance = np.abs(places[:, None] - places[None]).max(-1) + np.eye(len(places)) * MAP_WIDTH
    assert (distance.min(1) < MARK * 0.8).mean() < 0.1


def test_items_of_one_class_lie_together():
    found = many_results(items=120, classes=4)
    places = np.array([(mark.x, mark.y) for mark in embedding_map(found)])
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    same = found.labels[:, None] == found.labels[None]
    assert distance[same].mean() < distance[~same].mean() / 2


def test_map_of_many_items_is_a_sample_that_stays_the_same():
    found = many_results(items=420, classes=5)
    marks = embedding_map(found)
    assert len(marks) == 400
    assert marks == embedding_map(found)


@pytest.mark.parametrize("embeddings", [np.zeros((4, 3)), np.ones((4, 1)), np.arange(4.0)[:, None]])
def test_vectors_that_say_little_still_give_a_map(embeddings):
    places = np.array([(mark.x, mark.y) for mark in embedding_map(result(embeddings=embeddings))])
    assert np.isfinite(places).all()


def test_no_vectors_no_map():
    assert embedding_map(result(embeddings=None)) == []


def test_thumbnail_is_small_and_white_where_the_picture_is_transparent():
    file = io.BytesIO()
    Image.new("RGBA", (400, 200), (255, 0, 0, 0)).save(file, "PNG")
    kind, encoded = thumbnail_uri(file.getvalue()).split(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as thumbnail:
        assert thumbnail.size == (THUMBNAIL_PX, THUMBNAIL_PX // 2)
        assert thumbnail.convert("RGB").getpixel((5, 5)) == (255, 255, 255)
