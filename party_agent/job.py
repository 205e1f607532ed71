"""The main job of a party, one line a stage: align -> encrypt -> bin -> train -> scorecard -> validate -> statement.

A recipe may add three: review and screen, before train, and inference, after the scorecard.

Each stage plays this party's role of a protocol over the relay and leaves a frozen artefact. What a stage is allowed to
disclose is decided before it starts, by this agent's own copy of the contract.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np

from party_agent import artefacts, baseline, inference, job_report, lineage, model, report, report_page
from party_agent.across_parties import (
    NOT_OPENED_FINDING,
    SCREEN,
    CorrelationsOnDisk,
    Screened,
    screened_from,
    screened_to,
    screening,
)
from party_agent.dataset import Finding, Table
from party_agent.estimation import (
    SEARCH,
    Fitted,
    Searched,
    director_of,
    fitted_from,
    fitted_of,
    fitted_to,
    open_for_search,
    sequence_rules,
)
from party_agent.judgement import Judged, judge, scores_without
from party_agent.model import CANDIDATES_FILE, OwnModel
from party_agent.opened_moments import OPENED_MOMENTS, FileOpenedMoments
from party_agent.reasons import dimension_points, dimensions_of, explain, opened_dimensions
from party_agent.review import REVIEW, Review, Reviewed, allowed_methods, reviewed_from, reviewed_to
from party_agent.row_account import FileRowAccount, Purse
from party_agent.sample_weights import check_weights, weights_summary
from party_agent.scorecard import GradeTable, PointsTable, Scaling
from party_agent.screening import PreBinned, findings_of_gate, left_out_features, screen, screening_of
from party_agent.stages import AlignedTable, Reader, Seat, Stages
from party_agent.validation import Validation, check_classes, feature_stability, validate
from protocols.binning.label_owner import INFEASIBLE
from protocols.binning.label_owner import LabelOwner as Gate
from protocols.binning.messages import REVIEW_STEPS
from protocols.binning.messages import STEPS as BIN_STEPS
from protocols.binning.provider import FeatureProvider
from protocols.binning.rules import Method
from protocols.binning.table import BinningTable
from protocols.errors import LocalProtocolError
from protocols.fixed_point import FloatArray, IntArray
from protocols.logistic.messages import SEARCH_STEPS
from protocols.logistic.messages import STEPS as TRAIN_STEPS
from protocols.logistic.party import Coefficients, FitRules, Spent, TrainingParty
from protocols.logistic.plan import SequenceRules
from protocols.logistic.weights import SampleWeights
from protocols.moments.messages import FIT_STEPS, INFLATION_STEPS, SCREEN_STEPS
from protocols.moments.of_fit import MomentsOfFit
from protocols.moments.permission import MomentPermission
from protocols.moments.screening import features_of
from protocols.rows.encryption import RowEncryption, RowMasks
from protocols.rows.messages import STEPS as ROW_STEPS
from protocols.scoring.label_owner import ScoringOwner, Totals
from protocols.scoring.messages import LOGIT_UNITS, VALIDATE_STEPS, OpenScorecard, SharedReport
from protocols.scoring.provider import ScoringProvider
from protocols.session import Progress, Script, receive, receive_each, send
from protocols.statement import Statement

INFERENCE = "inference"
STEPWISE, SIGN = "stepwise", "sign"  # why a selection among fits left a feature out


class TrainingJob(Stages):
    """A joint scorecard, from this party's side."""

    def __init__(self, seat: Seat, reader: Reader) -> None:
        super().__init__(seat)
        self._reader = reader
        self._findings: tuple[Finding, ...] = ()
        self._held: tuple[Finding, ...] = ()  # of features of all parties, for the own report alone
        self._review_findings: tuple[Finding, ...] = ()
        self._judgement: dict[str, Any] | None = None
        self._inference: dict[str, Any] | None = None
        self._weights: SampleWeights | None = None
        self._scaling = Scaling(
            self._recipe.scorecard.pdo, self._recipe.scorecard.base_score, self._recipe.scorecard.base_odds
        )

    def run(self) -> None:
        """The job, one line a stage."""
        table = self.read()
        self.resume(self.resumable)
        aligned = self.align(
            table,
            training_share=self._recipe.sample.training_share,
            minimum=self._recipe.contract.minimum_intersection,
        )
        if aligned.table.label is not None:
            check_classes(aligned.table.label, aligned.is_training, aligned.table.late)
        self._weights = self.weigh(aligned)
        prebinned = self.prebin(aligned)
        rows = self.encrypt(aligned, prebinned)
        bins = self.bin(aligned, prebinned, rows)
        if self._recipe.binning.review_minutes:
            reviewed = self.review(aligned, prebinned, bins, rows)
            bins, prebinned = reviewed.table, reviewed.changes(prebinned, self._recipe)
        offered = bins
        screened = self.screen_across(aligned, bins, rows) if self._recipe.screens_across else None
        if screened is not None:
            bins = screened.table(self._seat.name, bins)
        fitted = self.train(aligned, bins, rows)
        if screened is not None or (fitted.record is not None and fitted.record["path"] is not None):
            self._write_candidates(offered)
        why = SIGN if self._recipe.model.sign_constraint else STEPWISE
        bins = bins.without(
            self._seat.name, {party: dict.fromkeys(aliases, why) for party, aliases in fitted.dropped.items()}
        )
        own = self.scorecard(bins, fitted.coefficients)
        if self._recipe.inference.standard_errors or (screened is not None and screened.opened):
            self.infer(aligned, bins, rows, own, fitted.l2, screened)
        document = self.validate(aligned, bins, fitted, own)
        statement = self.state()
        self.report(aligned, prebinned, bins, fitted, own, document, statement)
        self._checkpoints.clear()

    @property
    def resumable(self) -> tuple[str, ...]:
        """Stages of this recipe that are not repeated, in order."""
        screens, errors = self._recipe.screens_across, self._recipe.inference.standard_errors
        reviews = self._recipe.binning.review_minutes > 0
        before = ("align", "encrypt", "bin", *([REVIEW] if reviews else []), *([SCREEN] if screens else []), "train")
        return (*before, *([INFERENCE] if errors or screens else []))

    def read(self) -> Table:
        """Own rows."""
        self._seat.on_stage("read", Progress("started", 0, 0))
        table, self._findings = self._reader(self._recipe)
        if self.leads:
            self._findings += check_weights(table, self._recipe)
        lineage.write(self._seat.home, self._seat.folder, table)
        self._seat.log.write("data read", rows=len(table.ids), features=len(table.columns))
        return table

    def weigh(self, aligned: AlignedTable) -> SampleWeights | None:
        """Sample weights of the training rows, at the label owner."""
        weights = aligned.training.weights
        return SampleWeights.of(weights) if self._recipe.model.weighted and weights is not None else None

    def prebin(self, aligned: AlignedTable) -> PreBinned:
        """Own pre-bins on the training rows, of the columns that pass the screening."""
        prebinned = screen(aligned.training, aligned.test, self._recipe, self._seat.name)
        for rule in prebinned.rules:
            if rule.method != Method.SPLITS:
                self._contract.check_binning(rule.method)
        self._findings += prebinned.findings
        return prebinned

    def encrypt(self, aligned: AlignedTable, prebinned: PreBinned) -> RowMasks:
        """One ciphertext a row from each share holder."""
        training = aligned.training
        script = RowEncryption(
            self._seat.name,
            self._parties,
            rows=len(training.ids),
            features=len(prebinned.binnings),
            key_bits=self._recipe.keys.bits,
            context=self._seat.agreement.context,
            entropy=self._seat.entropy,
            label=training.label,
            weighted=self._recipe.model.weighted,
        ).play()
        return self.once(
            "encrypt",
            lambda: self.play("encrypt", ROW_STEPS, script, rows=len(training.ids)),
            artefacts.rows_to,
            artefacts.rows_from,
        )

    def bin(self, aligned: AlignedTable, prebinned: PreBinned, rows: RowMasks) -> BinningTable:
        """Counts under encryption, the gate, the selection."""
        training = aligned.training
        if training.label is not None:
            script = Gate(
                self._parties,
                codes=prebinned.codes,
                binnings=prebinned.binnings,
                label=training.label,
                rows=rows,
                recipe=self._recipe,
                rules=prebinned.rules,
                methods=allowed_methods(self._contract.binnings),
                account=self._account(Purse.LABELS, training),
            ).play()
        else:
            script = FeatureProvider(
                self._seat.name,
                self._parties,
                codes=prebinned.codes,
                binnings=prebinned.binnings,
                rows=rows,
                recipe=self._recipe,
                entropy=self._seat.entropy,
                rules=prebinned.rules,
            ).play()
        return self.once(
            "bin",
            lambda: self.play("bin", BIN_STEPS, script, rows=len(training.ids)),
            artefacts.table_to,
            artefacts.table_from,
        )

    def review(self, aligned: AlignedTable, prebinned: PreBinned, bins: BinningTable, rows: RowMasks) -> Reviewed:
        """Bins as the parties' modellers change and accept them."""
        training = aligned.training
        script = Review(
            self._seat,
            training,
            prebinned,
            bins,
            rows,
            self.ledger,
            self._checkpoints,
            self._account(Purse.LABELS, training),
        ).play()
        reviewed = self.once(
            REVIEW, lambda: self.play(REVIEW, REVIEW_STEPS, script, rows=bins.rows), reviewed_to, reviewed_from
        )
        self._review_findings = reviewed.findings
        return reviewed

    def _account(self, purse: Purse, training: Table) -> FileRowAccount:
        job = self._seat.agreement.job
        return FileRowAccount(self._seat.home, purse, f"{job.job}-{job.attempt}", training.ids)

    def _row_sets(self, training: Table, sequence: SequenceRules | None) -> FileRowAccount:
        """All rows are one set in whatever job; folds are drawn anew in every attempt."""
        if sequence is not None and sequence.folds:
            return self._account(Purse.ROW_SETS, training)
        return FileRowAccount(self._seat.home, Purse.ROW_SETS, "rows", training.ids)

    def screen_across(self, aligned: AlignedTable, bins: BinningTable, rows: RowMasks) -> Screened:
        """Which features stay by correlation and VIF over all parties."""
        part = self._moments_of_fit(SCREEN, aligned, bins, rows)
        known = CorrelationsOnDisk(self._checkpoints, bins)
        screened = self.once(
            SCREEN,
            lambda: self.play(SCREEN, SCREEN_STEPS, screening(part, self._recipe, known), rows=bins.rows),
            screened_to,
            screened_from,
        )
        self._held = screened.findings()
        if not screened.opened:
            self._findings += (NOT_OPENED_FINDING,)
        return screened

    def train(self, aligned: AlignedTable, bins: BinningTable, rows: RowMasks) -> Fitted:
        """The joint fit, or fits."""
        sequence = sequence_rules(self._recipe)

        def fit() -> Fitted:
            script = self._training_party(aligned, bins, rows, sequence).play_sequence()
            steps = TRAIN_STEPS if self._recipe.model.search == "none" else SEARCH_STEPS
            played = self.play("train", steps, script, rows=bins.rows)
            return fitted_of(self._seat.name, played, sequence, self._recipe, bins)

        return self.once("train", fit, fitted_to, fitted_from)

    def _training_party(
        self, aligned: AlignedTable, bins: BinningTable, rows: RowMasks, sequence: SequenceRules | None
    ) -> TrainingParty:
        rules, point = self._recipe.model, self._resume_point
        cap = self._contract.caps.gradients
        most = cap if rules.max_iterations is None else min(rules.max_iterations, cap)
        labels = self._account(Purse.LABELS, aligned.training)
        searched = Searched(self._checkpoints, bins)
        part = self._moments_of_fit(SEARCH, aligned, bins, rows)
        return TrainingParty(
            self._seat.name,
            self._parties,
            table=bins,
            rows=rows,
            rules=FitRules(rules.l2, rules.tolerance, most, sequence),
            entropy=self._seat.entropy,
            spent=self.spent,
            label=aligned.training.label,
            weights=self._weights,
            before=Spent(point.columns, point.gradients) if point else None,
            account=self._account(Purse.GRADIENTS, aligned.training),
            row_sets=self._row_sets(aligned.training, sequence),
            director=director_of(sequence, self._recipe, bins, self._parties, labels, searched) if self.leads else None,
            after_fit=None if self._recipe.model.search == "none" else open_for_search(part, searched),
        )

    def _write_candidates(self, bins: BinningTable) -> None:
        """The bins of all own features that screening and selection chose from, beside the model of the others."""
        names = [feature.name for feature in bins.features]
        points = PointsTable.of(self._seat.name, bins.features, np.zeros(len(names)), self._scaling)
        candidates = OwnModel(
            job=self._seat.agreement.job.job,
            contract=self._contract.hash().hex(),
            features=bins.features,
            weights=(0.0,) * len(names),
            intercept=None,
            points=points,
            gradients=0,
            norm=0.0,
            dimensions=dimensions_of(names, self._recipe.columns_of(self._seat.name), self._seat.name),
        )
        model.write(self._seat.folder, candidates, CANDIDATES_FILE)

    def scorecard(self, bins: BinningTable, coefficients: Coefficients) -> OwnModel:
        """Own part of the scorecard, written to the own folder."""
        points = PointsTable.of(
            self._seat.name, bins.features, coefficients.weights, self._scaling, coefficients.intercept
        )
        own = OwnModel(
            job=self._seat.agreement.job.job,
            contract=self._contract.hash().hex(),
            features=bins.features,
            weights=tuple(coefficients.weights.tolist()),
            intercept=coefficients.intercept,
            points=points,
            gradients=coefficients.gradients,
            norm=coefficients.norm,
            dimensions=dimensions_of(
                [feature.name for feature in bins.features], self._recipe.columns_of(self._seat.name), self._seat.name
            ),
        )
        model.write(self._seat.folder, own)
        return own

    def infer(
        self,
        aligned: AlignedTable,
        bins: BinningTable,
        rows: RowMasks,
        own: OwnModel,
        l2: float,
        screened: Screened | None,
    ) -> None:
        """Standard errors of own coefficients, and VIF of own features."""
        asked = self._recipe.inference.standard_errors
        factors = None
        if screened is not None and self.leads:
            factors = screened.inflation([feature.alias for feature in features_of(bins, self._parties)])
        wanted = inference.Wanted(asked, screened is not None and screened.opened, factors)
        logits = np.rint(LOGIT_UNITS * own.logits(own.codes(aligned.training))).astype(np.int64)
        part = self._moments_of_fit(INFERENCE, aligned, bins, rows)
        found = self.once(
            INFERENCE,
            lambda: self.play(
                INFERENCE,
                FIT_STEPS if asked else INFLATION_STEPS,
                inference.own_errors(part, logits, l2, wanted),
                rows=bins.rows,
            ),
            inference.errors_to,
            inference.errors_from,
        )
        aliases = {party: [feature.alias for feature in features] for party, features in bins.peers.items()}
        shown = "scorecard" in self._recipe.open
        self._inference = inference.table_of(found, own, aliases, l2, asked=asked, shown=shown)

    def _moments_of_fit(self, request: str, aligned: AlignedTable, bins: BinningTable, rows: RowMasks) -> MomentsOfFit:
        return MomentsOfFit(
            self._seat.name,
            self._parties,
            request,
            bins,
            rows,
            MomentPermission(
                self._contract,
                FileOpenedMoments(self._seat.home.path / OPENED_MOMENTS),
                search=self._recipe.model.search != "none" and request != INFERENCE,
            ),
            self._seat.agreement.context + request.encode(),
            self._seat.entropy,
            self.spent,
            aligned.training.label,
            sample_weights=None if self._weights is None else self._weights.values,
        )

    def validate(self, aligned: AlignedTable, bins: BinningTable, fitted: Fitted, own: OwnModel) -> dict[str, Any]:
        """Scores and logits of all aligned rows at the label owner; the shared report to everyone."""
        codes = own.codes(aligned.table)
        points = own.points.partial_points(codes)
        lineage.write_partial_scores(self._seat.folder, points, aligned.is_training)
        logits = np.rint(LOGIT_UNITS * own.logits(codes)).astype(np.int64)
        script = (
            self._lead_validation(aligned, bins, fitted, own, points, logits)
            if self.leads
            else self._follow_validation(own, codes, points, logits)
        )
        return self.play("validate", VALIDATE_STEPS, script, rows=len(aligned.table.ids))

    def _lead_validation(
        self,
        aligned: AlignedTable,
        bins: BinningTable,
        fitted: Fitted,
        own: OwnModel,
        points: IntArray,
        logits: IntArray,
    ) -> Script[dict[str, Any]]:
        totals = yield from ScoringOwner(
            self._parties,
            request=self._seat.agreement.job.job,
            points=points,
            logits=logits,
            dimensions="dimensions" in self._recipe.open,
        ).play()
        opened: dict[str, OpenScorecard] = {}
        if "scorecard" in self._recipe.open:
            opened = yield from receive_each(self._parties.providers, OpenScorecard)
        document = self._shared(aligned, bins, fitted, own, totals, opened)
        yield from send(self._parties.providers, SharedReport(json.dumps(document, allow_nan=False).encode()))
        return document

    def _follow_validation(
        self, own: OwnModel, codes: IntArray, points: IntArray, logits: IntArray
    ) -> Script[dict[str, Any]]:
        yield from ScoringProvider(
            self._seat.name,
            self._parties,
            request=self._seat.agreement.job.job,
            points=points,
            logits=logits,
            entropy=self._seat.entropy,
            spent=self.spent,
            dimensions=opened_dimensions(own, codes, self._recipe),
        ).play()
        if "scorecard" in self._recipe.open:
            yield from send(self._parties.label_owner, job_report.open_part(own))
        message = yield from receive(self._parties.label_owner, SharedReport)
        return message.parsed()

    def _shared(
        self,
        aligned: AlignedTable,
        bins: BinningTable,
        fitted: Fitted,
        own: OwnModel,
        totals: Totals,
        opened: dict[str, OpenScorecard],
    ) -> dict[str, Any]:
        label = aligned.table.label
        if label is None or totals.logits is None:
            raise LocalProtocolError("ROLE_INVALID", "only the label owner validates")
        training, others = aligned.is_training, aligned.others()
        rules = self._recipe.scorecard
        grades = (
            GradeTable(rules.grades, rules.cut_scores)
            if rules.cut_scores is not None
            else GradeTable.of_training_scores(totals.points[training], rules.grades, rules.cut_quantiles)
        )
        logits = totals.logits / LOGIT_UNITS
        validation = validate(label, logits, totals.points, training, grades, aligned.table.late)
        codes = own.codes(aligned.table)
        self._judgement = self._judge(validation, aligned, totals, logits, own, codes, grades)
        self._seat.folder.write_json("grades.json", grades.to_json())
        samples = np.full(len(label), "train", dtype="<U11")
        for name, rows in others.items():
            samples[rows] = name
        explained = explain(own, codes, totals.dimensions, rules)
        model.write_scores(
            self._seat.folder, aligned.table.ids, totals.points, logits, samples, explained.header, explained.cells()
        )
        joint = self.seconds["encrypt"] + self.seconds["bin"] + self.seconds["train"]
        sequence = fitted.record or {}
        document = report.shared_report(
            job=self._seat.agreement.job.job,
            finished=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            parties=self._parties,
            alignment=report.AlignmentSummary(
                len(label), self._recipe.alignment.engine, self.seconds["align"], dict(aligned.alignment.set_sizes)
            ),
            training=report.TrainingSummary(
                n=bins.rows,
                iterations=sequence.get("gradients", own.gradients),
                seconds=joint,
                passes=sequence.get("passes", fitted.coefficients.passes),
                gradient_budget=fitted.coefficients.budget,
                label_budget=int(bins.label_budget),
                label_budget_spent=bins.label_cost,
                fits=sequence.get("fits", 1),
                within_budget=sequence.get("within_budget", True),
            ),
            validation=validation,
            key_bits=self._recipe.keys.bits,
            statement=(),
            features=job_report.feature_lines(self._seat.name, bins),
            grades=grades,
            scaling=self._scaling,
            recipe=json.loads(self._seat.agreement.job.recipe),
            versions=report.versions(),
            findings={self._seat.name: self._findings},
            baseline=baseline.own_columns(bins, aligned.table, training, others["test"], fitted.l2, self._weights),
            scorecard=job_report.joint_scorecard(self._seat.name, own, opened) if opened else None,
        )
        return document

    def _judge(
        self,
        validation: Validation,
        aligned: AlignedTable,
        totals: Totals,
        logits: FloatArray,
        own: OwnModel,
        codes: IntArray,
        grades: GradeTable,
    ) -> dict[str, Any]:
        """The label owner's own tables."""
        table, test = aligned.table, aligned.others()["test"]
        if table.label is None:
            raise LocalProtocolError("ROLE_INVALID", "only the label owner validates")
        existing = None if table.existing is None else table.existing[test]
        judged = Judged(table.label[test], logits[test], totals.points[test], existing)
        own_points = dimension_points(own, codes, self._recipe.scorecard)
        without, each = scores_without(self._parties, totals, own_points, own.points.base or 0)
        less = {name: scores[test] for name, scores in without.items()}
        return judge(validation, judged, grades, less, self._recipe.columns_of(self._seat.name).judgement, each=each)

    def _stability(self, aligned: AlignedTable, own: OwnModel) -> list[dict[str, float]]:
        sizes = [len(feature.woe) for feature in own.features]
        return feature_stability(own.codes(aligned.table), sizes, aligned.is_training, aligned.others())

    def report(
        self,
        aligned: AlignedTable,
        prebinned: PreBinned,
        bins: BinningTable,
        fitted: Fitted,
        own: OwnModel,
        document: dict[str, Any],
        statement: Statement,
    ) -> None:
        """The shared report with the agreed statement, and this party's own report."""
        folder = self._seat.folder
        shared = document | {"statement": report.statement_of(statement.lines, self._parties)}
        folder.write_json("shared.json", shared)
        folder.write("shared.html", report_page.render_shared(shared).encode())
        private = report.party_report(
            party=self._seat.name,
            job=self._seat.agreement.job.job,
            finished=str(shared["finished"]),
            parties=self._parties,
            features=job_report.own_features(bins, own, self._stability(aligned, own))
            + left_out_features(prebinned.left_out),
            statement=statement.lines,
            scaling=self._scaling,
            training_rows=bins.rows,
            findings=self._findings
            + findings_of_gate(prebinned, bins, INFEASIBLE)
            + self._review_findings
            + self._held,
            base_points=own.points.base,
            intercept=own.intercept,
            selection=job_report.selection(bins),
            screening=screening_of(prebinned.left_out, bins.dropped),
            judgement=self._judgement,
            estimation=fitted.record,
            inference=self._inference,
            weights=None if self._weights is None else weights_summary(self._weights, aligned.training.label),
        )
        folder.write_json("report.json", private)
        folder.write("report.html", report_page.render_party(private).encode())
