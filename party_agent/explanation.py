"""A contract in plain words, from one institution's side: what it will disclose and receive, and the bounds."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from protocols.contract import MOMENTS, SCORE, TRAIN, Contract, JobDocument, JobKind
from protocols.recipe import Recipe
from protocols.roles import COORDINATOR, Parties


@dataclass(frozen=True)
class Explanation:
    """Sentences under four headings, for a lawyer as much as for an engineer."""

    agreement: tuple[str, ...]
    discloses: tuple[str, ...]
    receives: tuple[str, ...]
    bounds: tuple[str, ...]

    def parts(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Each heading with its sentences."""
        return (
            ("What is agreed", self.agreement),
            ("What this institution discloses", self.discloses),
            ("What this institution receives", self.receives),
            ("Bounds that this agent enforces", self.bounds),
        )

    def text(self) -> str:
        """The whole as plain text."""
        parts = self.parts()
        return "\n\n".join(f"{heading}\n" + "\n".join(f"  - {line}" for line in lines) for heading, lines in parts)


def explain(contract: Contract, me: str) -> Explanation:
    """Explain `contract` to its member `me`.

    Raises: ContractViolationError: NOT_A_MEMBER.
    """
    contract.member(me)
    parties = contract.parties
    disclosed, received = (
        _as_owner(contract, parties) if me == parties.label_owner else _as_provider(contract, parties, me)
    )
    return Explanation(_agreement(contract, me), tuple(disclosed), tuple(received), _bounds(contract))


def explain_job(document: JobDocument, recipe: Recipe, parties: Parties) -> tuple[str, ...]:
    """What a job asks for, in sentences. recipe: the document's."""
    return _scoring(document, recipe, parties) if document.kind is JobKind.SCORE else _training(recipe, parties)


def _scoring(document: JobDocument, recipe: Recipe, parties: Parties) -> tuple[str, ...]:
    owner = parties.label_owner
    partial = f" and the partial points of {parties.co_holder}" if len(parties.providers) == 1 else ""
    return (
        f"{owner} asks for scores by the model that {document.model} made; each party uses its own part of it.",
        f"Of which ids is {owner}'s own matter: no document says it, and one id is enough. Each provider learns which "
        "of its own ids are among them, if all parties hold them.",
        f"{owner} learns the score of each of them{partial}.",
        "Nothing is trained, no label is used, and nothing is opened to all parties.",
        *_by_dimension(recipe, owner),
    )


def _by_dimension(recipe: Recipe, owner: str) -> tuple[str, ...]:
    sentence = f"{owner} learns the points of every provider by dimension, for each of the rows."
    return (sentence,) if "dimensions" in recipe.open else ()


def _training(recipe: Recipe, parties: Parties) -> tuple[str, ...]:
    bins, model, card = recipe.binning, recipe.model, recipe.scorecard
    share = f"{recipe.sample.training_share:.0%} of the common rows train the scorecard, the rest judge it."
    opened = (
        "The parts of the scorecard are opened to every party."
        if "scorecard" in recipe.open
        else "Nothing is opened to all parties beyond the shared report."
    )
    errors = (
        (
            "Standard errors: exact sums over the training rows, weighted by the fit, of products of the model's "
            "features open to the label owner, once for each feature under the contract; it tells each party its own.",
        )
        if recipe.inference.standard_errors
        else ()
    )
    cuts = recipe.selection
    limits = [("correlation", cuts.maximum_cross_correlation), ("variance inflation", cuts.maximum_vif)]
    across = (
        (
            f"Screening across parties ({', '.join(f'{name} up to {most:g}' for name, most in limits if most)}): exact "
            "sums over the training rows of products of all features that pass open to the label owner, once for each "
            "feature under the contract. It tells each provider which of its own features stay, and their variance "
            "inflation factors.",
        )
        if recipe.screens_across
        else ()
    )
    model = recipe.model
    chosen = (
        (
            f"Selection of features, {model.direction}, by {model.criterion.upper()}, with {model.most_refits + 1} "
            "further fits at most: the logits of the fit of all features (each part rounded to 0.25) and exact "
            "weighted sums of products of all features open to the label owner, once under the contract, and the log-"
            "likelihood of each fit. Each provider learns which of its own features a fit leaves out.",
        )
        if model.search != "none"
        else ()
    )
    if model.sign_constraint:
        chosen = (
            "Features whose coefficient has the wrong sign are left out: the label owner learns which, under aliases.",
        )
    reviewed = (
        (
            f"Before training the job waits up to {bins.review_minutes} minutes while each party may bin features of "
            f"its own anew, {bins.review_changes} times at most: each new version shows the label owner its counts, "
            "and its owner the label counts of its bins, within the same bound.",
        )
        if bins.review_minutes
        else ()
    )
    weighed = (
        (
            f"Rows count by sample weights of {parties.label_owner}, which no provider learns: the co-holder gets them "
            "under a mask, every provider by what power of two they multiply the curvature of the fit. A provider's "
            "feature costs the label budget twice what it does without weights.",
        )
        if model.weighted
        else ()
    )
    folds = recipe.validation.folds
    judged = (
        (
            f"Cross-validation: {folds} random parts of the training rows, {max(len(recipe.validation.penalties), 1)} "
            "penalties, so many fits of each and one more. Each provider learns label sums of its features for each "
            "part, which count as label counts do; the co-holder also which row is in which part; the label owner the "
            "log-likelihood of each fit.",
        )
        if folds
        else ()
    )
    most = "what the contract allows" if model.max_iterations is None else str(model.max_iterations)
    return (
        f"Keys of {recipe.keys.bits} bits; at least {recipe.contract.minimum_intersection:,} ids in common.",
        share,
        f"At most {bins.max_bins} bins a feature, of at least {bins.floor_rows} rows and {bins.floor_share:.2%} of the "
        f"training rows, with {bins.min_goods} goods and {bins.min_bads} bads or more.",
        f"Exact label counts use at most {recipe.selection.label_budget_share:.4g} of what the labels hold (n h(p)).",
        *reviewed,
        f"Features of an information value below {recipe.selection.minimum_iv:g} are dropped.",
        *across,
        f"A logistic regression with L2 penalty {model.l2:g}; gradients: at most {most}.",
        *weighed,
        *chosen,
        *judged,
        *errors,
        f"Points: {card.base_score:g} at odds of {card.base_odds:g} to 1, {card.pdo:g} more double them; grades "
        f"{', '.join(card.grades)}.",
        opened,
        *_by_dimension(recipe, parties.label_owner),
    )


def _agreement(contract: Contract, me: str) -> tuple[str, ...]:
    parties = contract.parties
    lines = [
        f"Purpose: {contract.purpose}",
        f"{parties.label_owner} owns the label; {_and(parties.providers)} bring features; "
        f"{parties.co_holder} also holds one of the two shares of the residual.",
        f"The coordinator delivers messages and deals random numbers. Its operator must not collude with "
        f"{parties.label_owner} or {parties.co_holder}: together they would learn every other party's partial scores.",
        f"In force from {_day(contract.valid_from)} until {_day(contract.valid_until)}; version {contract.version}.",
        "Any party can suspend or revoke it at once, alone.",
    ]
    own = contract.dataset(me)
    if own is not None:
        label = f", the label '{own.label_column}'" if own.label_column else ""
        lines.append(
            f"This institution brings '{own.name}': ids '{own.id_column}'{label}, {len(own.features)} features."
        )
    return tuple(lines)


def _as_owner(contract: Contract, parties: Parties) -> tuple[list[str], list[str]]:
    disclosed = [
        "To each provider: how many ids this institution brings, and which of the provider's ids all parties hold.",
    ]
    received = [
        "Of each provider: how many ids it brings, and which of this institution's ids it holds.",
    ]
    if TRAIN in contract.algorithms:
        disclosed += [
            "To each provider: the number of bads in the training sample and, for each of its features that passes, "
            "WOE and IV. These are exact label counts per bin: no encryption changes that.",
            "To each provider: the shared report (metrics, curves, grades), and the sums that steer the fit.",
        ]
        received += [
            "Of each provider, under aliases: rows per bin; together with its own labels, bads per bin.",
            "Its own coefficients, its own gradient in each iteration, and the score of each common row.",
        ]
    if MOMENTS in contract.algorithms:
        received.append(
            "Once for each model feature and use (screening, a search, the model), under aliases: exact sums over the "
            "training rows of its products with every model feature, whoever's it is: correlations, standard errors, "
            "and so the coefficients of all parties."
        )
    if SCORE in contract.algorithms:
        one = len(parties.providers) == 1
        disclosed.append("To each provider, in a scoring job: which of its ids scores are asked for.")
        received.append(
            f"The score of each id it asks for{f', and so the partial points of {parties.co_holder}' if one else ''}."
        )
    _add_outputs(contract, disclosed, received)
    if "dimensions" in contract.outputs:
        received.append(
            "Of each provider, if a job says so: names of its dimensions, and the points of each row in each of them."
        )
    return disclosed, received


def _as_provider(contract: Contract, parties: Parties, me: str) -> tuple[list[str], list[str]]:
    owner = parties.label_owner
    disclosed = [f"To {owner}: how many ids this institution brings, and which of {owner}'s ids are among them."]
    received = [f"How many ids {owner} brings, and which of this institution's ids all parties hold."]
    if TRAIN in contract.algorithms:
        disclosed.append(
            f"To {owner}, under aliases: for each feature the rows per bin and their order; no name, edge or value."
        )
        received += [
            "The number of bads in the training sample; for each own feature that passes, WOE and IV; of the others "
            "only that they were dropped.",
            "Its own coefficients and points, its own gradient in each iteration, and the shared report.",
        ]
    if MOMENTS in contract.algorithms:
        disclosed.append(
            f"To {owner}, once for each model feature and use (screening, a search, the model), under aliases: exact "
            "sums over the training rows of its products with every model feature. "
            f"If {owner} deviated it could read a few rows' values of each feature "
            "from them: that is forbidden by this contract."
        )
    if SCORE in contract.algorithms:
        alone = len(parties.providers) == 1
        disclosed.append(
            f"To {owner}: the partial points of each common row, and in a scoring job of each id that {owner} asks for "
            f"and all parties hold{'' if alone else ': only as part of the sum over all'}."
        )
        received.append(f"In a scoring job: of which of its own ids {owner} asks for scores, if all parties hold them.")
    _add_outputs(contract, disclosed, received)
    if "dimensions" in contract.outputs:
        disclosed.append(
            f"To {owner}, if a job says so: the names of its dimensions, and the points of each row in each of them. A "
            "dimension of one feature tells in which of its bins a row is, up to bins of equal points."
        )
    if me != parties.co_holder:
        received.append(f"Nothing of what {owner} and {parties.co_holder} could only learn together.")
    return disclosed, received


def _add_outputs(contract: Contract, disclosed: list[str], received: list[str]) -> None:
    if "scorecard" in contract.outputs:
        disclosed.append(
            "To every party: its part of the scorecard: names of the model's features, bins (edges rounded to 3 "
            "digits), WOE and points."
        )
        received.append("The same part of every other party.")


def _bounds(contract: Contract) -> tuple[str, ...]:
    caps = contract.caps
    return (
        f"At least {caps.minimum_intersection:,} ids in common to train, one to score; at most "
        f"{caps.maximum_set_size:,} ids a party.",
        f"Keys of at least {caps.minimum_key_bits} bits; bins of at least {caps.bin_floor} rows.",
        f"Exact label counts use at most {caps.label_budget_numerator}/{caps.label_budget_denominator} of what the "
        "labels hold (n h(p)). A provider that engineered its bins against its own agent's check could buy so many "
        "chosen labels: that is forbidden by this contract.",
        f"At most {caps.opened_numbers:,} numbers open to a party in one job, {caps.gradients} gradients among them.",
        f"At most {caps.runs} jobs, and {caps.aborts} that end in a failed check.",
        f"Allowed: {', '.join(contract.algorithms)}. Nothing else runs, whoever asks, the {COORDINATOR} included.",
    )


def _day(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d")


def _and(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
