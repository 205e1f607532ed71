"""A made-up consortium for demonstrations: a bank, a credit bureau and a tax office that know the same enterprises.

Nothing here is real. The same seed gives the same files; the enterprises' identifiers are unified social credit codes
with correct check characters. Each party adds something to the prediction of default that the others do not see.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

ENTERPRISES = 6_400
PRESENCE = 0.935  # share of all enterprises that any one party knows, independently
BAD_INTERCEPT = -4.2

_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"  # GB 32100-2015: no I, O, S, V, Z
_ORGANISATION_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ORGANISATION_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)
_DISTRICTS = ("110105", "310115", "320505", "330106", "350203", "370202", "420111", "440305", "510107", "610113")
_INDUSTRIES = (13, 17, 26, 34, 39, 47, 51, 54, 62, 65)  # GB/T 4754 divisions
_INDUSTRY_SHARES = (0.12, 0.10, 0.08, 0.12, 0.09, 0.13, 0.18, 0.08, 0.05, 0.05)
_INDUSTRY_RISK = (-0.2, 0.1, -0.1, -0.5, -0.6, 0.7, 0.1, -0.1, 0.7, -0.6)
_PURPOSES = ("working capital", "equipment", "premises", "refinancing")
_PURPOSE_SHARES = (0.52, 0.22, 0.12, 0.14)
_PURPOSE_RISK = (0.0, -0.5, -0.4, 0.8)

RECIPE = """\
# Recipe of the demonstration. What is not named here has the default that `concordat recipe` prints.

# The three parties agree to show the whole scorecard to each other.
open = ["scorecard"]

[sample]
seed = {seed}

[binning]
# About 230 bads train this scorecard. With fine pre-bins and the default threshold of 3.84 (a chance split in 20) two
# dozen features would be cut where chance drew the line; 10.83 lets one chance split in 1,000 stand.
max_prebins = 8
chimerge_threshold = 10.83
max_bins = 5

[parties.bank]
categorical = ["industry_code"]
special = {{ collateral_cover = [-1] }}

[parties.bureau]
special = {{ months_since_late_trade_payment = [-1] }}

[parties.tax]
special = {{ invoice_growth = [-9] }}
"""


@dataclass(frozen=True)
class _Consortium:
    """Every enterprise, as nobody sees it: ids, label and the columns of each party."""

    ids: list[str]
    label: list[str]
    columns: dict[str, dict[str, list[str]]]


def write_demo(folder: Path, seed: int = 2024) -> None:
    """Write bank.csv (with the label y), bureau.csv, tax.csv and recipe.toml into `folder`; make it if need be."""
    rng = np.random.Generator(np.random.PCG64(seed))
    consortium = _draw(rng)
    folder.mkdir(parents=True, exist_ok=True)
    for party, columns in consortium.columns.items():
        known = np.flatnonzero(rng.random(ENTERPRISES) < PRESENCE)
        order = rng.permutation(known)
        header = ["id", *(["y"] if party == "bank" else []), *columns]
        rows = []
        for row in order.tolist():
            label = [consortium.label[row]] if party == "bank" else []
            rows.append([consortium.ids[row], *label, *(cells[row] for cells in columns.values())])
        _soil(rows, rng)
        with (folder / f"{party}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
    (folder / "recipe.toml").write_text(RECIPE.format(seed=seed), encoding="utf-8")


def credit_code(district: str, organisation: str) -> str:
    """The unified social credit code of an enterprise: '91', district, organisation code and both check characters.

    Args: organisation: the first eight characters of the organisation code (digits and capitals).
    Source: GB 11714-1997 (MOD 11) for the ninth character of the organisation code, GB 32100-2015 (MOD 31).

    >>> credit_code("350100", "M000100Y")
    '91350100M000100Y43'
    """
    values = [_ORGANISATION_ALPHABET.index(character) for character in organisation]
    check = (11 - sum(w * v for w, v in zip(_ORGANISATION_WEIGHTS, values, strict=True))) % 11
    code = f"91{district}{organisation}{'X' if check == 10 else check}"
    total = sum(3**place * _ALPHABET.index(character) for place, character in enumerate(code))
    return code + _ALPHABET[-total % 31]


def _draw(rng: np.random.Generator) -> _Consortium:
    """All enterprises. Four hidden traits drive the features; default depends on the traits and on some features.

    liquidity, discipline, business, honesty: standard normal, higher is safer; the bank sees mostly the first, the
    bureau the second, the tax office the last two.
    """
    n = ENTERPRISES
    liquidity, discipline, business, honesty = rng.standard_normal((4, n))
    industry = rng.choice(len(_INDUSTRIES), n, p=_INDUSTRY_SHARES)
    purpose = rng.choice(len(_PURPOSES), n, p=_PURPOSE_SHARES)
    age = np.clip(np.round(rng.gamma(2.2, 4.0, n), 1), 0.5, 45.0)
    risk = (
        BAD_INTERCEPT
        - 1.20 * liquidity
        - 1.20 * discipline
        - 0.90 * business
        - 0.90 * honesty
        + np.array(_INDUSTRY_RISK)[industry]
        + np.array(_PURPOSE_RISK)[purpose]
        - 0.45 * np.log(age / 6.0)
    )
    bad = rng.random(n) < 1.0 / (1.0 + np.exp(-risk))
    bank = _bank(rng, liquidity, discipline, business, age)
    bank["industry_code"] = [str(_INDUSTRIES[kind]) for kind in industry]
    bank["loan_purpose"] = [_PURPOSES[kind] for kind in purpose]
    columns = {
        "bank": bank,
        "bureau": _bureau(rng, liquidity, discipline),
        "tax": _tax(rng, business, honesty),
    }
    return _Consortium(_ids(rng, n), [str(int(value)) for value in bad], columns)


def _bank(
    rng: np.random.Generator, liquidity: FloatArray, discipline: FloatArray, business: FloatArray, age: FloatArray
) -> dict[str, list[str]]:
    n = len(liquidity)
    noise = rng.standard_normal((8, n))
    utilisation = 0.55 - 0.22 * liquidity + 0.15 * noise[0]
    balance = 60.0 * np.exp(0.60 * liquidity + 0.30 * business + 0.7 * noise[1])
    overdraft = rng.poisson(np.exp(-0.2 - 0.80 * liquidity + 0.4 * noise[2])) * (rng.random(n) < 0.7)
    late = rng.poisson(np.exp(-1.4 - 0.55 * discipline - 0.5 * liquidity))
    inflow = 0.05 + 0.09 * business + 0.07 * liquidity + 0.15 * noise[3]
    months = np.minimum(12.0 * age, rng.gamma(4.0, 30.0, n)) + 1.0
    cover = np.where(rng.random(n) < 0.38, -1.0, np.clip(1.25 + 0.25 * liquidity + 0.40 * noise[4], 0.1, 4.0))
    amount = 350.0 * np.exp(0.75 * noise[5])  # says nothing of risk
    return {
        "credit_line_utilisation": _cells(np.clip(utilisation, 0.0, 1.3), 3, rng.random(n) < 0.05),
        "average_balance_kcny": _cells(balance, 1),
        "overdraft_days_12m": _cells(np.minimum(overdraft * 3, 180), 0),
        "late_instalments_24m": _cells(late, 0),
        "cash_inflow_trend": _cells(inflow, 3, rng.random(n) < 0.08),
        "relationship_months": _cells(months, 0),
        "collateral_cover": _cells(cover, 2),
        "loan_amount_kcny": _cells(amount, 0),
    }


def _bureau(rng: np.random.Generator, liquidity: FloatArray, discipline: FloatArray) -> dict[str, list[str]]:
    n = len(discipline)
    noise = rng.standard_normal((6, n))
    overdue = rng.poisson(np.exp(-0.9 - 1.0 * discipline + 0.2 * noise[0]))
    ever = rng.random(n) < 1.0 / (1.0 + np.exp(0.3 + 0.8 * discipline))
    since = np.where(ever, 1.0 + np.floor(rng.gamma(1.6, 14.0, n) * np.exp(0.25 * discipline)), -1.0)
    enquiries = rng.poisson(np.exp(0.5 - 0.30 * liquidity - 0.25 * discipline + 0.4 * noise[1]))
    lenders = 1 + rng.poisson(np.exp(0.45 + 0.3 * noise[2]))  # says nothing of risk
    guarantees = np.maximum(0.0, 0.30 - 0.22 * discipline + 0.30 * noise[3])
    debt = 1.0 / (1.0 + np.exp(-0.2 + 0.35 * liquidity + 0.35 * discipline - 0.6 * noise[4]))
    leverage = debt / (1.02 - debt) * np.exp(0.15 * rng.standard_normal(n))  # nearly the same, told another way
    no_accounts = rng.random(n) < 0.06
    standing = -discipline + 0.6 * noise[5]
    status = np.select([standing > 1.9, standing > 1.1, standing > 0.2], [3, 2, 1], 0)
    names = ("clear", "watch", "special mention", "substandard")
    return {
        "overdue_count_24m": _cells(overdue, 0),
        "months_since_late_trade_payment": _cells(since, 0),
        "enquiries_6m": _cells(enquiries, 0),
        "lenders": _cells(lenders, 0),
        "guarantees_to_equity": _cells(guarantees, 3, rng.random(n) < 0.12),
        "debt_to_assets": _cells(debt, 3, no_accounts),
        "liabilities_to_equity": _cells(leverage, 2, no_accounts),
        "worst_classification": [names[kind] for kind in status],
    }


def _tax(rng: np.random.Generator, business: FloatArray, honesty: FloatArray) -> dict[str, list[str]]:
    n = len(business)
    noise = rng.standard_normal((4, n))
    paid = np.clip(0.034 + 0.009 * honesty + 0.004 * business + 0.008 * noise[0], 0.0, 0.13)
    growth = np.where(rng.random(n) < 0.07, -9.0, 0.06 + 0.17 * business + 0.14 * noise[1])
    active = np.clip(np.round(11.2 + 1.3 * business + 1.4 * noise[2]), 0, 12)
    late = rng.poisson(np.exp(-0.8 - 0.90 * honesty))
    customer = np.clip(rng.beta(2.0, 3.5, n) - 0.06 * business - 0.05 * honesty, 0.02, 0.99)
    standing = honesty + 0.35 * business + 0.7 * noise[3]
    grade = np.select([standing > 1.1, standing > 0.0, standing > -0.9, standing > -1.8], [0, 1, 2, 3], 4)
    return {
        "tax_paid_to_turnover": _cells(paid, 4, rng.random(n) < 0.04),
        "invoice_growth": _cells(growth, 3),
        "months_with_invoices": _cells(active, 0),
        "late_filings_24m": _cells(late, 0),
        "top_customer_share": _cells(customer, 3, rng.random(n) < 0.10),
        "taxpayer_grade": ["ABMCD"[kind] for kind in grade],
    }


def _cells(values: npt.NDArray[np.generic], decimals: int, missing: npt.NDArray[np.bool_] | None = None) -> list[str]:
    """Values as they stand in a file, -1 and -9 without decimals; missing ones empty."""
    cells = [f"{value:.{decimals}f}" if value not in (-1, -9) else f"{value:.0f}" for value in values.tolist()]
    if missing is None:
        return cells
    return ["" if gone else cell for cell, gone in zip(cells, missing.tolist(), strict=True)]


def _ids(rng: np.random.Generator, n: int) -> list[str]:
    """Distinct unified social credit codes."""
    codes: dict[str, None] = {}
    while len(codes) < n:
        district = _DISTRICTS[int(rng.integers(len(_DISTRICTS)))]
        organisation = "MA" + "".join(_ALPHABET[digit] for digit in rng.integers(0, len(_ALPHABET), 6).tolist())
        codes[credit_code(district, organisation)] = None
    return list(codes)


def _soil(rows: list[list[str]], rng: np.random.Generator) -> None:
    """What real exports look like: some ids in small letters or with blanks around, one line twice."""
    for row in rng.choice(len(rows), 12, replace=False).tolist():
        rows[row][0] = rows[row][0].lower() if row % 2 else f" {rows[row][0]} "
    rows.append(list(rows[int(rng.integers(len(rows)))]))
