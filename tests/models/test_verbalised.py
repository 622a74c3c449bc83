"""Confidence in words: what counts as a number and what as a refusal, and the prompt that asks for it."""

import pytest

from sua.models.verbalised import CONFIDENCE, confidence_prompt, read_confidence


@pytest.mark.parametrize("text, value", [
    ("85%", 0.85), (" 85 %\n", 0.85), ("85", 0.85), ("85.5 percent.", 0.855),
    ("Confidence: 85%", 0.85), ("**85%**", 0.85),
    ("probability = 0.85", 0.85), ("0.85", 0.85), (".85", 0.85), ("1.0", 1), ("1", 0.01), ("0.5%", 0.005), ("0", 0),
    ("100%", 1), ("0%", 0),
    ("", None), ("about 85%", None), ("80-90%", None), ("80% to 90%", None), ("101%", None),
    ("-5%", None), ("1e-1", None),
    ("85% sure", None), ("I cannot say.", None), ("eighty", None), ("85%\nbecause", None), ("0,85", None), ("%", None),
    ("NaN", None), ("inf", None), ("200", None), ("8 5%", None), ("Answer: 85%", None),
])
def test_a_number_alone_is_a_confidence_and_all_else_a_refusal(text, value):
    assert read_confidence(text) == (value if value is None else pytest.approx(value))


def test_the_prompt_shows_question_options_and_answer_as_they_are():
    prompt = confidence_prompt(["Is {answer} right?"], ["{question}", "no"], 1)
    assert prompt == CONFIDENCE.replace("{answer}", "B. no").replace(
        "{question}", "Is {answer} right?\n\nA. {question}\nB. no")
    assert confidence_prompt(["a", "b"], (), "text") == CONFIDENCE.replace("{question}", "a\nb").replace(
        "{answer}", "text")
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=f"the answer {wrong} to .* is none of its 2 options"):
            confidence_prompt(["q"], ["yes", "no"], wrong)
