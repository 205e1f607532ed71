from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StageEnd(_message.Message):
    __slots__ = ("transcript",)
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    transcript: bytes
    def __init__(self, transcript: _Optional[bytes] = ...) -> None: ...

class ResumePoint(_message.Message):
    __slots__ = ("version", "completed", "columns", "gradients")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    version: int
    completed: int
    columns: int
    gradients: int
    def __init__(self, version: _Optional[int] = ..., completed: _Optional[int] = ..., columns: _Optional[int] = ..., gradients: _Optional[int] = ...) -> None: ...

class BlindedIds(_message.Message):
    __slots__ = ("points",)
    POINTS_FIELD_NUMBER: _ClassVar[int]
    points: bytes
    def __init__(self, points: _Optional[bytes] = ...) -> None: ...

class DoublyBlindedIds(_message.Message):
    __slots__ = ("points",)
    POINTS_FIELD_NUMBER: _ClassVar[int]
    points: bytes
    def __init__(self, points: _Optional[bytes] = ...) -> None: ...

class SetOpening(_message.Message):
    __slots__ = ("size", "commitment")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    size: int
    commitment: bytes
    def __init__(self, size: _Optional[int] = ..., commitment: _Optional[bytes] = ...) -> None: ...

class SeedReveal(_message.Message):
    __slots__ = ("seed", "opening")
    SEED_FIELD_NUMBER: _ClassVar[int]
    OPENING_FIELD_NUMBER: _ClassVar[int]
    seed: bytes
    opening: bytes
    def __init__(self, seed: _Optional[bytes] = ..., opening: _Optional[bytes] = ...) -> None: ...

class BaseAnswers(_message.Message):
    __slots__ = ("answers", "restart")
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    answers: bytes
    restart: int
    def __init__(self, answers: _Optional[bytes] = ..., restart: _Optional[int] = ...) -> None: ...

class TransferColumns(_message.Message):
    __slots__ = ("columns",)
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    columns: bytes
    def __init__(self, columns: _Optional[bytes] = ...) -> None: ...

class BinRows(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: bytes
    def __init__(self, rows: _Optional[bytes] = ...) -> None: ...

class TagEntries(_message.Message):
    __slots__ = ("entries", "count")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    entries: bytes
    count: int
    def __init__(self, entries: _Optional[bytes] = ..., count: _Optional[int] = ...) -> None: ...

class MatchedHandles(_message.Message):
    __slots__ = ("handles",)
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    handles: bytes
    def __init__(self, handles: _Optional[bytes] = ...) -> None: ...

class CommonRows(_message.Message):
    __slots__ = ("positions", "training_rows")
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_ROWS_FIELD_NUMBER: _ClassVar[int]
    positions: bytes
    training_rows: int
    def __init__(self, positions: _Optional[bytes] = ..., training_rows: _Optional[int] = ...) -> None: ...

class FeatureCount(_message.Message):
    __slots__ = ("features",)
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    features: int
    def __init__(self, features: _Optional[int] = ...) -> None: ...

class PublicKey(_message.Message):
    __slots__ = ("modulus", "proof")
    MODULUS_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    modulus: bytes
    proof: bytes
    def __init__(self, modulus: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class EncryptedRows(_message.Message):
    __slots__ = ("first", "ciphertexts")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    first: int
    ciphertexts: bytes
    def __init__(self, first: _Optional[int] = ..., ciphertexts: _Optional[bytes] = ...) -> None: ...

class MergeRule(_message.Message):
    __slots__ = ("method", "trend", "max_bins", "least_rows", "policies", "keep")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    TREND_FIELD_NUMBER: _ClassVar[int]
    MAX_BINS_FIELD_NUMBER: _ClassVar[int]
    LEAST_ROWS_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    method: str
    trend: str
    max_bins: int
    least_rows: int
    policies: _containers.RepeatedScalarFieldContainer[int]
    keep: bool
    def __init__(self, method: _Optional[str] = ..., trend: _Optional[str] = ..., max_bins: _Optional[int] = ..., least_rows: _Optional[int] = ..., policies: _Optional[_Iterable[int]] = ..., keep: bool = ...) -> None: ...

class PreBinnedFeature(_message.Message):
    __slots__ = ("alias", "ordered_bins", "rows", "encrypted_bads", "mask_check", "rule")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    ORDERED_BINS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_BADS_FIELD_NUMBER: _ClassVar[int]
    MASK_CHECK_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    alias: str
    ordered_bins: int
    rows: _containers.RepeatedScalarFieldContainer[int]
    encrypted_bads: bytes
    mask_check: bytes
    rule: MergeRule
    def __init__(self, alias: _Optional[str] = ..., ordered_bins: _Optional[int] = ..., rows: _Optional[_Iterable[int]] = ..., encrypted_bads: _Optional[bytes] = ..., mask_check: _Optional[bytes] = ..., rule: _Optional[_Union[MergeRule, _Mapping]] = ...) -> None: ...

class PreBins(_message.Message):
    __slots__ = ("features",)
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedCompositeFieldContainer[PreBinnedFeature]
    def __init__(self, features: _Optional[_Iterable[_Union[PreBinnedFeature, _Mapping]]] = ...) -> None: ...

class KeptFeature(_message.Message):
    __slots__ = ("alias", "merge_map", "woe", "iv")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    MERGE_MAP_FIELD_NUMBER: _ClassVar[int]
    WOE_FIELD_NUMBER: _ClassVar[int]
    IV_FIELD_NUMBER: _ClassVar[int]
    alias: str
    merge_map: _containers.RepeatedScalarFieldContainer[int]
    woe: _containers.RepeatedScalarFieldContainer[int]
    iv: int
    def __init__(self, alias: _Optional[str] = ..., merge_map: _Optional[_Iterable[int]] = ..., woe: _Optional[_Iterable[int]] = ..., iv: _Optional[int] = ...) -> None: ...

class GateDecision(_message.Message):
    __slots__ = ("bads", "kept", "dropped")
    BADS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    bads: int
    kept: _containers.RepeatedCompositeFieldContainer[KeptFeature]
    dropped: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, bads: _Optional[int] = ..., kept: _Optional[_Iterable[_Union[KeptFeature, _Mapping]]] = ..., dropped: _Optional[_Iterable[str]] = ...) -> None: ...

class SelectedFeatures(_message.Message):
    __slots__ = ("aliases",)
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    aliases: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, aliases: _Optional[_Iterable[str]] = ...) -> None: ...

class PartyFeatures(_message.Message):
    __slots__ = ("party", "features")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    party: str
    features: int
    def __init__(self, party: _Optional[str] = ..., features: _Optional[int] = ...) -> None: ...

class ModelShape(_message.Message):
    __slots__ = ("parties",)
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    parties: _containers.RepeatedCompositeFieldContainer[PartyFeatures]
    def __init__(self, parties: _Optional[_Iterable[_Union[PartyFeatures, _Mapping]]] = ...) -> None: ...

class ChangedRule(_message.Message):
    __slots__ = ("alias", "rule")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    alias: str
    rule: MergeRule
    def __init__(self, alias: _Optional[str] = ..., rule: _Optional[_Union[MergeRule, _Mapping]] = ...) -> None: ...

class ReviewTurn(_message.Message):
    __slots__ = ("applied", "accepted", "features", "rules")
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    applied: int
    accepted: bool
    features: _containers.RepeatedCompositeFieldContainer[PreBinnedFeature]
    rules: _containers.RepeatedCompositeFieldContainer[ChangedRule]
    def __init__(self, applied: _Optional[int] = ..., accepted: bool = ..., features: _Optional[_Iterable[_Union[PreBinnedFeature, _Mapping]]] = ..., rules: _Optional[_Iterable[_Union[ChangedRule, _Mapping]]] = ...) -> None: ...

class ReviewAnswer(_message.Message):
    __slots__ = ("changed", "refused", "waiting", "seconds_left", "ended")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    changed: _containers.RepeatedCompositeFieldContainer[KeptFeature]
    refused: str
    waiting: _containers.RepeatedScalarFieldContainer[str]
    seconds_left: int
    ended: bool
    def __init__(self, changed: _Optional[_Iterable[_Union[KeptFeature, _Mapping]]] = ..., refused: _Optional[str] = ..., waiting: _Optional[_Iterable[str]] = ..., seconds_left: _Optional[int] = ..., ended: bool = ...) -> None: ...

class PairSeed(_message.Message):
    __slots__ = ("seed",)
    SEED_FIELD_NUMBER: _ClassVar[int]
    seed: bytes
    def __init__(self, seed: _Optional[bytes] = ...) -> None: ...

class TrainingSize(_message.Message):
    __slots__ = ("rows",)
    ROWS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    def __init__(self, rows: _Optional[int] = ...) -> None: ...

class DealerSeed(_message.Message):
    __slots__ = ("seed",)
    SEED_FIELD_NUMBER: _ClassVar[int]
    seed: bytes
    def __init__(self, seed: _Optional[bytes] = ...) -> None: ...

class MaskedProducts(_message.Message):
    __slots__ = ("ciphertexts",)
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    ciphertexts: bytes
    def __init__(self, ciphertexts: _Optional[bytes] = ...) -> None: ...

class GradientsSpent(_message.Message):
    __slots__ = ("gradients",)
    GRADIENTS_FIELD_NUMBER: _ClassVar[int]
    gradients: int
    def __init__(self, gradients: _Optional[int] = ...) -> None: ...

class PreconditionerTrace(_message.Message):
    __slots__ = ("part", "masked")
    PART_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    part: bytes
    masked: bool
    def __init__(self, part: _Optional[bytes] = ..., masked: bool = ...) -> None: ...

class NextFit(_message.Message):
    __slots__ = ("index", "penalty", "loose", "dropped", "fold", "plus", "minus", "history", "likelihood", "signs", "best_effort", "ended")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOOSE_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    FOLD_FIELD_NUMBER: _ClassVar[int]
    PLUS_FIELD_NUMBER: _ClassVar[int]
    MINUS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    LIKELIHOOD_FIELD_NUMBER: _ClassVar[int]
    SIGNS_FIELD_NUMBER: _ClassVar[int]
    BEST_EFFORT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    index: int
    penalty: int
    loose: bool
    dropped: _containers.RepeatedScalarFieldContainer[str]
    fold: int
    plus: _containers.RepeatedScalarFieldContainer[int]
    minus: _containers.RepeatedScalarFieldContainer[int]
    history: int
    likelihood: bool
    signs: bool
    best_effort: bool
    ended: bool
    def __init__(self, index: _Optional[int] = ..., penalty: _Optional[int] = ..., loose: bool = ..., dropped: _Optional[_Iterable[str]] = ..., fold: _Optional[int] = ..., plus: _Optional[_Iterable[int]] = ..., minus: _Optional[_Iterable[int]] = ..., history: _Optional[int] = ..., likelihood: bool = ..., signs: bool = ..., best_effort: bool = ..., ended: bool = ...) -> None: ...

class FoldOfRows(_message.Message):
    __slots__ = ("folds",)
    FOLDS_FIELD_NUMBER: _ClassVar[int]
    folds: bytes
    def __init__(self, folds: _Optional[bytes] = ...) -> None: ...

class LikelihoodShare(_message.Message):
    __slots__ = ("index", "share")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    index: int
    share: bytes
    def __init__(self, index: _Optional[int] = ..., share: _Optional[bytes] = ...) -> None: ...

class LikelihoodPart(_message.Message):
    __slots__ = ("part", "masked")
    PART_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    part: bytes
    masked: bool
    def __init__(self, part: _Optional[bytes] = ..., masked: bool = ...) -> None: ...

class CoefficientSigns(_message.Message):
    __slots__ = ("positive", "inward")
    POSITIVE_FIELD_NUMBER: _ClassVar[int]
    INWARD_FIELD_NUMBER: _ClassVar[int]
    positive: _containers.RepeatedScalarFieldContainer[str]
    inward: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, positive: _Optional[_Iterable[str]] = ..., inward: _Optional[_Iterable[str]] = ...) -> None: ...

class BatchRequest(_message.Message):
    __slots__ = ("index", "period", "ended")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    index: int
    period: int
    ended: bool
    def __init__(self, index: _Optional[int] = ..., period: _Optional[int] = ..., ended: bool = ...) -> None: ...

class Corrections(_message.Message):
    __slots__ = ("index", "period", "shares")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    index: int
    period: int
    shares: bytes
    def __init__(self, index: _Optional[int] = ..., period: _Optional[int] = ..., shares: _Optional[bytes] = ...) -> None: ...

class MaskedWeights(_message.Message):
    __slots__ = ("shares",)
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: bytes
    def __init__(self, shares: _Optional[bytes] = ...) -> None: ...

class CurvatureScale(_message.Message):
    __slots__ = ("exponent",)
    EXPONENT_FIELD_NUMBER: _ClassVar[int]
    exponent: int
    def __init__(self, exponent: _Optional[int] = ...) -> None: ...

class ProductCorrections(_message.Message):
    __slots__ = ("index", "period", "shares", "total")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    index: int
    period: int
    shares: bytes
    total: bytes
    def __init__(self, index: _Optional[int] = ..., period: _Optional[int] = ..., shares: _Optional[bytes] = ..., total: _Optional[bytes] = ...) -> None: ...

class MaskedFactors(_message.Message):
    __slots__ = ("index", "shares")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    index: int
    shares: bytes
    def __init__(self, index: _Optional[int] = ..., shares: _Optional[bytes] = ...) -> None: ...

class LogitRange(_message.Message):
    __slots__ = ("parts", "masked")
    PARTS_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    parts: bytes
    masked: bool
    def __init__(self, parts: _Optional[bytes] = ..., masked: bool = ...) -> None: ...

class MaskedLogits(_message.Message):
    __slots__ = ("index", "values")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    index: int
    values: bytes
    def __init__(self, index: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class MaskedResidual(_message.Message):
    __slots__ = ("index", "shares")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    index: int
    shares: bytes
    def __init__(self, index: _Optional[int] = ..., shares: _Optional[bytes] = ...) -> None: ...

class GradientShare(_message.Message):
    __slots__ = ("index", "shares")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    index: int
    shares: bytes
    def __init__(self, index: _Optional[int] = ..., shares: _Optional[bytes] = ...) -> None: ...

class InnerProducts(_message.Message):
    __slots__ = ("index", "parts", "masked")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    index: int
    parts: bytes
    masked: bool
    def __init__(self, index: _Optional[int] = ..., parts: _Optional[bytes] = ..., masked: bool = ...) -> None: ...

class MaskedBinSums(_message.Message):
    __slots__ = ("ciphertexts", "checks")
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    ciphertexts: bytes
    checks: bytes
    def __init__(self, ciphertexts: _Optional[bytes] = ..., checks: _Optional[bytes] = ...) -> None: ...

class WeightedRows(_message.Message):
    __slots__ = ("first", "ciphertexts")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    first: int
    ciphertexts: bytes
    def __init__(self, first: _Optional[int] = ..., ciphertexts: _Optional[bytes] = ...) -> None: ...

class CrossMoments(_message.Message):
    __slots__ = ("columns", "features", "ciphertexts")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    columns: int
    features: int
    ciphertexts: bytes
    def __init__(self, columns: _Optional[int] = ..., features: _Optional[int] = ..., ciphertexts: _Optional[bytes] = ...) -> None: ...

class OwnMoments(_message.Message):
    __slots__ = ("features", "values")
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    features: int
    values: bytes
    def __init__(self, features: _Optional[int] = ..., values: _Optional[bytes] = ...) -> None: ...

class MaskedMoments(_message.Message):
    __slots__ = ("ciphertexts",)
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    ciphertexts: bytes
    def __init__(self, ciphertexts: _Optional[bytes] = ...) -> None: ...

class MomentShares(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: bytes
    def __init__(self, values: _Optional[bytes] = ...) -> None: ...

class MomentsReady(_message.Message):
    __slots__ = ("ready", "features")
    READY_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    features: int
    def __init__(self, ready: bool = ..., features: _Optional[int] = ...) -> None: ...

class ScreenedFeatures(_message.Message):
    __slots__ = ("kept", "parties")
    KEPT_FIELD_NUMBER: _ClassVar[int]
    PARTIES_FIELD_NUMBER: _ClassVar[int]
    kept: _containers.RepeatedScalarFieldContainer[str]
    parties: _containers.RepeatedCompositeFieldContainer[PartyFeatures]
    def __init__(self, kept: _Optional[_Iterable[str]] = ..., parties: _Optional[_Iterable[_Union[PartyFeatures, _Mapping]]] = ...) -> None: ...

class FeatureErrors(_message.Message):
    __slots__ = ("errors", "inflation")
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    INFLATION_FIELD_NUMBER: _ClassVar[int]
    errors: bytes
    inflation: bytes
    def __init__(self, errors: _Optional[bytes] = ..., inflation: _Optional[bytes] = ...) -> None: ...

class OpenBin(_message.Message):
    __slots__ = ("label", "woe", "points")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    WOE_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    label: str
    woe: int
    points: int
    def __init__(self, label: _Optional[str] = ..., woe: _Optional[int] = ..., points: _Optional[int] = ...) -> None: ...

class OpenFeature(_message.Message):
    __slots__ = ("name", "alias", "bins")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    name: str
    alias: str
    bins: _containers.RepeatedCompositeFieldContainer[OpenBin]
    def __init__(self, name: _Optional[str] = ..., alias: _Optional[str] = ..., bins: _Optional[_Iterable[_Union[OpenBin, _Mapping]]] = ...) -> None: ...

class OpenScorecard(_message.Message):
    __slots__ = ("features",)
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    features: _containers.RepeatedCompositeFieldContainer[OpenFeature]
    def __init__(self, features: _Optional[_Iterable[_Union[OpenFeature, _Mapping]]] = ...) -> None: ...

class MaskedPoints(_message.Message):
    __slots__ = ("request", "parts", "masked")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    request: str
    parts: bytes
    masked: bool
    def __init__(self, request: _Optional[str] = ..., parts: _Optional[bytes] = ..., masked: bool = ...) -> None: ...

class OpenDimensions(_message.Message):
    __slots__ = ("request", "names", "points", "references")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    request: str
    names: _containers.RepeatedScalarFieldContainer[str]
    points: bytes
    references: bytes
    def __init__(self, request: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., points: _Optional[bytes] = ..., references: _Optional[bytes] = ...) -> None: ...

class MaskedLogitParts(_message.Message):
    __slots__ = ("request", "parts", "masked")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    request: str
    parts: bytes
    masked: bool
    def __init__(self, request: _Optional[str] = ..., parts: _Optional[bytes] = ..., masked: bool = ...) -> None: ...

class SharedReport(_message.Message):
    __slots__ = ("document",)
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    document: bytes
    def __init__(self, document: _Optional[bytes] = ...) -> None: ...

class StatementLine(_message.Message):
    __slots__ = ("to", "stage", "source", "what", "nature", "numbers")
    TO_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    NATURE_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    to: str
    stage: str
    source: str
    what: str
    nature: str
    numbers: int
    def __init__(self, to: _Optional[str] = ..., stage: _Optional[str] = ..., source: _Optional[str] = ..., what: _Optional[str] = ..., nature: _Optional[str] = ..., numbers: _Optional[int] = ...) -> None: ...

class StatementPart(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[StatementLine]
    def __init__(self, lines: _Optional[_Iterable[_Union[StatementLine, _Mapping]]] = ...) -> None: ...

class StatementSeal(_message.Message):
    __slots__ = ("digest", "signature")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    signature: bytes
    def __init__(self, digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...
