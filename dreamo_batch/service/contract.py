"""Facts about the service and its models, as data, each with its source.

A model is one entry of `MODELS`; `spark_dreamo` is the default. Facts outside of it hold for every model.

Sources: ``page`` the model's API page; ``cli`` the vendor's Go client VtrixAI/vtrix-cli; ``sdk`` the
SeaArt/SeaCloud SDKs of the same gateway family; ``up`` Volcengine's documents of the upstream model
`seed3l_single_ip`; ``assumed`` our reading, never tried.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    """One fact about the service, its source, and a note."""

    value: T
    source: str
    note: str = ""


MODEL: Final = "spark_dreamo"

BASE_URL: Final = Fact("https://cloud.vtrix.ai", "cli", "also in the vendor's documents")
CREATE_PATH: Final = Fact("/model/v1/generation", "cli")
TASK_PATH: Final = Fact("/model/v1/generation/task/{task_id}", "cli")
PRECHARGE_PATH: Final = Fact("/model/v1/generation/precharge", "sdk", "not proven on this host")
SPEC_PATH: Final = Fact("/api/v1/skill/models/{model}/spec", "cli", "needs no key")
SPEC_URL: Final = Fact(
    "https://cloud-model-spec.vtrix.ai",
    "cli",
    "describes models, without a key; in the build files of both CLIs",
)

PROMPT_CHARACTERS_ADVISED: Final = Fact(300, "page", "longer may have no effect or cause errors")
PROMPT_CHARACTERS_OF_SIBLINGS: Final = Fact(
    800, "page", "at most, for sibling models; the page of this one states no maximum, so it's a warning"
)

SIDE_MIN_PX: Final = Fact(512, "page")
SIDE_MAX_PX: Final = Fact(2048, "page", "more only while width*height stays below the product")
SIDE_DEFAULT_PX: Final = Fact(1328, "page")
RATIO_OF_SIBLINGS: Final = Fact(3, "page", "a sibling model makes 1:3 to 3:1 only")
PRODUCT_MAX_PX: Final = Fact(2048 * 2048, "page", "a side above 2048 needs a product strictly below")

SEED_RANDOM: Final = Fact(-1, "page", "the default: a random seed")
SEED_REPEATABLE_MIN: Final = Fact(1, "page", "repeatability is promised for positive integers")
SEED_MAX: Final = Fact(2**63 - 1, "assumed", "the page says only integer")
SEED_ADVISED_MAX: Final = Fact(2**31 - 1, "assumed", "upstream clients use 32-bit seeds")
USE_REPHRASER_DEFAULT: Final = Fact(True, "page", "off: the prompt is kept word for word, and time is saved")

INPUT_BYTES_ADVISED: Final = Fact(
    4_700_000, "page", "'4.7 MB' in decimal megabytes; corrected copies stay below"
)
INPUT_BYTES_MAX: Final = Fact(
    4_928_307, "page", "'4.7 MB' in binary megabytes; between the two it's a warning"
)
INPUT_SIDE_MAX_PX: Final = Fact(4096, "page")
INPUT_RATIO_ADVISED: Final = Fact((9 / 16, 16 / 9), "page", "more extreme ones may fail")
INPUT_RATIO_TOLERANCE: Final = Fact(0.005, "assumed", "a side is a whole number of pixels: 1366x768 is 16:9")
INPUT_SUBJECTS: Final = Fact(1, "page", "one single subject in the picture is strongly advised")
INPUT_FORMATS: Final = Fact(("JPEG", "PNG"), "page", "JPEG advised")
INPUT_IMAGES: Final = Fact(1, "up", "an array of exactly one item; base64 is bare, without a data: prefix")

_ADVISED: Final = {
    "1:1": (1328, 1328),
    "4:3": (1472, 1104),
    "3:2": (1584, 1056),
    "16:9": (1664, 936),
    "21:9": (2016, 864),
}
# The landscape sizes are from the page; that their transposes work as well is assumed.
SIZES: Final[dict[str, tuple[int, int]]] = _ADVISED | {
    ":".join(reversed(name.split(":"))): (height, width) for name, (width, height) in _ADVISED.items()
}

UPPER_LIMITS: Final = ("max", "max_length", "max_items")


@dataclass(frozen=True, slots=True)
class Scale:
    """A numeric parameter of some models: limits and default (None if unknown; then it is sent only if given)."""

    low: Fact[float | None]
    high: Fact[float | None]
    default: Fact[float | None]
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The rules of one model."""

    name: str
    title: str
    images_max: Fact[int] = INPUT_IMAGES
    subjects_advised: Fact[int] | None = INPUT_SUBJECTS
    prompt_characters_advised: Fact[int] = PROMPT_CHARACTERS_ADVISED
    prompt_characters_of_siblings: Fact[int] = PROMPT_CHARACTERS_OF_SIBLINGS
    side_min_px: Fact[int] = SIDE_MIN_PX
    side_max_px: Fact[int] = SIDE_MAX_PX
    side_default_px: Fact[int] = SIDE_DEFAULT_PX
    product_max_px: Fact[int] = PRODUCT_MAX_PX
    use_rephraser_default: Fact[bool] = USE_REPHRASER_DEFAULT
    ref_types: Fact[tuple[str, ...]] = Fact((), "page")  # roles of reference pictures, the default first
    scales: Mapping[str, Scale] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Mapping[str, Fact[Any]]]:
        """What the service's description of the model should say about each parameter; higher limits are fine."""
        images = {"max_items": self.images_max}
        side = {"min": self.side_min_px, "max": self.side_max_px, "default": self.side_default_px}
        common: dict[str, Mapping[str, Fact[Any]]] = {
            "prompt": {"max_length": self.prompt_characters_of_siblings},
            "image_urls": images,
            "binary_data_base64": images,
            "seed": {"default": SEED_RANDOM, "max": SEED_ADVISED_MAX},
            "use_rephraser": {"default": self.use_rephraser_default},
            "width": side,
            "height": side,
        }
        if self.ref_types.value:
            common[REF_TYPES_PARAMETER.value] = images
        for name, scale in self.scales.items():
            known = {"min": scale.low, "max": scale.high, "default": scale.default}
            common[name] = {word: fact for word, fact in known.items() if fact.value is not None}
        return common


REF_TYPES_PARAMETER: Final = Fact(
    "ref_type_list", "page", "an array as long as the images; not of every model"
)


def _as_sibling(fact: Fact[T], source: str = "sdk") -> Fact[T]:
    return replace(fact, source=source, note=f"as for {MODEL}")


MODELS: Final[dict[str, Model]] = {
    model.name: model
    for model in (
        Model(name=MODEL, title="Spark DreamO"),
        Model(
            name="spark_multi_dreamo",
            title="Spark Multi DreamO",
            images_max=Fact(5, "page", "1 to 5; part of the model's page is cut off in every stored copy"),
            subjects_advised=None,
            prompt_characters_advised=_as_sibling(PROMPT_CHARACTERS_ADVISED),
            prompt_characters_of_siblings=_as_sibling(PROMPT_CHARACTERS_OF_SIBLINGS),
            side_min_px=_as_sibling(SIDE_MIN_PX),
            side_max_px=_as_sibling(SIDE_MAX_PX),
            side_default_px=_as_sibling(SIDE_DEFAULT_PX),
            product_max_px=_as_sibling(PRODUCT_MAX_PX),
            use_rephraser_default=_as_sibling(USE_REPHRASER_DEFAULT, "assumed"),
            ref_types=Fact(
                ("AUTO", "IP", "ID", "STYLE"),
                "page",
                "AUTO (default, slower), IP: subject, ID: face, STYLE: style",
            ),
            scales={
                "guidance_scale1": Scale(
                    Fact(1.0, "page"),
                    Fact(7.0, "page"),
                    Fact(2.5, "page"),
                    "higher: closer to the text, further from the pictures",
                ),
                "guidance_scale2": Scale(
                    Fact(None, "page", "unknown"),
                    Fact(None, "page", "unknown"),
                    Fact(None, "page", "unknown: sent only if given"),
                    "the same idea toward the pictures",
                ),
            },
        ),
    )
}

# The numbers that only some models take.
SCALES: Final = tuple(dict.fromkeys(name for model in MODELS.values() for name in model.scales))


def _by_word(**words: tuple[str, ...]) -> dict[str, str]:
    return {word: state for state, listed in words.items() for word in listed}


# Words for each state (page, cli, sdk, family), in lower case, with _ for spaces and hyphens.
STATUS_WORDS: Final = _by_word(
    in_progress=("in_progress", "pending", "queued", "in_queue", "processing"),
    completed=("completed", "done", "succeeded", "success"),
    failed=("failed", "error", "cancelled", "canceled"),
)
# Used elsewhere (assumed); a picture outweighs one that means failed. For any other word, the output and
# the error decide.
STATUS_WORDS_ELSEWHERE: Final = _by_word(
    in_progress=(
        *("submitted", "created", "accepted", "waiting"),
        *("starting", "started", "running", "generating"),
    ),
    completed=("complete", "succeed", "successful", "finished"),
    failed=("fail", "failure", "expired", "aborted", "rejected", "timeout", "timed_out"),
)


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One error code of the model; code and meaning are from the page."""

    code: str
    meaning: str
    error_class: str  # the word used in the results; assumed
    is_unbilled: bool  # nothing was generated; assumed
    advice: str


ERROR_CODE_DIGITS: Final = 9

_ERROR_CODES: Final = (
    ErrorCode("003011001", "Missing prompt", "rejected", True, "Fix the row."),
    ErrorCode("003011002", "Missing image", "rejected", True, "Fix the row."),
    ErrorCode("003011003", "Invalid prompt length", "rejected", True, "Shorten the prompt."),
    ErrorCode("003011004", "Invalid parameter", "rejected", True, "Fix the row."),
    ErrorCode("003011095", "Internal generation error", "generation_error", True, "Retry a few times."),
    ErrorCode(
        "003011096", "Result parsing error", "result_error", False, "Retry on request: it may be billed."
    ),
    ErrorCode(
        "003011097",
        "HTTP error response",
        "upstream_error",
        True,
        "Retry: its text gives no status, so it may pass.",
    ),
    ErrorCode(
        "003011098", "Status check error", "status_error", False, "Retry on request: it may be billed."
    ),
    ErrorCode("003011099", "Task creation error", "creation_error", True, "Retry: nothing was generated."),
)
ERROR_CODES: Final = {row.code: row for row in _ERROR_CODES}

# Upstream's codes of moderation, and words; only ever in the text of 095, 097 and 099 (up, sdk).
_UPSTREAM_MODERATION: Final = (50411, 50412, 50413, 50511, 50512, 50518, 50519, 50520, 50521, 50522)
MODERATION_WORDS: Final = (
    *("risk not pass", "sensitive", "copyright", "moderation", "inappropriate", "nsfw", "content policy"),
    *("敏感", "违规", "違規", "审核", "審核", "版权", "版權", "侵权", "侵權"),
    *map(str, _UPSTREAM_MODERATION),
)
MODERATION_CODES: Final = Fact(("000110001",), "sdk", "'input image may contain sensitive information'")

UNKNOWN_TASK: Final = "d0000000000000000000"  # looks like an id of the service; assumed to be nobody's

# What only the words of a message say, as regular expressions; a task's id in them is assumed.
TASK_IN_WORDS: Final = r"\b(?:task|generation)[^.\n]{0,40}?[^\w-]((?=[a-z_-]*\d)[\w-]{8,})(?![\w-])"
TASK_MISSING_WORDS: Final = r"\btask\b.{0,80}\bnot (found|exist)"  # with any 4xx, not only 404 (sdk)
HTTP_STATUS_IN_WORDS: Final = r"(?<![0-9.])[45][0-9]{2}(?![0-9.]*[0-9])"  # of 097; the first one counts (up)
OUTPUT_REJECTED_IN_WORDS: Final = r"(?<![0-9])0*505(11|19)(?![0-9])"  # another seed may pass (up)
UPSTREAM_BUSY_IN_WORDS: Final = r"(?<![0-9])504(29|30)(?![0-9])"  # too many requests (up)
RATE_LIMIT_CODES: Final = (
    r"429|504(29|30)|too ?many ?requests.*|.*(rate|request) ?limit.*|throttl.*|.*overload.*"
)
# HTTP statuses, or their names, as codes: the service failed or gave up waiting, whatever became of it (assumed).
UNCLEAR_CODES: Final = (
    r"408|425|499|5[0-9]{2}|5050[01]|((request|gateway|upstream|server|service) )?time(d )?out|deadline exceeded"
    r"|bad gateway|(service |server )?(temporarily )?unavailable|internal( server)?( error)?|(server|unknown) error"
)
# At any HTTP status (cli); the words of services elsewhere are assumed, here and above.
NO_CREDIT_WORDS: Final = (  # of a text with one blank between its words, those of "InsufficientBalance" too
    r"((insufficient|not ?enough) ?([a-z]+ )?|(no|out ?of) ?((more|remaining|account|available) )?)"
    r"(balance|credits?(?! card)|quota|funds)(?![a-z])"
    r"|(balance|credits?|quota|funds)\W+((is|are|was|were|has been|have been|have|has)\b)?\W*"
    r"(insufficient|not enough|too low|exhausted|used up|depleted|run out|negative)"
    r"|(n['\u2019]t|not) have (enough|sufficient) (available |remaining )?(balance|credits?|quota|funds)"
    r"|(billing|spend(ing)?|credit) (hard |soft )?limit|payment (method )?required|top up your|recharge your"
    r"|(negative|exhausted) balance|(no|add a|missing|valid|update your) payment method|resource pack depleted"
    r"|exceeded your current quota|arrears|arrearage|overdue (payment|balance|bill)|account overdue|unpaid invoice"
    r"|\b(free (tier|plan|quota)|trial)\W+((is|was|has) )?(been )?(expired|exhausted|used up)|trial is over"
    r"|([余餘][额額]|[额額]度|[积積]分|[点點][数數]|[资資]源包).{0,4}(不足|不[够夠]|用完|[用耗][尽盡])|欠[费費]|[请請].{0,3}[充儲]值"
)
# The key, the account or the model is refused, whatever the HTTP status (assumed).
ACCESS_REFUSED_WORDS: Final = (
    r"(invalid|incorrect|missing|expired) ?api ?key|api ?key.{0,10}(not ?valid|invalid|incorrect|expired)"
    r"|\baccount\b.{0,10}(suspended|deactivated|disabled|banned)|(密[钥鑰]|[账賬帳][户戶号號]).{0,4}([无無]效|[错錯][误誤]|[过過]期|[冻凍][结結]|停用|封禁)"
)
ACCESS_REFUSED_CODES: Final = r"auth(entication|orization)? ?(error|failed)|un(authori[sz]ed|authenticated)"
NOT_OFFERED_CODES: Final = r"(model|app) ?not ?(found|exists?|supported|available)|(invalid|unknown) ?model"
# What web servers say to plain HTTP at a port for HTTPS, with HTTP 400.
NEEDS_HTTPS_WORDS: Final = (
    r"\bhttp request (was sent )?to (an )?https"  # nginx and load balancers built on it; Go, so also Caddy and Traefik
    r"|plain http to an ssl"  # Apache
    r"|host and port requires tls"  # Tomcat
    r"|plain http request, but this server only speaks https"  # CherryPy
)

OUTPUT_FORMATS: Final = Fact(("JPEG", "PNG", "WEBP"), "sdk", "files are re-hosted: check the bytes")
LINK_LIFE_S: Final = Fact(24 * 3600, "up", "of upstream links")
TASK_LIFE_S: Final = Fact(12 * 3600, "up", "after that the id is unknown")
COST_MAX_USD: Final = Fact(1000, "assumed", "of one picture, which costs cents; more is no amount in USD")
POLL_EVERY_S: Final = Fact(5.0, "cli", "what the vendor's own client does")
NO_CREDIT_CODES: Final = Fact(range(40201, 40209), "sdk", "out of credit, at any HTTP status")
# 425 is only for early data, which is never sent; a proxy reports 499 where it gave up a request that it had passed on.
UNCLEAR_STATUSES: Final = Fact((408, 425, 499), "assumed", "of a create: it may have arrived")
STOP_STATUSES: Final = Fact((401, 402, 403), "sdk", "key; credit; balance or permission")
