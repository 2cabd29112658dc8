"""The import allow-list: what a pickle may name, and in which way it may be used. Pure data and two questions.

The rule for an entry: calling it with any arguments, at load time or when the model is used, runs no code and
reaches no file, process or network beyond what the library does for a model. Functions are listed one by one.
Classes of a library are allowed by package where a package holds many, and then only to be made without calling their
constructor (what pickle does for ordinary classes).

Left out on purpose, though models use them now and then: `builtins.getattr`, `operator.attrgetter` and
`operator.methodcaller` (from them every function can be reached), `scipy.stats` distributions (their `__setstate__` runs a string as code),
`joblib.memory` (loads further pickles), `numpy.memmap` (opens files), `numpy.load`, `dill` and `cloudpickle` (carry code).
"""

import enum
import re
from collections.abc import Mapping
from types import MappingProxyType


class Use(enum.Flag):
    """How a pickle may use an import."""

    NONE = 0
    NAME = enum.auto()  # as a value
    NEW = enum.auto()  # made by __new__, without its constructor
    CALL = enum.auto()  # called


_NAME = Use.NAME
_CLASS = Use.NAME | Use.NEW
_CALL = Use.NAME | Use.NEW | Use.CALL


def _entries(use: Use, table: Mapping[str, str]) -> dict[tuple[str, str], Use]:
    return {(module, name): use for module, names in table.items() for name in names.split()}


_FUNCTIONS = _entries(
    _CALL,
    {
        "_codecs": "encode",
        "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple",
        "collections": "Counter OrderedDict defaultdict deque",
        "copyreg": "_reconstructor __newobj__ __newobj_ex__",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "functools": "partial",
        "uuid": "UUID",
        "operator": "itemgetter",
        "re": "_compile",
        "numpy": "dtype ndarray bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 "
        "complex64 complex128 str_ bytes_ datetime64 timedelta64",
        "numpy._core.multiarray": "_reconstruct scalar",
        "numpy.core.multiarray": "_reconstruct scalar",
        "numpy._core.numeric": "_frombuffer",
        "numpy.core.numeric": "_frombuffer",
        "numpy.ma.core": "_mareconstruct",
        "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
        "numpy.random._mt19937": "MT19937",
        "numpy.random._pcg64": "PCG64 PCG64DXSM",
        "numpy.random._philox": "Philox",
        "numpy.random._sfc64": "SFC64",
        "numpy.random.bit_generator": "__pyx_unpickle_SeedSequence SeedSequence",
        "pandas": "BooleanDtype Categorical CategoricalDtype DatetimeTZDtype Float32Dtype Float64Dtype Int8Dtype Int16Dtype "
        "Int32Dtype Int64Dtype Interval IntervalDtype Period PeriodDtype SparseDtype StringDtype UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype",
        "pandas.core.arrays.string_": "StringDtype",
        "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked",
        "pandas._libs.internals": "_unpickle_block",
        "pandas._libs.tslibs.nattype": "_nat_unpickle",
        "pandas._libs.tslibs.offsets": "_make_offset",
        "pandas._libs.tslibs.timedeltas": "_timedelta_unpickle",
        "pandas._libs.tslibs.timestamps": "_unpickle_timestamp",
        "pandas.core.arrays.categorical": "Categorical",
        "pandas.core.indexes.base": "_new_Index",
        "pandas.core.indexes.datetimes": "_new_DatetimeIndex",
        "pandas.core.indexes.interval": "_new_IntervalIndex",
        "pandas.core.indexes.period": "_new_PeriodIndex",
        "pandas.core.indexes.timedeltas": "_new_TimedeltaIndex",
        "pandas.core.internals.managers": "BlockManager SingleBlockManager",
        "pandas._libs.interval": "Interval",
        "pandas._libs.sparse": "BlockIndex IntIndex",
        "pandas.core.dtypes.dtypes": "CategoricalDtype DatetimeTZDtype SparseDtype",
        "pandas._libs.tslibs.period": "Period _period_unpickle",
        "sklearn._loss._loss": "CyAbsoluteError CyExponentialLoss CyHalfBinomialLoss CyHalfGammaLoss CyHalfMultinomialLoss "
        "CyHalfPoissonLoss CyHalfSquaredError CyHalfTweedieLoss CyHalfTweedieLossIdentity CyHuberLoss CyPinballLoss",
        "sklearn.linear_model._sgd_fast": "EpsilonInsensitive Hinge Huber Log ModifiedHuber SquaredEpsilonInsensitive "
        "SquaredHinge SquaredLoss",
        "sklearn.metrics._dist_metrics": "newObj",
        "sklearn.neighbors._ball_tree": "newObj",
        "sklearn.neighbors._kd_tree": "newObj",
        "sklearn.neighbors._quad_tree": "_QuadTree",
        "sklearn.tree._criterion": "Entropy FriedmanMSE Gini MAE MSE Poisson",
        "sklearn.tree._splitter": "BestSplitter BestSparseSplitter RandomSplitter RandomSparseSplitter",
        "sklearn.tree._tree": "Tree",
        "scipy.sparse._csr": "csr_array csr_matrix",
    },
)

_CLASSES = _entries(
    _CLASS,
    {
        "catboost.core": "CatBoost CatBoostClassifier CatBoostRanker CatBoostRegressor",
        "joblib.numpy_pickle": "NumpyArrayWrapper",
        "lightgbm.basic": "Booster",
        "lightgbm.sklearn": "LGBMClassifier LGBMModel LGBMRanker LGBMRegressor _LGBMLabelEncoder",
        "numpy": "matrix recarray record void",
        "numpy.ma": "MaskedArray",
        "numpy.ma.core": "MaskedArray MaskedConstant mvoid",
        "numpy.matrixlib.defmatrix": "matrix",
        "numpy.rec": "recarray record",
        "pandas": "DataFrame Series Index RangeIndex MultiIndex CategoricalIndex DatetimeIndex IntervalIndex PeriodIndex "
        "TimedeltaIndex CategoricalDtype StringDtype DatetimeTZDtype",
        "pandas.arrays": "ArrowStringArray BooleanArray DatetimeArray FloatingArray IntegerArray IntervalArray "
        "NumpyExtensionArray PeriodArray SparseArray StringArray TimedeltaArray",
        "pandas._libs.missing": "NAType",
        "pandas.core.arrays.boolean": "BooleanArray BooleanDtype",
        "pandas.core.arrays.datetimes": "DatetimeArray",
        "pandas.core.arrays.floating": "FloatingArray Float32Dtype Float64Dtype",
        "pandas.core.arrays.integer": "IntegerArray Int8Dtype Int16Dtype Int32Dtype Int64Dtype UInt8Dtype UInt16Dtype "
        "UInt32Dtype UInt64Dtype",
        "pandas.core.arrays.interval": "IntervalArray",
        "pandas.core.arrays.numpy_": "NumpyExtensionArray",
        "pandas.core.arrays.period": "PeriodArray",
        "pandas.core.arrays.string_": "StringArray StringDtype",
        "pandas.core.arrays.string_arrow": "ArrowStringArray",
        "pandas.core.arrays.timedeltas": "TimedeltaArray",
        "pandas.core.dtypes.dtypes": "CategoricalDtype DatetimeTZDtype IntervalDtype NumpyEADtype PeriodDtype",
        "pandas.core.frame": "DataFrame",
        "pandas.core.flags": "Flags",
        "pandas.core.indexes.base": "Index",
        "pandas.core.indexes.category": "CategoricalIndex",
        "pandas.core.indexes.datetimes": "DatetimeIndex",
        "pandas.core.indexes.frozen": "FrozenList",
        "pandas.core.indexes.interval": "IntervalIndex",
        "pandas.core.indexes.multi": "MultiIndex",
        "pandas.core.indexes.period": "PeriodIndex",
        "pandas.core.indexes.range": "RangeIndex",
        "pandas.core.indexes.timedeltas": "TimedeltaIndex",
        "pandas.core.internals.managers": "BlockManager SingleBlockManager",
        "pandas.core.series": "Series",
        "scipy.interpolate._bsplines": "BSpline",
        "scipy.interpolate._interpolate": "PPoly interp1d",
        "scipy.interpolate.interpolate": "interp1d",
        "scipy.sparse._bsr": "bsr_array bsr_matrix",
        "scipy.sparse._coo": "coo_array coo_matrix",
        "scipy.sparse._csc": "csc_array csc_matrix",
        "scipy.sparse._dia": "dia_array dia_matrix",
        "scipy.sparse._dok": "dok_array dok_matrix",
        "scipy.sparse._lil": "lil_array lil_matrix",
        "scipy.sparse.csc": "csc_matrix",
        "scipy.sparse.csr": "csr_matrix",
        "xgboost.callback": "EarlyStopping",
        "xgboost.core": "Booster",
        "xgboost.sklearn": "XGBClassifier XGBModel XGBRFClassifier XGBRFRegressor XGBRanker XGBRegressor",
    },
)

# Functions that models hold as parameters (FunctionTransformer, scorers, kernels). Called when the model is used.
_PURE_NUMPY = (
    "abs absolute add arccos arcsin arcsinh arctan arctan2 arctanh argmax argmin array asarray around cbrt ceil clip "
    "concatenate cos cosh cumsum diff divide dot exp exp2 expm1 floor hstack inf isfinite isinf isnan log log10 log1p log2 "
    "max maximum mean median min minimum mod multiply nan nan_to_num nanmax nanmean nanmedian nanmin nanstd negative ones_like "
    "percentile power prod quantile ravel reciprocal repeat reshape rint round sign sin sinh sort sqrt square squeeze stack std "
    "subtract sum tan tanh transpose trunc unique var vstack where zeros_like"
)
_NAMES = _entries(
    _NAME,
    {
        "pandas": "NA",
        "builtins": "Ellipsis NotImplemented abs all any divmod hash len max min pow repr round sorted sum",
        "numpy": f"{_PURE_NUMPY} bool double float_ generic integer floating int_ intp longlong number object_ single uint ulonglong",
        "numpy._core.fromnumeric": "clip cumsum mean prod ravel reshape round sum transpose",
        "scipy._lib.array_api_compat.numpy._aliases": "asarray",
        "scipy.special": "boxcox1p expit inv_boxcox log_expit logit logsumexp softmax",
        "scipy.special._ufuncs": "boxcox1p expit inv_boxcox log_expit logit",
        "scipy.special._logsumexp": "logsumexp softmax",
        "sklearn.cluster._kmeans": "_kmeans_single_elkan _kmeans_single_lloyd",
        "sklearn.feature_selection._univariate_selection": "chi2 f_classif f_oneway f_regression r_regression",
        "sklearn.feature_selection._mutual_info": "mutual_info_classif mutual_info_regression",
        "sklearn.metrics._classification": "accuracy_score balanced_accuracy_score brier_score_loss f1_score log_loss "
        "matthews_corrcoef precision_score recall_score cohen_kappa_score fbeta_score jaccard_score",
        "sklearn.metrics._ranking": "average_precision_score ndcg_score roc_auc_score top_k_accuracy_score",
        "sklearn.metrics._regression": "explained_variance_score max_error mean_absolute_error mean_absolute_percentage_error "
        "mean_squared_error mean_squared_log_error median_absolute_error r2_score root_mean_squared_error",
        "sklearn.metrics.pairwise": "additive_chi2_kernel chi2_kernel cosine_distances cosine_similarity euclidean_distances "
        "laplacian_kernel linear_kernel manhattan_distances polynomial_kernel rbf_kernel sigmoid_kernel",
    },
)

_FUNCTIONS_BY_RULE: dict[str, re.Pattern[str]] = {
    "pandas._libs.tslibs.offsets": re.compile(r"[A-Z][A-Za-z0-9]*"),
}

_TABLE: Mapping[tuple[str, str], Use] = MappingProxyType(
    {
        key: _FUNCTIONS.get(key, Use.NONE) | _CLASSES.get(key, Use.NONE) | _NAMES.get(key, Use.NONE)
        for key in [*_FUNCTIONS, *_CLASSES, *_NAMES]
    }
)

# Packages whose classes may be made without calling their constructor. Not in here: tests, datasets (they download),
# externals (vendored code), utils (holds mocks and callers), experimental, inspection.
_SKLEARN_PACKAGES = (
    r"_loss|base|calibration|cluster|compose|covariance|cross_decomposition|decomposition|discriminant_analysis|dummy"
    r"|ensemble|feature_extraction|feature_selection|frozen|gaussian_process|impute|isotonic|kernel_approximation"
    r"|kernel_ridge|linear_model|manifold|metrics|mixture|model_selection|multiclass|multioutput|naive_bayes|neighbors"
    r"|neural_network|pipeline|preprocessing|random_projection|semi_supervised|svm|tree"
)
_CLASS_PACKAGES = re.compile(
    rf"sklearn\.(?:{_SKLEARN_PACKAGES})(?:\.(?!tests?\b|conftest)[a-z_][a-z0-9_]*)*"
    r"|sklearn\.utils\._(?:bunch|metadata_requests|encode)"
)
_CLASS_NAME = re.compile(r"_?[A-Z][A-Za-z0-9]*")


def derive_use(module: str, name: str) -> tuple[Use, bool]:
    """Return how an import may be used, and whether it must still be seen to be a class of its library.

    Args:
        module: as the pickle names it, old names of Python 2 already replaced.
        name: attribute of the module.
    """
    use = _TABLE.get((module, name))
    if use is not None:
        return use, False
    rule = _FUNCTIONS_BY_RULE.get(module)
    if rule is not None and rule.fullmatch(name):
        return _CALL, False
    if _CLASS_PACKAGES.fullmatch(module) and _CLASS_NAME.fullmatch(name):
        return _CLASS, True
    return Use.NONE, False


# Calls whose first argument is the class of what they return: it must be a class, of the package that is named here.
# Nothing but NEWOBJ and copyreg may make an object of a class of joblib: its arrays lie between the opcodes.
CLASS_ARGUMENT: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("copyreg", "_reconstructor"): "",
        ("copyreg", "__newobj__"): "",
        ("copyreg", "__newobj_ex__"): "",
        ("numpy._core.multiarray", "_reconstruct"): "numpy",
        ("numpy.core.multiarray", "_reconstruct"): "numpy",
        ("numpy.ma.core", "_mareconstruct"): "numpy",
        ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"): "pandas",
        ("pandas._libs.tslibs.offsets", "_make_offset"): "pandas",
        ("pandas.core.indexes.base", "_new_Index"): "pandas",
        ("pandas.core.indexes.datetimes", "_new_DatetimeIndex"): "pandas",
        ("pandas.core.indexes.interval", "_new_IntervalIndex"): "pandas",
        ("pandas.core.indexes.period", "_new_PeriodIndex"): "pandas",
        ("pandas.core.indexes.timedeltas", "_new_TimedeltaIndex"): "pandas",
        ("sklearn.metrics._dist_metrics", "newObj"): "sklearn",
        ("sklearn.neighbors._ball_tree", "newObj"): "sklearn",
        ("sklearn.neighbors._kd_tree", "newObj"): "sklearn",
    }
)
BASE_CLASSES = frozenset(
    {
        "bytes",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "set",
        "str",
        "tuple",
    }
)
TEXT_ENCODINGS = frozenset({"ascii", "latin-1", "latin1", "utf-8"})
FIRST_ARGUMENT_IS_IMPORT = frozenset({("functools", "partial"), ("collections", "defaultdict")})

# What torch writes into its own zip files. torch.load(weights_only=True) decides again by its own list.
TORCH = re.compile(
    r"torch\._utils\._rebuild_(?:tensor(?:_v2|_v3)?|parameter(?:_with_state)?|qtensor|sparse_tensor|device_tensor_from_numpy)"
    r"|torch\._tensor\._rebuild_from_type_v2|torch\.(?:[A-Z][A-Za-z0-9]*Storage|Size|device|Tensor)"
    r"|torch\.storage\.(?:Untyped|Typed)Storage|torch\.nn\.parameter\.(?:Parameter|Buffer)"
    r"|torch\.(?:float|double|half|bfloat|int|uint|complex|bool|long|short|q)[a-z]*[0-9]*(?:_e[0-9]m[0-9](?:fnu?z?)?)?"
    r"|torch\.serialization\._get_layout|torch\._C\._(?:QScheme)"
)
