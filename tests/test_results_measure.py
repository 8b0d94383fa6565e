"""Which rows can be measured, and why the others can't."""

from __future__ import annotations

from dreamo_batch.results.measure import Subject, find_subjects
from tests.histories import ambiguous, completed, failed, results


def test_rows_without_a_picture_say_why(tmp_path):
    """Each status in its own words; a picture whose reference nobody knows is still a picture."""
    attempts = [
        completed("a", output_sha256="00"),
        completed("b", output_path=None),
        failed("c"),
        ambiguous("d"),
    ]
    subjects, problems = find_subjects(results(["a", "b", "c", "d", "e", None], attempts), [tmp_path] * 6)
    assert subjects == [Subject(tmp_path, tmp_path / "images/a.jpg", "00", None), *[None] * 5]
    assert problems == [
        None,
        "no picture was saved",
        "failed: generation_error",
        "ambiguous: no_answer",
        "pending",
        "invalid: invalid",
    ]
