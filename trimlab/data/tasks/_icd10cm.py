"""What tasks on ICD-10-CM share: the classification, its diagnoses, and an order without chance.

Source: the tabular list of ICD-10-CM (public domain; April 2026 in version 1.5.0) in the PyPI
package `simple-icd-10-cm` (MIT).
"""

import hashlib
import re
from types import ModuleType

from trimlab.errors import InputError

DIAGNOSIS_LETTERS = 80
# words of residual categories and diagnoses ("Other ...", "..., unspecified")
REST = r"other|unspecified|elsewhere|specified|certain|ill-defined|multiple|nos|nec"
NOT_A_NAME = re.compile(rf"\b({REST}|codes?|coded|category|sequela|ruled)\b|:", re.IGNORECASE)


def diagnoses(code: str) -> list[str]:
    """The diagnoses that a category covers: inclusion terms, and titles of its subcategories."""
    icd = classification()
    terms = [*icd.get_includes(code), *icd.get_inclusion_term(code)]
    for child in icd.get_descendants(code):
        # the seventh character is only the encounter
        if not icd.is_extended_subcategory(child):
            terms += [icd.get_description(child), *icd.get_inclusion_term(child)]
    names = (re.sub(r"\s*(\[[^]]*\]|\([^)]*\)|,? \bNOS\b)", "", term) for term in terms)
    return list(
        dict.fromkeys(
            capital(" ".join(name.split()))
            for name in names
            if 4 <= len(name) <= DIAGNOSIS_LETTERS and not NOT_A_NAME.search(name)
        )
    )


def capital(text: str) -> str:
    """A text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def rank(*parts: str) -> str:
    """A hash that decides every order and choice here, the same on every machine."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def classification() -> ModuleType:
    """The package that holds the classification.

    Raises:
        InputError: It is not installed.
    """
    try:
        import simple_icd_10_cm
    except ImportError:
        raise InputError(
            "this task needs the package simple-icd-10-cm: pip install 'trimlab[embedded]'"
        ) from None
    return simple_icd_10_cm
