from pathlib import Path

from sonobench.encoders.document import document


def test_the_document_of_encoders_is_that_of_their_cards() -> None:
    written = Path(__file__).parents[2] / "docs" / "encoders.md"
    assert written.read_text(encoding="utf-8") == document(), (
        "run: python -m sonobench.encoders.document > docs/encoders.md"
    )


def test_a_dataset_that_nobody_says_anything_of_is_unknown_and_not_clean() -> None:
    usfm = document().split("## usfm")[1].split("\n## ")[0]
    assert "trained on `fetal_planes_db`: **unknown**" in usfm
